"""One task run on one model: options, data and model in, results out."""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from seer import __version__
from seer.config import incidental, layer, parse_overrides, significant
from seer.data.folders import readable
from seer.data.labelled import ImageSet
from seer.eval import outcomes, pixels
from seer.eval.probes.feature_cache import weights_hash
from seer.eval.probes.together import number, together
from seer.eval.protocols import is_file
from seer.eval.scores import Score
from seer.eval.tasks import TASKS, check_request
from seer.interop.models import Model, load_model, sized
from seer.jsonl import Row
from seer.processes import spawn
from seer.results import append_results, check_results
from seer.rundir.names import RESULTS


def evaluate(
    task: str,
    model_spec: str,
    data: Path | str,
    overrides: list[str],
    out: Path | str | None = None,
    nproc: int = 1,
) -> list[dict[str, Any]]:
    """Run one task and append its results.

    Args:
        model_spec: as `seer.eval.pixels.load` takes it.
        data: as `seer.eval.data.splitting.load` takes it.
        overrides: options of the task as `key=value`.
        out: results file; by default the run's own, or ./results.jsonl for a model that has no run. What a training
            scores stands in its own directory besides.
        nproc: processes on this host, which train together, or compute features and neighbours together.

    Raises:
        InputError: in one line, what is wrong with any of these.
    """
    check_request(task, model_spec, data, overrides, out, nproc)
    if nproc > 1 and not TASKS[task].trained:
        device = TASKS[task].resolve(parse_overrides(overrides)).device
        words = (task, model_spec, data, overrides, out)
        return spawn(_measure_together, nproc, os.getcwd(), words, device=device)[0]
    began = time.perf_counter()
    measure = _train if TASKS[task].trained else _probe
    model, config, scores, data_splits = measure(task, model_spec, data, overrides, out, nproc)
    rows = rows_of(task, data, model, config, scores, data_splits, time.perf_counter() - began)
    if rows:  # of a training, on its main process
        for place in _places(task, config, model, out):
            append_results(place, rows)
            for row, score in zip(rows, scores, strict=True):
                outcomes.keep(place, row, score.outcomes)
    return rows


def _places(task: str, config: Any, model: Model, out: Path | str | None) -> list[Path]:
    """The files that results go to: the model's or `out`, and that of the training itself."""
    places = [Path(results_of(model, out))]
    if TASKS[task].trained:
        own = Path(config.run_dir) / RESULTS
        places += [own] if own.absolute() != places[0].absolute() else []
    return places


def rows_of(
    task: str,
    data: Path | str,
    model: Model,
    config: Any,
    scores: Sequence[Score],
    splits: Sequence[ImageSet],
    seconds: float,
) -> list[Row]:
    """What a task measured, as rows of a results file.

    Args:
        splits: the training and test images; none on processes that only help.
    """
    options = kept_options(task, data, config)
    common: dict[str, Any] = {
        "seer": __version__,
        "task": task,
        "data": readable(str(data)),
        "model": model.label,
        "config_hash": model.config_hash,
        "weights": weights_hash(model.backbone),
    }
    # Dense tasks may see each image at its own size.
    side = config.test_size if hasattr(config, "test_size") else config.size or model.size
    if side:
        common["pixels"] = side
    if config.protocol:  # a file of one's own by its path: it may be called as a paper's
        common["protocol"] = readable(config.protocol)
    if splits and splits[0].dataset and _is_protocols_own(task, config, splits[0]):
        common["dataset"] = splits[0].dataset
    rows = []
    compared: dict[int, Row] = {}  # by the test images, which most scores share
    for score in scores:
        values = asdict(replace(score, outcomes={}, test=None))
        del values["outcomes"], values["test"]
        if splits:
            train = splits[0]
            test = score.test or splits[1]
            if id(test) not in compared:
                compared[id(test)] = {
                    "comparable": outcomes.comparability(task, options, train, test),
                    "images": outcomes.images_key(train, test),
                }
            values |= compared[id(test)]
        protocol = f" ({common['protocol']})" if "protocol" in common else ""
        values["title"] = f"{TASKS[task].title} {score.title}{protocol}"
        rows.append({**common, **values, "seconds": round(seconds, 2), "options": options})
    return rows


def _is_protocols_own(task: str, config: Any, train: Any) -> bool:
    """Whether no option that a result depends on is another than the protocol's, so that published
    values may stand beside it.
    """
    if is_file(config.protocol):
        return False
    layers = [parse_overrides([f"protocol={config.protocol}"] if config.protocol else [])]
    if not TASKS[task].trained:
        free = incidental(type(config))
        own = TASKS[task].resolve(*layers)
        return significant(asdict(own), free) == significant(asdict(config), free)
    layers.append(layer({"model": config.model, "data": config.data}))
    if hasattr(config, "percent"):
        layers.append(layer({"percent": config.percent}))
    own = TASKS[task].resolve(*layers)
    if not getattr(own, "grid", None):
        used = config.rows(train) if hasattr(config, "rows") else train
        steps = math.ceil(own.epochs * len(used) / own.batch_size)
        own = replace(own, steps=own.steps or steps)
    # The last two are by the model, and by which images are labelled.
    free = incidental(type(config)) | config.searched() | {"weights", "chosen"}
    return significant(asdict(own), free) == significant(asdict(config), free)


def _measure_together(folder: str, words: tuple[Any, ...]) -> list[dict[str, Any]]:
    """What `evaluate` does, as one of several processes that began in a folder."""
    os.chdir(folder)
    with together():
        return evaluate(*words)


def kept_options(task: str, data: Path | str, config: Any) -> Row:
    """The options that a result depends on, and how the data were split where that is not simply
    their owner's train and test.
    """
    decided = config.searched() if TASKS[task].trained else set()  # elsewhere: see `details`
    options = significant(asdict(config), incidental(type(config)) | decided)
    rule = TASKS[task].splitting().rule_of(data)
    return {**options, "split": rule} if rule else options


def _probe(
    task: str,
    model_spec: str,
    data: Path | str,
    overrides: list[str],
    out: Path | str | None,
    nproc: int,
) -> tuple[Model, Any, list[Score], Sequence[ImageSet]]:
    """Measure a frozen model on training and test images."""
    config = TASKS[task].resolve(parse_overrides(overrides))
    train, test = TASKS[task].splitting().train_and_test(data, TASKS[task].several)
    model = pixels.load(model_spec, train)
    check_results(results_of(model, out))
    model = sized(model, config.size)
    scores = TASKS[task].load().run(model, train, test, config)
    return model, config, [] if number() else scores, (train, test)


def _train(
    task: str,
    model_spec: str,
    data: Path | str,
    overrides: list[str],
    out: Path | str | None,
    nproc: int,
) -> tuple[Model, Any, list[Score], Sequence[ImageSet]]:
    """Train a model, in processes of this host or as one of a world's, and measure it."""
    module = TASKS[task].load()
    config = module.configure(task, model_spec, str(data), overrides)
    model = load_model(model_spec)
    check_results(results_of(model, out))
    if nproc == 1:
        scores = module.run(config)
    else:
        scores = spawn(module.run, nproc, config, device=config.device)[0]
    splits = TASKS[task].splitting().train_and_test(data) if scores else ()
    return model, config, scores, splits


def results_of(model: Model, out: Path | str | None) -> Path | str:
    """Where a model's results go, unless `out` says it."""
    return out or (model.run_dir or Path()) / RESULTS
