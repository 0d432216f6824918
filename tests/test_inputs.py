import os

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from seer.inputs import (
    UnreadableError,
    check_yaml,
    inside,
    parse_yaml,
    read_bytes,
    read_json,
    read_rows,
    read_yaml,
)
from seer.schema import Integer, MismatchError, Plain, Record

ROW = Record({"step": Integer(1)})


def test_json_and_its_damage(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"step": 3, "more": [1.5, null]}')
    assert read_json(path, ROW) == {"step": 3, "more": [1.5, None]}
    for content in (
        b"",
        b"{",
        b"[]",
        b'{"step": 0}',
        b"\xff",
        b"[" * 100_000,
        b'{"step": 1' + b"0" * 5000 + b"}",
    ):
        path.write_bytes(content)
        with pytest.raises(UnreadableError) as error:
            read_json(path, ROW)
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "missing", ROW)


def test_rows_end_at_a_torn_line_and_other_damage_is_told_with_its_line(tmp_path):
    path = tmp_path / "x.jsonl"
    assert list(read_rows(path, ROW)) == []
    path.write_text('{"step": 1}\n\n{"step": 2}\n{"st')
    assert [row["step"] for row in read_rows(path, ROW)] == [1, 2]
    path.write_text('{"step": 1}\n{"st\n{"step": 2}\n')
    with pytest.raises(UnreadableError, match="line 2: not readable as JSON"):
        list(read_rows(path, ROW))
    path.write_text('{"step": "' + "x" * 2**20 + '"}\n')
    with pytest.raises(UnreadableError, match="line 1: longer than"):
        list(read_rows(path, ROW))


def test_only_regular_files_of_bounded_size_are_read(tmp_path):
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    large.write_bytes(bytes(101))
    for path, why in (
        (pipe, "not a regular file"),
        (tmp_path, "not a regular file"),
        (large, "larger than 100 bytes"),
    ):
        with pytest.raises(UnreadableError, match=why):
            read_bytes(path, 100)


def test_yaml_aliases_are_counted_as_what_they_mean(tmp_path):
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for i in range(1, 12):
        bomb += f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n"
    for text in (
        bomb,
        "a: &a [*a]",
        "a: &a {b: *a}",
        "[" * 1000,
        "a: *missing",
        "- " * 1000,
        ": : :",
        "a: b: c",
        "\t",
    ):
        with pytest.raises(UnreadableError) as error:
            parse_yaml(text, Plain(), "x.yaml")
        assert "\n" not in str(error.value)
    path = tmp_path / "x.yaml"
    path.write_text("base: &b {step: 1}\nother: {<<: *b, more: 2}\n")
    assert read_yaml(path, Plain())["other"] == {"step": 1, "more": 2}


@given(
    st.recursive(
        st.integers(),
        lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text("ab"), below),
    )
)
def test_yaml_counts_the_values_that_it_has(value):
    check_yaml(yaml.safe_dump(value))
    shared = [value] * 3  # the dumper writes an alias for what is the same object
    check_yaml(yaml.safe_dump(shared))


@given(st.binary(max_size=60))
def test_any_text_is_yaml_or_refused(content):
    try:
        check_yaml(content.decode("latin-1"))
    except (MismatchError, yaml.YAMLError):
        return


def test_no_link_leads_out(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "run/link").symlink_to(tmp_path / "secret")
    (tmp_path / "run/real").write_text("x")
    (tmp_path / "run/within").symlink_to("real")
    assert inside(tmp_path / "run", "within").read_text() == "x"
    for name in ("link", "../secret", str(tmp_path / "secret")):
        with pytest.raises(UnreadableError, match="leads out of"):
            inside(tmp_path / "run", name)
