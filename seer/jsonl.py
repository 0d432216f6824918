"""Files of one JSON object per line: how a run's metrics and results are kept."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from seer import files

Row = dict[str, Any]


def append(path: Path, rows: Iterable[Row]) -> None:
    """Add rows at the end, on lines of their own even where a killed writer left half a line."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            text = text if file.read(1) == b"\n" else "\n" + text
        file.write(text.encode())


def read(path: Path) -> list[Row]:
    """All whole rows; torn lines (a killed writer's) are left out, and a missing file has none."""
    return _rows(path.read_bytes()) if path.is_file() else []


def tail(path: Path, size: int) -> list[Row]:
    """The whole rows among the last `size` bytes."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - size))
        return _rows(file.read())


def _rows(text: bytes) -> list[Row]:
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def write(path: Path, rows: Iterable[Row]) -> None:
    """Replace the whole file, in one step."""
    files.write(path, (json.dumps(row) + "\n" for row in rows))
