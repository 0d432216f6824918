"""Files of one JSON object per line: how a run's metrics and results are kept."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
    rows = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def write(path: Path, rows: Iterable[Row]) -> None:
    """Replace the whole file, in one step."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text("".join(json.dumps(row) + "\n" for row in rows))
    beside.replace(path)
