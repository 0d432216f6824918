import pytest

from seer.errors import InputError
from shards.sources import lines
from shards.sources.lines import csv_rows, json_rows, tsv_rows


def write(tmp_path, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    return path


def test_marks_and_line_ends_are_no_content(tmp_path):
    path = write(tmp_path, b'\xef\xbb\xbfa\tb\r\n\r\n\xe9\x9b\xaa\t"c\nd\t e \n')
    assert list(tsv_rows(path)) == [(1, ["a", "b"]), (3, ["雪", '"c']), (4, ["d", " e "])]
    path = write(tmp_path, b'\xef\xbb\xbfa,b\r\n\r\n"x\ny",say "hi" now\n\xc2\x85,"q ""uo"" ted"')
    assert list(csv_rows(path)) == [
        (1, ["a", "b"]),
        (3, ["x\ny", 'say "hi" now']),
        (5, ["\x85", 'q "uo" ted']),
    ]
    path = write(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n\n {"a": NaN, "b": [1e999, -Infinity]}\n')
    assert list(json_rows(path)) == [(1, {"a": 1}), (3, {"a": None, "b": [None, None]})]


@pytest.mark.parametrize(
    ("rows", "content", "message"),
    [
        (tsv_rows, b"a\nb\xe9\n", r"line 2 is no UTF-8 \(.* at its byte 2\)"),
        (tsv_rows, b"a\nb\ncaf\xe9", "line 3 is no UTF-8"),
        (tsv_rows, "a\tb\n".encode("utf-16"), "perhaps UTF-16; convert it: iconv"),
        (csv_rows, "a,b\n".encode("utf-16-be"), "perhaps UTF-16"),
        (json_rows, '{"a": 1}\n'.encode("utf-16-le"), "perhaps UTF-16"),
        (
            csv_rows,
            b'a,b\n1,2\n3,"the sun rises\n5,6\n7,say "hi" now\n',
            r"lines 3 to 5: .*a quote out of place",
        ),
        (csv_rows, b'a,b\n1,2\n3,"unclosed\n5,6\n', r"lines 3 to 4: unexpected end of data"),
        (csv_rows, b'a,b\n1,"x"y\n', r"line 2: ',' expected after '\"'"),
        (csv_rows, b'a,b\n1,"' + b"x,1\n" * 50_000, "field larger than field limit"),
        (json_rows, b'{"a": 1}\n{"a": \n', "line 2 is no JSON object"),
        (json_rows, b'{"a": 1}\n[1]\n', "line 2 is no JSON object"),
        (json_rows, b"[" * 100_000, "line 1 is no JSON object"),
        (
            json_rows,
            b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}",
            "line 1 is nested more than 100 deep",
        ),
        (json_rows, b'{"a": ' + b"9" * 5000 + b"}", "line 1 is no JSON object"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, rows, content, message):
    with pytest.raises(InputError, match=message) as raised:
        list(rows(write(tmp_path, content)))
    assert "\n" not in str(raised.value)


def test_many_lists_side_by_side_are_not_deep(tmp_path):
    (row,) = json_rows(write(tmp_path, b'{"a": [' + b"[]," * 500 + b"1]}"))
    assert len(row[1]["a"]) == 501


def test_a_line_without_end_is_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE", 1000)
    with pytest.raises(InputError, match="line 2 is longer than 1,000 bytes"):
        list(tsv_rows(write(tmp_path, b"a\n" + b"x" * 5000)))
