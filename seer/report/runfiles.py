"""A run directory as the report sees it."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from seer.errors import InputError
from seer.eval.curves import newest_rows
from seer.jsonl import Row
from seer.report.plots import Series
from seer.results import kind, latest
from seer.rundir.kinds import finite
from seer.rundir.names import ATTENTION, COLOUR, CONFUSIONS, CROPS, DETECTIONS, MAPS, NEIGHBOURS
from seer.rundir.rundir import RunDir

YEAR = 365 * 86_400
MOST_PARTS = 8  # of a path that stand for it

T = TypeVar("T")


@dataclass
class RunFiles:
    """A run directory as the report sees it. What is missing is empty; `remarks` say what could not
    be read.
    """

    path: Path
    name: str
    config: dict[str, Any]
    metrics: list[Row]
    results: list[Row]
    environment: dict[str, Any]
    events: list[Row]  # of its health
    scores: list[Row] = field(default_factory=list)  # of its checkpoints
    pictures: dict[str, bytes] = field(default_factory=dict)  # PNGs, by file name
    precision: dict[str, list[float]] = field(default_factory=dict)  # of a detector
    remarks: list[str] = field(default_factory=list)
    _curves: dict[str, Series] = field(default_factory=dict, init=False, repr=False)

    def series(self, key: str) -> Series:
        """The finite values of a metric."""
        if key not in self._curves:
            rows = [row for row in self.metrics if key in row]
            curve = Series(self.name, [row["step"] for row in rows], [row[key] for row in rows])
            self._curves[key] = curve.finite()
        return self._curves[key]

    def last(self, key: str) -> float | None:
        """The newest finite value of a metric."""
        values = self.series(key).y
        return values[-1] if values else None


PICTURES = (CROPS, NEIGHBOURS, ATTENTION, COLOUR, DETECTIONS, CONFUSIONS, MAPS)


def read_run(path: Path | str) -> RunFiles:
    """Read what there is. Raises `InputError` if `path` is no run directory, or nothing of it can
    be read.
    """
    run = RunDir(path).check()
    scores = run.scores()
    # The newest stand for the run where nothing was measured by itself.
    results = latest([*newest_rows(scores), *run.results()])
    files = RunFiles(
        run.path,
        run.path.resolve().name,
        run.config(),
        run.metrics(),
        results,
        run.environment(),
        run.events(),
        scores,
        {name: picture for name in PICTURES if (picture := run.picture(name))},
        run.precision(),
    )
    files.remarks = run.remarks()
    if files.remarks and not (files.config or files.metrics or files.results):
        raise InputError(f"{run.path}: nothing of this run can be read: {files.remarks[0]}")
    return files


def role(run: RunFiles, row: Row) -> str:
    """`kind` of a result in a run; what a training for a score's sake scored itself is `pretrained`,
    whatever it began with.
    """
    is_own = is_training(run) and row.get("weights") == at(run.config, "weights")
    return "pretrained" if is_own else kind(row)


def is_training(run: RunFiles) -> bool:
    """Whether it was trained from a model for a score's sake."""
    return bool(at(run.config, "model") and at(run.config, "weights"))


def duration(seconds: float) -> str:
    """`42s`, `7m 05s`, `3h 20m`, `8d 02h`; `–` for what is no duration of a run."""
    if not 0 <= seconds < 1000 * YEAR:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d {whole % 86_400 // 3600:02}h"


def describe_run(run: RunFiles) -> str:
    """Recipe, method, backbone, batch and crops in one line."""
    config = run.config
    recipe = config.get("name", "")
    views = [
        view for view in config.get("views", {}).values() if view.get("count") and view.get("size")
    ]
    start = at(config, "model")  # of a training for a score's sake
    parts = [
        recipe if recipe != run.name else "",
        f"from {Path(start).name}" if isinstance(start, str) and start else "",
        at(config, "method", "name"),
        at(config, "backbone", "name"),
        " + ".join(f"{view['count']}×{view['size']}" for view in views) + " px crops"
        if views
        else "",
        f"batch {config['batch_size']}" if "batch_size" in config else "",
    ]
    return " · ".join(part for part in parts if part)


def progress(run: RunFiles) -> str:
    """How far the run is, unless it is complete."""
    done = int(run.last("step") or 0)
    total = run.config.get("steps", 0)
    return f"step {done:,} of {total:,}" if done < total else ""


def at(values: dict[str, Any], *keys: str) -> Any:
    """A nested value, or "" where it is missing."""
    for key in keys:
        values = values.get(key, "") if isinstance(values, dict) else ""
    return values


def count_at(config: dict[str, Any], *keys: str) -> int | None:
    """A count, where a configuration has one in this place."""
    value = at(config, *keys)
    return value if type(value) is int and 0 < value < 2**53 else None


def number_at(config: dict[str, Any], *keys: str) -> float | None:
    """A number that is not negative, likewise."""
    value = at(config, *keys)
    is_number = type(value) is int or type(value) is float
    return float(value) if is_number and 0 <= value < 1e15 else None


def common(values: Sequence[T]) -> T | None:
    """The value that all share, or None."""
    return values[0] if values and all(value == values[0] for value in values) else None


def tails(paths: Iterable[str]) -> dict[str, str]:
    """For each of some paths the fewest of its last parts that no other one ends with."""
    left = list(dict.fromkeys(paths))
    split = {path: path.rstrip("/").split("/") for path in left}
    names: dict[str, str] = {}
    for length in range(1, MOST_PARTS + 1):
        ends = {path: "/".join(parts[-length:]) for path, parts in split.items()}
        counts = Counter(ends.values())
        names |= {path: ends[path] for path in left if counts[ends[path]] == 1}
        left = [path for path in left if path not in names]
    return names | {path: path for path in left}


def where_time_went(run: RunFiles) -> list[tuple[str, float]]:
    """Shares of the logged time, adding up to 1."""
    spent = {
        "training steps": 0.0,
        "waiting for data": 0.0,
        "augmenting, checkpoints, the rest": 0.0,
    }
    before = 0.0
    for row in run.metrics:
        seconds = finite(row.get("seconds"))
        if not seconds:
            continue
        window = max(0.0, seconds - before)
        before = seconds
        waited = finite(row.get("data_wait"))
        busy = finite(row.get("time_step"))
        spent["training steps"] += window * busy
        spent["waiting for data"] += window * waited
        spent["augmenting, checkpoints, the rest"] += window * max(0.0, 1 - busy - waited)
    total = sum(spent.values())
    return (
        [(name, seconds / total) for name, seconds in spent.items()] if 0 < total < math.inf else []
    )
