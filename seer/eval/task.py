"""One task run on one model: options, data and model in, results out."""

import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from seer.config import parse_overrides, resolve
from seer.data.folders import readable
from seer.data.labelled import splits
from seer.errors import InputError, nearest
from seer.eval import pixels
from seer.eval.tasks import TASKS
from seer.interop.models import Model
from seer.interop.weights import reason
from seer.results import append_results, check_results
from seer.rundir.names import RESULTS


def evaluate(
    task: str, model_spec: str, data: Path | str, overrides: list[str], out: Path | str | None = None
) -> list[dict[str, Any]]:
    """Run one task and append its results.

    Args:
        model_spec: as `seer.eval.pixels.load` takes it.
        data: a folder with `train/` and `test/` (or `val/`), each of class folders or labelled shards.
        overrides: options of the task as `key=value`.
        out: results file; by default the run's own, or ./results.jsonl for a model that has no run.

    Raises:
        InputError: in one line, what is wrong with any of these.
    """
    if task not in TASKS:
        raise InputError(f"task '{task}' is unknown{nearest(task, TASKS)}")
    config = resolve(TASKS[task].config, [parse_overrides(overrides)])
    if out:
        check_results(out)
    train, test = splits(data)
    model = pixels.load(model_spec, train)
    out = out or (model.run_dir or Path()) / RESULTS
    check_results(out)
    model = sized(model, config.size)
    began = time.perf_counter()
    scores = TASKS[task].run(model, train, test, config)
    seconds = round(time.perf_counter() - began, 2)
    common = {"task": task, "data": readable(str(data)), "model": model.label, "config_hash": model.config_hash}
    options = {key: value for key, value in asdict(config).items() if key not in incidental(config)}
    rows = [{**common, **asdict(score), "seconds": seconds, "options": options} for score in scores]
    for row in rows:
        row["title"] = f"{TASKS[task].title} {row['title']}"
    append_results(out, rows)
    return rows


def incidental(config: Any) -> set[str]:
    """The options that are no part of a result: where and how fast it was measured, what else was written."""
    return {declared.name for declared in fields(config) if declared.metadata.get("incidental")}


def sized(model: Model, size: int) -> Model:
    """The model with another side of its images in pixels, if that is not 0. Raises `InputError` if it takes none."""
    if size < 0:
        raise InputError(f"size={size}: give pixels, or 0 for the model's own {model.size}")
    if size in (0, model.size):
        return model
    try:
        with torch.inference_mode():
            model.backbone(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError) as error:  # what networks raise that are made for one size
        raise InputError(f"size={size}: {model.label} takes no images of that size ({reason(error)})") from None
    return replace(model, size=size)
