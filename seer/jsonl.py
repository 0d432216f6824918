"""Files of one JSON object per line: how a run's metrics and results are kept.

What is read here is for going on with what there is: rows that cannot be read are passed over, and
counted for whoever asks. `seer.inputs.read_rows` is for readers to whom every row counts.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from seer import files, inputs
from seer.errors import first_line

Row = dict[str, Any]
Check = Callable[[Any], Row]  # returns a row, or raises ValueError: a kind's `check`, for instance


@dataclass
class Unread:
    """What could not be read of a file: so many of its `lines`, and of the first of these the
    number and the reason.
    """

    name: str
    lines: int = 0
    rows: int = 0
    first: int = 0
    reason: str = ""

    def enter(self, number: int, reason: str) -> None:
        """Count a line that is not readable."""
        self.lines += 1
        self.rows += 1
        if self.rows == 1:
            self.first = number
            self.reason = reason

    def __str__(self) -> str:
        """One line for people; "" if all of it was read."""
        if not self.rows:
            return ""
        are = "is" if self.rows == 1 else "are"
        count = f"{self.rows:,} of {self.lines:,} rows of {self.name} {are} not readable"
        return f"{count}; the first is line {self.first:,} ({self.reason})"


def append(path: Path, rows: Iterable[Row], anywhere: bool = False) -> None:
    """Add rows at the end, on lines of their own even where a killed writer left half a line.

    Args:
        anywhere: also to a device, or through a link: for files that the user names. Else such a thing raises OSError.
    """
    text = "".join(json.dumps(row) + "\n" for row in rows)
    with open(path, "a+b") if anywhere else files.open_own(path, "a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            text = text if file.read(1) == b"\n" else "\n" + text
        file.write(text.encode())


def is_object(value: Any) -> Row:
    """The least that a row is: an object."""
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def read(path: Path, check: Check = is_object, unread: Unread | None = None) -> list[Row]:
    """All rows that `check` takes; what a killed writer left at the end is passed, and a missing
    file has none.

    Raises:
        UnreadableError: a pipe, a folder, or a file that may not be read.
    """
    return list(scan(path, check, unread))


def scan(
    path: Path, check: Check = is_object, unread: Unread | None = None, every: int = 1
) -> Iterator[Row]:
    """The same row by row, or only each `every`th of them and the last."""
    try:
        file = inputs.open_file(path)
    except FileNotFoundError:
        return
    with file:
        yield from _rows(file, check, unread or Unread(path.name), every)


def tail(
    path: Path, size: int, check: Check = is_object, unread: Unread | None = None
) -> list[Row]:
    """The rows that begin within the last `size` bytes."""
    try:
        file = inputs.open_file(path)
    except FileNotFoundError:
        return []
    with file:
        begin = max(0, file.seek(0, 2) - size)
        file.seek(begin)
        if begin:  # the line that began before
            file.readline(size)
        return list(_rows(file, check, unread or Unread(path.name)))


def _rows(file: BinaryIO, check: Check, unread: Unread, every: int = 1) -> Iterator[Row]:
    passed_over: tuple[int, bytes] | None = None
    for number, line in enumerate(_lines(file)):
        if number % every:
            passed_over = (number, line)
            continue
        passed_over = None
        row = _row(line, number + 1, check, unread)
        if row is not None:
            yield row
    if passed_over is not None:  # the last row is always given
        number, line = passed_over
        row = _row(line, number + 1, check, unread)
        if row is not None:
            yield row


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines that are not empty; of one that is too long, its beginning."""
    while line := file.readline(inputs.LONGEST_LINE + 1):
        rest = line
        while len(rest) > inputs.LONGEST_LINE and not rest.endswith(b"\n"):
            rest = file.readline(inputs.LONGEST_LINE + 1)
        if line.strip():
            yield line


def _row(line: bytes, number: int, check: Check, unread: Unread) -> Row | None:
    try:
        row = check(json.loads(line))
    except RecursionError:
        unread.enter(number, "nested too deeply")
    except ValueError as error:
        if not line.endswith(b"\n") and len(line) <= inputs.LONGEST_LINE:
            return None  # half a line of a killed writer
        unread.enter(
            number,
            f"no JSON: {error.msg}"
            if isinstance(error, json.JSONDecodeError)
            else first_line(error),
        )
    else:
        unread.lines += 1
        return row
    return None


def write(path: Path, rows: Iterable[Row]) -> None:
    """Replace the whole file, in one step."""
    files.write(path, (json.dumps(row) + "\n" for row in rows))
