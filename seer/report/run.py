"""A run directory as the report sees it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from seer import jsonl
from seer.errors import InputError
from seer.jsonl import Row
from seer.report.health import read_events
from seer.report.plots import Series
from seer.report.results import latest, read_results


@dataclass
class RunFiles:
    """A run directory as the report sees it. What is missing is empty."""

    path: Path
    name: str
    config: dict[str, Any]
    metrics: list[Row]
    results: list[Row]
    environment: dict[str, Any]
    events: list[Row]  # of its health

    def series(self, key: str) -> Series:
        rows = [row for row in self.metrics if key in row]
        return Series(self.name, [row["step"] for row in rows], [row[key] for row in rows])

    def last(self, key: str) -> float | None:
        """The newest finite value of a metric."""
        values = self.series(key).finite().y
        return values[-1] if values else None


def read_run(path: Path | str) -> RunFiles:
    """Read what there is; `InputError` if `path` is no run directory."""
    path = Path(path)
    if not (path / "config.yaml").is_file() and not (path / "metrics.jsonl").is_file():
        raise InputError(f"{path}: not a run directory, it has neither config.yaml nor metrics.jsonl")
    environment = path / "environment.json"
    return RunFiles(
        path,
        path.resolve().name,
        read_config(path / "config.yaml"),
        [row for row in jsonl.read(path / "metrics.jsonl") if "step" in row],
        latest(read_results(path / "results.jsonl")),
        json.loads(environment.read_text()) if environment.is_file() else {},
        read_events(path),
    )


def read_config(path: Path) -> dict[str, Any]:
    """A run's config.yaml as plain values; {} where it is missing, `InputError` where it is not YAML."""
    try:
        config = yaml.safe_load(path.read_text()) if path.is_file() else {}
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    return config if isinstance(config, dict) else {}


def duration(seconds: float) -> str:
    """`42s`, `7m 05s`, `3h 20m`, `8d 02h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d {whole % 86_400 // 3600:02}h"


def describe_run(run: RunFiles) -> str:
    """Method, backbone, batch and crops in one line."""
    config = run.config
    views = [view for view in (config.get("views") or {}).values() if view.get("count")]
    parts = [
        {"swav": "SwAV", "simclr": "SimCLR", "byol": "BYOL"}.get(name := at(config, "method", "name"), name),
        at(config, "backbone", "name"),
        " + ".join(f"{view['count']}×{view['size']}" for view in views) + " px crops" if views else "",
        f"batch {config['batch_size']}" if "batch_size" in config else "",
    ]
    return " · ".join(part for part in parts if part)


def progress(run: RunFiles) -> str:
    """How far the run is, unless it is complete."""
    done, total = int(run.last("step") or 0), int(run.config.get("steps") or 0)
    return f"step {done:,} of {total:,}" if done < total else ""


def at(values: dict[str, Any], *keys: str) -> Any:
    """A nested value, or "" where it is missing."""
    for key in keys:
        values = values.get(key, "") if isinstance(values, dict) else ""
    return values


def where_time_went(run: RunFiles) -> list[tuple[str, float]]:
    """Shares of the logged time, adding up to 1."""
    spent = {"training steps": 0.0, "waiting for data": 0.0, "augmenting, checkpoints, the rest": 0.0}
    before = 0.0
    for row in run.metrics:
        window = max(0.0, row.get("seconds", 0.0) - before)
        before = row.get("seconds", 0.0)
        waited, busy = row.get("data_wait") or 0.0, row.get("time_step") or 0.0
        spent["training steps"] += window * busy
        spent["waiting for data"] += window * waited
        spent["augmenting, checkpoints, the rest"] += window * max(0.0, 1 - busy - waited)
    total = sum(spent.values())
    return [(name, seconds / total) for name, seconds in spent.items()] if total else []
