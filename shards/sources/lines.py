"""Text files by line, in UTF-8 with or without a byte order mark; what goes wrong is told with its
line's number.
"""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seer.errors import InputError
from seer.inputs import open_data

MAX_LINE = 1 << 24  # bytes; a longer one is none of a list, and would have to be in memory
MAX_DEPTH = 100  # of nested JSON; Python's own limit depends on who calls
REMEDY = "repair it or leave the list out"
BOM = b"\xef\xbb\xbf"
UTF16 = b"\xff\xfe", b"\xfe\xff"


def lines(path: Path, errors: str = "strict") -> Iterator[tuple[int, str]]:
    """`(number, line)` from 1, without what ends the line. `errors` says what becomes of bytes that
    are no UTF-8.

    Raises InputError: a line is no UTF-8 or too long. OSError: the file cannot be read.
    """
    number = 0
    with open_data(path) as file:
        while line := file.readline(MAX_LINE):
            number += 1
            if number == 1:
                _refuse_utf16(path, line)
                line = line.removeprefix(BOM)
            if len(line) == MAX_LINE:
                raise InputError(
                    f"{path} line {number} is longer than {MAX_LINE:,} bytes; {REMEDY}"
                )
            try:
                text = line.decode("utf-8", errors)
            except UnicodeDecodeError as error:
                problem = f"{path} line {number} is no UTF-8 ({error.reason} at its byte {error.start + 1})"
                raise InputError(f"{problem}; {REMEDY}") from None
            yield number, text.removesuffix("\n").removesuffix("\r")


def _refuse_utf16(path: Path, line: bytes) -> None:
    if line.startswith(UTF16) or b"\0" in line:
        raise InputError(
            f"{path} is not UTF-8 but perhaps UTF-16; convert it: iconv -f UTF-16 -t UTF-8 {path.name}"
        )


def tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """`(line, fields)` of tab-separated values, where quotes mean nothing. Raises as `lines`."""
    for number, line in lines(path):
        if line:
            yield number, line.split("\t")


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """`(line, fields)` of comma-separated values (RFC 4180); `line` is where the row begins.

    Raises InputError, also for a quote that is not closed or closed within a field: rows would be
    swallowed by it.
    """
    start = 1
    reader = csv.reader((f"{line}\n" for _, line in lines(path)), strict=True)
    try:
        for row in reader:
            if row:
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        extent = (
            f"line {start}" if reader.line_num == start else f"lines {start} to {reader.line_num}"
        )
        raise InputError(f"{path} {extent}: {error} (a quote out of place?); {REMEDY}") from None


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """`(line, object)` of a JSON object per line; numbers that JSON has not (NaN, infinite) are
    None.

    Raises InputError.
    """
    for number, line in lines(path):
        if line.strip():
            yield number, _json_object(path, number, line)


def _json_object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_constant=lambda name: None, parse_float=_finite)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise InputError(f"{path} line {number} is no JSON object; {REMEDY}")
    if line.count("[") + line.count("{") > MAX_DEPTH and _depth(row) > MAX_DEPTH:
        raise InputError(f"{path} line {number} is nested more than {MAX_DEPTH} deep; {REMEDY}")
    return row


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _depth(value: Any) -> int:
    """How deep lists and objects are nested."""
    depth = 0
    level = [value]
    while level:
        inner = [each for each in level if isinstance(each, list | dict)]
        level = [
            item for each in inner for item in (each.values() if isinstance(each, dict) else each)
        ]
        depth += bool(inner)
    return depth


def printable(text: str) -> str:
    """A text that can be written as UTF-8: halves of surrogate pairs, which JSON may name, become
    escapes.
    """
    return text.encode("utf-8", "backslashreplace").decode()
