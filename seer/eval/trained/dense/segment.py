"""Semantic segmentation: a class for each pixel."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from seer.errors import InputError
from seer.eval.data.colours import Colours, read_colours
from seer.eval.data.imagepairs import DenseImages
from seer.eval.data.maplayouts import VOID
from seer.eval.data.mapped import MappedImages, highest, numbered
from seer.eval.data.maps import train_and_test
from seer.eval.dense.overlaps import Overlaps, overlap_scores, overlaps
from seer.eval.scores import Score
from seer.eval.trained.dense import training
from seer.eval.trained.dense.densetask import Total
from seer.eval.trained.dense.options import SegmentConfig
from seer.eval.trained.dense.training import Recipe

MOST_WORDS = 40  # of a legend
VOID_COLOUR = (255, 255, 255)


class Segmentation:
    """Cross-entropy of classes; a `DenseTask`.

    Args:
        names: of the classes. void: numbers in masks that are none. colours: a table, of masks in colours.
    """

    void: float = VOID

    def __init__(
        self, names: Sequence[str], void: Sequence[int] = (), colours: Colours | None = None
    ):
        self.names = list(names)
        self.channels = len(self.names)
        self.words = f"{self.channels:,} classes"
        self._void = list(void)
        self._colours = colours

    def target(self, images: MappedImages, i: int) -> np.ndarray:
        mask = images.mask(i, self._colours)
        return numbered(mask, self.channels, self._void, images.masks.name(i))

    def mirrored(self, target: np.ndarray) -> np.ndarray:
        return target

    def losses(self, outputs: Tensor, targets: Tensor) -> Total:
        labels = targets.long()
        loss = cross_entropy(outputs, labels, ignore_index=VOID, reduction="sum")
        return Total(loss, (labels != VOID).sum())

    def activated(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(1)

    def unmirrored(self, outputs: Tensor) -> Tensor:
        return outputs

    def decided(self, activated: Tensor) -> np.ndarray:
        return activated.argmax(0).to(torch.int32).cpu().numpy()

    def measured(self, decision: np.ndarray, target: np.ndarray) -> Overlaps:
        return overlaps(target, decision, self.channels)

    def agreement(self, measured: Overlaps) -> float:
        return measured.miou()

    def painted(self, target: np.ndarray) -> np.ndarray:
        return np.concatenate([palette(self.channels), [VOID_COLOUR]]).astype(np.uint8)[target]

    def legend(self) -> list[tuple[str, Sequence[int]]]:
        return list(zip(self.names, palette(self.channels).tolist(), strict=True))[:MOST_WORDS]

    def scores(
        self, measured: Sequence[Overlaps], test: DenseImages, details: dict[str, Any]
    ) -> list[Score]:
        return overlap_scores(measured, self.names, details)


def palette(classes: int) -> np.ndarray:
    """`(classes, 3)` uint8: colours that are far from their neighbours', by the golden angle around the hues."""
    numbers = np.arange(classes)
    hues = numbers * 0.61803398875 % 1.0
    levels = np.array([0.95, 0.6, 0.8])[numbers % 3]
    strengths = np.array([0.75, 0.85, 0.45])[numbers // 3 % 3]
    turns = (hues[:, None] * 6 + np.array([5.0, 3.0, 1.0])) % 6
    ramps = np.clip(np.minimum(turns, 4 - turns), 0, 1)
    return np.rint(255 * levels[:, None] * (1 - strengths[:, None] * ramps)).astype(np.uint8)


def segmentation(config: SegmentConfig, train: MappedImages, test: MappedImages) -> Segmentation:
    """The task of some images. Masks of one's own are all read.

    Raises:
        InputError: a mask cannot be read, or has a number or colour beyond the classes; none has a class.
    """
    if train.numbers is not None:
        if config.colours or config.classes:
            option = "colours" if config.colours else "classes"
            raise InputError(f"{option}=: {config.data} has its owner's classes; leave it out")
        return Segmentation(train.classes)
    colours = read_colours(Path(config.colours)) if config.colours else None
    names = train.classes or (_used(colours, config) if colours else [])
    count = config.classes or len(names)
    last = highest(train, config.void, colours)
    if not count:
        count = last + 1
    task = Segmentation(_names(names, count), config.void, colours)
    for images in (train, test):
        for i in range(len(images)):
            task.target(images, i)
    if count < 2:
        raise InputError(f"{config.data}: all pixels are of one class; a score needs two")
    highest(test, config.void, colours)
    return task


def _used(colours: Colours, config: SegmentConfig) -> list[str]:
    """The names of a table without those at its end that are void."""
    names = list(colours.names)
    while names and len(names) - 1 in config.void:
        names.pop()
    return names


def _names(names: Sequence[str], count: int) -> list[str]:
    """So many names: numbers where there are none."""
    return [*names[:count], *(str(number) for number in range(min(count, len(names)), count))]


SEGMENTATION = Recipe(train_and_test, segmentation)


def configure(task: str, model: str, data: str, overrides: list[str]) -> Any:
    """The configuration of a training. Raises `InputError`: in one line, what is wrong."""
    return training.configure(SEGMENTATION, task, model, data, overrides)


check = training.check


def run(config: SegmentConfig) -> list[Score]:
    """Train, or go on training, and score: mIoU, pixel accuracy, mean accuracy of classes."""
    return training.run(SEGMENTATION, config)
