"""What the verbs print with: on any terminal, into any file that was asked for, or one line before
the work.
"""

import io
import json
import math
import os
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from seer import terminal
from seer.errors import InputError, printable
from seer.terminal import (
    emit,
    finite,
    homes_written_out,
    prepare,
)
from tests.report.conftest import write_run

ROOT = str(Path(terminal.__file__).parent.parent)


@given(st.text(st.characters()))
def test_what_is_shown_is_one_printable_line_and_plain_text_is_as_it_was(text):
    assert printable(text).isprintable()
    assert printable(text) == text or not text.isprintable()


def test_escapes_name_what_stood_there():
    assert printable("a\x1b[2J\n\u202e") == "a\\x1b[2J\\x0a\\u202e"
    assert printable(os.fsdecode(b"caf\xe9.jpg")) == "caf\\xe9.jpg"


@given(st.text(st.characters()))
def test_every_text_reaches_an_ascii_stream(text):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", errors="seer.spell")
    stream.write(text)
    stream.flush()


def test_signs_of_ours_are_spelt_in_ascii(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    prepare()
    print("2 × 3 – 4 · → ▁█ é", flush=True)
    assert stream.buffer.getvalue() == b"2 x 3 - 4 - -> _# \\xe9\n"  # type: ignore[attr-defined]


def test_json_knows_no_nan(capsys):
    emit({"a": math.nan, "b": [math.inf, 1.5], "c": Path("x"), "d": {1: True}}, "-")
    assert json.loads(capsys.readouterr().out) == {
        "a": None,
        "b": [None, 1.5],
        "c": "x",
        "d": {"1": True},
    }


def seer(*words: str, stdout=subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "seer", *words]
    env = {**os.environ, "PYTHONPATH": ROOT, **environment}
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, env=env, check=False)


def test_a_terminal_of_ascii_a_full_disk_and_a_closed_pipe(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    run = write_run(tmp_path / name, steps=50)
    ascii_only = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = seer("watch", str(run), "--once", **ascii_only)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"caf\\xe9" in done.stdout
    assert done.stdout.isascii()
    with open("/dev/full", "w") as full:
        done = seer("watch", str(run), "--once", stdout=full)
    assert done.returncode == 2
    assert done.stderr == b"seer: stdout, or a file, cannot be written (No space left on device)\n"
    reader, writer = os.pipe()
    os.close(reader)
    done = seer("watch", str(run), "--once", stdout=writer)
    os.close(writer)
    assert done.stderr == b""


def test_homes_are_written_out_where_no_shell_did(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    words = shlex.split(
        "eval knn --model=~/run '~/x' ~ --out '~/a b' data=~/x x~ --key=a~/b --x=~ -- --dir=~/y"
    )
    assert homes_written_out(words) == shlex.split(
        "eval knn --model=/home/me/run /home/me/x /home/me --out '/home/me/a b' data=~/x x~ --key=a~/b --x=/home/me "
        "-- --dir=/home/me/y"
    )


@given(words=st.lists(st.text()))
def test_other_words_stay(words):
    others = [word for word in words if "~" not in word]
    assert homes_written_out(others) == others


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_no_option_is_nan(wrong):
    assert finite(2.5) == 2.5
    assert finite(None) is None
    with pytest.raises(typer.BadParameter, match="not a finite number"):
        finite(wrong)


def test_an_input_error_is_printable_wherever_it_is_raised():
    error = InputError("unknown backbone 'a\x1b[2J\u202e\U00018cd6'")
    assert str(error) == "unknown backbone 'a\\x1b[2J\\u202e\\U00018cd6'"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(InputError(error)) == str(error)
