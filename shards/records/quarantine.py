"""What could not be used, and why: one JSON object per line, `{"source", "reason"}`, where known
`"shard"`, and for what was downloaded `"attempts"`."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from seer import files
from seer.inputs import read_rows
from seer.schema import FileName, Integer, Record, Text

QUARANTINE = "quarantine.jsonl"
CONTAMINATION = "contamination.jsonl"
Entry = dict[str, Any]
ENTRY = Record(
    {"source": Text(2**20), "reason": Text(2**20)},
    {"shard": FileName(".tar"), "attempts": Integer(0)},
)
IN_EVALUATION_SET = Record({"dataset": Text(2**20)})


def text(name: bytes) -> str:
    """A file name as valid Unicode; bytes that are none become escapes."""
    return name.decode("utf-8", "backslashreplace")


def entry(source: str, reason: str) -> Entry:
    """An entry for `source`, a path as the operating system gave it."""
    return {"source": text(os.fsencode(source)), "reason": reason}


def read(folder: Path) -> list[Entry]:
    """The entries of a folder of shards; none when it has no such file. Raises InputError that
    names a wrong line.
    """
    return list(read_rows(folder / QUARANTINE, ENTRY))


def read_contamination(folder: Path) -> list[Entry]:
    """What was left out because an evaluation set has it; likewise."""
    return list(read_rows(folder / CONTAMINATION, IN_EVALUATION_SET))


def write(folder: Path, entries: Iterable[Mapping], name: str = QUARANTINE) -> None:
    """Replace the entries of a folder of shards; no file is left where there are none."""
    lines = (json.dumps(entry) + "\n" for entry in entries)
    if (first := next(lines, None)) is not None:
        files.write(folder / name, chain([first], lines))
    else:
        (folder / name).unlink(missing_ok=True)


def tally(entries: Iterable[Entry]) -> dict[str, int]:
    """How often each kind of reason occurs; `"too many pixels (60000x60000)"` is of the kind `"too
    many pixels"`.
    """
    return dict(sorted(Counter(entry["reason"].split(" (")[0] for entry in entries).items()))


def counts(counter: Mapping[str, int], most: int = 3) -> str:
    """`"5 truncated, 2 empty file"`, the most frequent first."""
    ranked = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {name}" for name, count in ranked[:most]) + (
        ", …" if len(ranked) > most else ""
    )
