"""A detector that is to be planned, by the words of the command line; imports no torch."""

import math
import os
from dataclasses import replace
from pathlib import Path

from seer import config as configuration
from seer.engine.options import check_batch, check_parallel
from seer.engine.schedule import effective, value
from seer.errors import InputError
from seer.eval.tasks import TASKS
from seer.eval.trained.detection.options import DetectConfig
from seer.schema import check_options

TASK = "detect"
CLASSES = 80  # COCO's; data that are there may have others
HERE = "."  # what `data` is where none are given


def is_detector(recipe: str) -> bool:
    """Whether a recipe is `detect`, with seer's own options, or `detect_NAME`, those of a protocol."""
    return recipe == TASK or (recipe.startswith(f"{TASK}_") and not os.path.exists(recipe))


def load_detector(recipe: str, overrides: list[str]) -> DetectConfig:
    """The options of a training as `seer eval detect` has them, masks learned where they can be.

    Raises:
        InputError: no such protocol; a key or value is wrong; there is no model.
    """
    given = configuration.parse_overrides([f"data={HERE}", *overrides])
    name = recipe.removeprefix(TASK).removeprefix("_")
    if name and "protocol" in given:
        raise InputError(f"protocol=: {recipe} is one; take {TASK} with protocol=NAME")
    if "model" not in given:
        raise InputError("model=: give the backbone, for instance model=regnety_128gf")
    layers = [configuration.layer({"protocol": name})] if name else []
    config: DetectConfig = TASKS[TASK].resolve(*layers, given)
    check_options(config)
    can = config.neck != "c4" and config.head != "fcos"
    masks = config.masks if config.masks != "auto" else ("yes" if can else "no")
    return replace(config, masks=masks, name=recipe)


def check_detector(config: DetectConfig, ranks: int) -> None:
    """Raise `InputError` for what `ranks` processes cannot do."""
    check_batch(config, ranks)
    check_parallel(config.parallel, ranks)
    value(effective(config.schedule, config.batch_size, max(config.steps, 1)), 0, config.steps or 1)


def foreseen_detector(config: DetectConfig) -> DetectConfig:
    """The same with its steps. Raises `InputError` where they depend on data that are not there."""
    if config.steps:
        return config
    if config.data == HERE or not Path(config.data).exists():
        raise InputError(
            f"epochs={config.epochs:g}: how many steps they are depends on the images; give data= or steps="
        )
    from seer.eval.data.boxes import train_and_test  # slow to import

    train, _ = train_and_test(config.data)
    images = len(train) if config.negatives else len(train.with_objects())
    return replace(config, steps=math.ceil(config.epochs * images / config.batch_size))
