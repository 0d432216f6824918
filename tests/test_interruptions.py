"""Interrupted runs at a terminal, and the beginning of the command.

`SEER_MOMENTS` interrupts as many runs in each way.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from seer import forkserver, start
from seer.engine.preempt import SIGNALS, StopRequest
from seer.terminal import Outlasting, outlast_terminal, say
from tests.kit.interruptions import WAYS, Terminal, try_recipe

MOMENTS = int(os.environ.get("SEER_MOMENTS", 1))


def interrupt_runs(recipe: str, shards: Path, out: Path, said: Path) -> None:
    """In a process that was forked from the server, which blocks what runs are asked by."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, forkserver.SHIELDED)
    said.write_text(json.dumps(try_recipe(recipe, str(shards), out, MOMENTS, seed=1)))


@pytest.mark.slow
def test_a_run_is_interrupted_in_each_way_and_comes_to_the_same(tiny, shards, tmp_path):
    said = tmp_path / "outcomes.json"
    process = forkserver.start(forkserver.TRAINING).Process(
        target=interrupt_runs, args=(tiny, shards, tmp_path / "runs", said)
    )
    process.start()
    process.join()
    assert process.exitcode == 0  # the traceback is on stderr
    outcomes = json.loads(said.read_text())
    assert outcomes.keys() == WAYS.keys()
    assert [ends["saved"] for ends in outcomes.values()] == [MOMENTS] * len(WAYS)


def training(then: Callable[[], object]) -> None:
    """What answers signals as a run does: it says that it begins, what it is asked by, and goes on."""
    for number in SIGNALS:  # pytest has handlers of its own
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
    with StopRequest() as asked:
        print("begun", flush=True)
        while not asked.by:
            time.sleep(0.01)
        print("asked by", asked.by, flush=True)
        then()


def at_terminal(function: Callable[[], object]) -> Terminal:
    terminal = Terminal(function)
    assert terminal.shows(b"begun")
    return terminal


def wait_in_c() -> None:
    """A wait that Python does not come back from, as that for a peer which is gone."""
    libc = ctypes.CDLL(None)
    libc.pause()
    libc.sleep(60)


def test_the_first_interrupt_asks_and_the_second_ends():
    terminal = at_terminal(lambda: training(wait_in_c))
    os.write(terminal.screen, b"\x03")
    assert terminal.shows(b"asked by SIGINT")
    assert terminal.shows(b"Ctrl-C again ends at once")
    os.write(terminal.screen, b"\x03")
    assert terminal.wait(30) == start.INTERRUPTED
    terminal.close()


def test_a_run_outlives_its_terminal(tmp_path):
    def say_on() -> None:
        say("on")
        (tmp_path / "alive").touch()

    def outlast() -> None:
        outlast_terminal()
        training(say_on)

    terminal = at_terminal(outlast)
    terminal.close()
    assert terminal.wait(30) == 0
    assert (tmp_path / "alive").exists()


def test_what_is_ignored_stays_ignored():
    """As under `nohup`, and in the background of a shell script."""

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        training(lambda: None)

    terminal = at_terminal(ignore)
    os.kill(terminal.pid, signal.SIGHUP)
    assert terminal.wait(0.3) is None
    os.kill(terminal.pid, signal.SIGUSR1)
    assert terminal.shows(b"asked by SIGUSR1")
    assert terminal.wait(30) == 0
    terminal.close()


def test_an_interrupted_import_is_one_line(tmp_path):
    slow = "import time\nprint('begun', flush=True)\ntry: time.sleep(60)\nfinally: print('odd')"
    (tmp_path / "slow.py").write_text(slow)
    program = "from seer.start import answer_interrupts; answer_interrupts(); import slow"
    root = Path(start.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": f"{root}:{tmp_path}"}
    terminal = Terminal(lambda: os.execve(sys.executable, ["python", "-c", program], environment))
    assert terminal.shows(b"begun")
    os.write(terminal.screen, b"\x03")
    assert terminal.wait(30) == start.INTERRUPTED
    assert terminal.output.decode().splitlines()[-1].endswith(f"seer: {start.LINE}")
    assert "odd" not in terminal.output.decode()
    terminal.close()


@pytest.mark.parametrize("buffering", [1, -1])
def test_what_is_written_to_a_vanished_reader_is_dropped(buffering):
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", buffering) as stream:
        outlasting = Outlasting(stream)
        print("read", file=outlasting, flush=True)
        assert os.read(reading, 100) == b"read\n"
        os.close(reading)
        for _ in range(3):
            print("dropped", file=outlasting, flush=True)
        assert outlasting.fileno() == writing
