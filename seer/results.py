"""results.jsonl: one measured value a line. The evaluations append to it; the report and the user read it."""

import json
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
    """Add result rows, each with at least `KEYS` and finite numbers, to a file that may not exist yet.

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
        raise InputError(f"{path}: results cannot be written ({error.strerror}); they are: {measured}") from None


def read_results(path: Path | str) -> list[Row]:
    """All results in a file, in the order in which they were measured; none if there is no file.

    Rows that are no results are left out. Raises `UnreadableError` for what is no file.
    """
    return jsonl.read(Path(path), RESULT.check)


def latest(rows: list[Row]) -> list[Row]:
    """Of repeated measurements (same task, data, metric and model) the last, in the order of measurement."""
    newest: dict[tuple[str, ...], Row] = {}
    for row in rows:
        key = (row["task"], row["data"], row["metric"], row["model"])
        newest.pop(key, None)
        newest[key] = row
    return list(newest.values())


def describe(rows: list[Row]) -> list[str]:
    """One line a result, aligned, for a terminal; shares between 0 and 1 as percentages."""
    names = [f"{row['task']} {row['metric']}" for row in rows]
    width = max(map(len, names), default=0)
    return [
        f"{name:{width}}  {percent(row['value'])}  [{percent(row['low'])}, {percent(row['high'])}]  {row['model']}"
        for name, row in zip(names, rows, strict=True)
    ]


def percent(share: float) -> str:
    return f"{100 * share:5.1f} %"
