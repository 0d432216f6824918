"""A run directory written by hand, as training and evaluation would have left it."""

import json
import math
from pathlib import Path

import pytest
from PIL import Image

CONFIG = """
name: small
steps: 100
batch_size: 32
method: {name: swav, prototypes: 64, head: [32, 16]}
backbone: {name: regnety_002}
views: {large: {size: 48, count: 2}, small: {size: 32, count: 4}, off: {size: 16, count: 0}}
optim: {larc: true, weight_decay: 1.0e-06}
init: ''
"""


def metric(step: int, **changes) -> dict:
    row = {
        "step": step,
        "loss": 4 - step / 100,
        "lr": 0.1,
        "samples": 32 * step,
        "epoch": step / 10,
        "seconds": 2.0 * step,
    }
    row |= {
        "images_per_second": 16.0,
        "data_wait": 0.1,
        "time_step": 0.7,
        "prototypes_used": min(64, step),
    }
    return row | {"log_prototypes": math.log(64), "perplexity": 20.0} | changes


def result(model: str, value: float, metric: str = "top1_k20", task: str = "knn") -> dict:
    row = {
        "task": task,
        "data": "here/images",
        "metric": metric,
        "value": value,
        "low": value - 0.05,
        "high": value + 0.05,
    }
    return row | {"model": model, "config_hash": "abc", "seconds": 1.0}


def titled(row: dict) -> dict:
    """A result as tasks write it now."""
    titles = {"top1_k20": "kNN top-1, k = 20", "top1": "Linear top-1"}
    about = {"title": titles[row["metric"]], "unit": "share", "better": "higher", "headline": True}
    return row | about


def write_run(path: Path, steps: int = 100, results: list[dict] | None = None) -> Path:
    (path / "images").mkdir(parents=True)
    (path / "config.yaml").write_text(CONFIG)
    rows = [metric(step) for step in range(1, steps + 1)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if results is None:
        name = path.name
        results = [
            result(f"{name} step-000000100", 0.7),
            result(f"{name} untrained", 0.4),
            result("pixels:48", 0.3),
        ]
        results += [
            result(f"{name} step-000000100", 0.8, "top1", "linear"),
            result(f"{name} untrained", 0.5, "top1", "linear"),
        ]
        results = [titled(row) for row in results]
    (path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in results))
    environment = {
        "time": "2025-03-04T05:06:07+00:00",
        "cores": 2,
        "gpus": [],
        "packages": {"torch": "2.14"},
        "cuda": None,
    }
    (path / "environment.json").write_text(json.dumps(environment))
    for picture in ("crops", "neighbours"):
        Image.new("RGB", (8, 8), "red").save(path / "images" / f"{picture}.png")
    return path


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "small")
