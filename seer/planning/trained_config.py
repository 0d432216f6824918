"""A training on labels that is to be planned, by the words of the command line; imports no torch to read them."""

import math
import os
from dataclasses import replace
from typing import Any

from seer import config as configuration
from seer.engine.schedule import effective, value
from seer.errors import InputError
from seer.eval.tasks import TASKS
from seer.eval.trained.dense.options import NormalsConfig, SegmentConfig
from seer.eval.trained.detection.options import DetectConfig
from seer.eval.trained.domain_options import MmeConfig
from seer.eval.trained.options import FinetuneConfig, TrainedConfig
from seer.schema import check_options

PLANNED: dict[type[TrainedConfig], str] = {
    DetectConfig: "detect",
    SegmentConfig: "segment",
    NormalsConfig: "normals",
    FinetuneConfig: "finetune",
    MmeConfig: "mme",
}
HERE = "."  # what `data` is where none are given


def task_of(recipe: str) -> str:
    """The task whose own options a recipe is (`segment`), or those of a protocol (`segment_NAME`); "" of what
    is none.
    """
    for task in PLANNED.values():
        if recipe == task or (recipe.startswith(f"{task}_") and not os.path.exists(recipe)):
            return task
    return ""


def load_trained(recipe: str, overrides: list[str]) -> TrainedConfig:
    """The options of a training as `seer eval TASK` has them. A detector learns masks where it can.

    Raises:
        InputError: no such protocol; a key or value is wrong; there is no model.
    """
    task = task_of(recipe)
    unnamed = [f"data={HERE}", *([f"target={HERE}"] if task == "mme" else [])]
    given = configuration.parse_overrides([*unnamed, *overrides])
    name = recipe.removeprefix(task).removeprefix("_")
    if name and "protocol" in given:
        raise InputError(f"protocol=: {recipe} is one; take {task} with protocol=NAME")
    if "model" not in given:
        raise InputError("model=: give the backbone, for instance model=regnety_128gf")
    layers = [configuration.layer({"protocol": name})] if name else []
    config: TrainedConfig = TASKS[task].resolve(*layers, given)
    check_options(config)
    if isinstance(config, DetectConfig) and config.masks == "auto":
        can = config.neck != "c4" and config.head != "fcos"
        config = replace(config, masks="yes" if can else "no")
    return replace(config, name=recipe)


def check_trained(config: TrainedConfig, ranks: int) -> None:
    """Raise `InputError` for what `ranks` processes cannot do."""
    TASKS[PLANNED[type(config)]].load().check(config, ranks)
    value(effective(config.schedule, config.batch_size, max(config.steps, 1)), 0, config.steps or 1)


def foreseen_trained(config: TrainedConfig, images: int = 0) -> TrainedConfig:
    """The same with its steps, of so many images; 0: as many as its data have. Raises `InputError` where
    they depend on data that are not there.
    """
    if config.steps:
        return config
    images = images or _images_of(config)
    return replace(config, steps=math.ceil(config.epochs * images / config.batch_size))


def _images_of(config: Any) -> int:
    if config.data == HERE:
        raise InputError(
            f"epochs={config.epochs:g}: how many steps they are depends on the images; give data=, steps= or --images"
        )
    train, _ = TASKS[PLANNED[type(config)]].splitting().train_and_test(config.data)
    if isinstance(config, DetectConfig) and not config.negatives:
        return len(train.with_objects())
    return len(train)
