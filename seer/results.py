"""results.jsonl: one measured value a line. The evaluations append to it; the report and the user
read it.
"""

import json
import re
from pathlib import Path

from seer import jsonl, outputs
from seer.errors import InputError
from seer.jsonl import Row
from seer.rundir.kinds import RESULT

KEYS = tuple(RESULT.required)


def check_results(path: Path | str) -> None:
    """Raise `InputError`, before results are measured, unless they can be appended to that file."""
    outputs.check_writable(Path(path), "results file", append=True)


def append_results(path: Path | str, rows: list[Row]) -> None:
    """Add result rows, each with at least `KEYS` and finite numbers, to a file that may not exist
    yet.

    Raises:
        InputError: the file cannot be written; the message holds what was measured.
    """
    for row in rows:
        assert row.keys() >= set(KEYS), f"a result lacks {sorted(set(KEYS) - row.keys())}"
        json.dumps(row, allow_nan=False)  # a NaN is no result, and not JSON
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        jsonl.append(Path(path), rows, anywhere=True)
    except OSError as error:
        measured = "; ".join(" ".join(line.split()) for line in describe(rows))
        raise InputError(
            f"{path}: results cannot be written ({error.strerror}); they are: {measured}"
        ) from None


def read_results(path: Path | str) -> list[Row]:
    """All results in a file, in the order in which they were measured; none if there is no file.

    Rows that are no results are left out. Raises `UnreadableError` for what is no file.
    """
    return jsonl.read(Path(path), RESULT.check)


def latest(rows: list[Row]) -> list[Row]:
    """Of repeated measurements (the same measure and model) the last, in the order of measurement."""
    newest: dict[tuple[str, ...], Row] = {}
    for row in rows:
        key = (*measure_of(row), row["model"])
        newest.pop(key, None)
        newest[key] = row
    return list(newest.values())


def measure_of(row: Row) -> tuple[str, ...]:
    """What a row is a value of, the data last: task, protocol, metric, images and what they are called."""
    protocol = row.get("protocol", "")
    return row["task"], protocol, row["metric"], row.get("images", ""), row["data"]


def kind(row: Row) -> str:
    """`pretrained`, or which baseline a result's model is: `init`, `untrained`, `pixels`."""
    if row["model"].startswith("pixels"):
        return "pixels"
    if row["model"].endswith(" init"):
        return "init"
    return "untrained" if row["model"].endswith(("untrained", ":random")) else "pretrained"


def describe(rows: list[Row]) -> list[str]:
    """One line a result, aligned, for a terminal."""
    names = [f"{row['task']} {row['metric']}" for row in rows]
    width = max(map(len, names), default=0)
    lines = []
    for name, row in zip(names, rows, strict=True):
        value = shown(row, "value")
        low = shown(row, "low")
        high = shown(row, "high")
        interval = f"[{low:>7}, {high:>7}]"
        lines.append(f"{name:{width}}  {value:>7}  {interval}  {row['model']}{at_size(row)}")
    return lines


def at_size(row: Row) -> str:
    """At what size the images were measured, to be said after the model's name; "" where that says it
    itself (`pixels:24`), and of a result that an older seer wrote.
    """
    pixels = row.get("pixels")
    if pixels is None or row["model"].endswith(f":{pixels}"):
        return ""
    return f"  at {pixels} px"


def shown(row: Row, key: str = "value", with_unit: bool = True) -> str:
    """A result's value, or an end of its interval, for people: shares as percentages."""
    if row.get("unit", "share") == "share":
        return f"{100 * row[key]:.1f}" + " %" * with_unit
    return f"{row[key]:.4g}" + f" {row['unit']}" * with_unit


def title_of(row: Row) -> str:
    """What a result is called; of one that an older seer wrote without a title, its task and
    metric.
    """
    if "title" in row:
        return row["title"]
    name, _, variant = row["metric"].partition("_")
    name = re.sub(r"^top(\d+)$", r"top-\1", name)
    variant = re.sub(r"^k(\d+)$", r"k = \1", variant).replace("_", " ")
    return f"{row['task']} {name}" + (f", {variant}" if variant else "")
