"""What can be said of trainings on labelled images; apart from what they do, which needs torch."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from seer.data.labelled import Labelled
from seer.data.options import LoaderConfig
from seer.engine.options import OptimConfig, RunConfig
from seer.engine.schedule import ScheduleConfig, peak_for
from seer.errors import InputError
from seer.schema import (
    AREAS,
    PROTOCOL,
    SHARE,
    Choice,
    Flag,
    Integer,
    ListOf,
    Location,
    MapOf,
    MismatchError,
    Number,
    Plain,
    Text,
    join,
    option,
    required,
    shown,
)

if TYPE_CHECKING:
    from seer.eval.scores import Score  # imports torch

LARGEST_DECAY = 100.0  # as `optim.weight_decay` may be
SIDE = Integer(0, 4096)
VALUES = ListOf(Plain(4), 1000, 1)


class Grid:
    """Axes by name. An axis is a list of values of the option that it is called by, or, under any
    name, a list of mappings, each of options that are set together.
    """

    def check(self, value: Any, where: str = "") -> dict[str, list[Any]]:
        axes = MapOf(VALUES, longest=100).check(value, where)
        for name, entries in axes.items():
            mappings = sum(isinstance(entry, Mapping) for entry in entries)
            if mappings not in (0, len(entries)):
                raise MismatchError(join(where, name), "values and mappings beside each other")
            if {} in entries:
                raise MismatchError(join(where, name), f"{shown({})} sets nothing")
        return axes

    def allows(self, value: Any) -> bool:
        """Whether a value is a grid."""
        try:
            self.check(value)
        except MismatchError:
            return False
        return True

    def says(self) -> str:
        return "options with a list of values each, or names with a list of mappings"


@dataclass
class TrainedConfig(RunConfig):
    """What every training on a model says of where it begins and stands.

    Attributes:
        model, data: as on the command line.
        protocol: whose values stand below those that are given (`seer.eval.protocols`).
        weights: what the model that training starts from hashes to. So `RUN`, whose newest checkpoint may be another
            one later, is not taken for the model that an earlier training began with.
        run_dir: of the training; "" is `eval/TASK-HASH` below the model's own.
    """

    model: str = required(Text(), incidental=True)
    protocol: str = option("", PROTOCOL, incidental=True)
    weights: str = option("", Text(64))
    data: str = required(Location(shortest=1))
    run_dir: str = option("", Location(), incidental=True)


@dataclass
class FinetuneConfig(TrainedConfig):
    """Options of `seer eval finetune`.

    Attributes:
        steps: updates of the weights; 0 takes as many as the `epochs` are.
        epochs: passes over the training images, where no steps are given.
        head_rate: factor on the classifier's rate.
        layer_decay: factor on the rate of each stage of the backbone for each one above it: the last has the rate
            times this, the stem that times the fifth power (Clark et al. 2020, arXiv:2003.10555); 1 is one rate.
        size: side of the images in pixels; 0 is the model's own.
        crop: of training images: `random` parts of them, flipped at random, or the `centre`, cut as the test images.
        crop_scale: range of a random crop's share of the image's area.
        test_crop: of test images: `centre`: 7/8 of the shorter side, and images of up to 64 px whole; `short_side`: all
            of it, resized bicubically.
        test_size: side of the test images in pixels; 0 is that of the training images.
        mixup: α of the distribution Beta(α, α) of the shares by which images are mixed (Zhang et al. 2018,
            arXiv:1710.09412); 0 mixes none. Neighbours in a batch are mixed with each other.
        label_smoothing: share of a label that goes to all classes alike (Szegedy et al. 2016, arXiv:1512.00567).
        decay_over_rate: `optim.weight_decay` is divided by `schedule.peak`.
        grid: options that are tried, all combinations of these axes; the best by held-out images is trained with.
        point: number of the one combination to train, from 1; 0 trains all, chooses, and trains the final one.
        holdout: share of each class's training images that a grid is chosen by, where the owners give none for that.
        retrain: train once more on all training images by the options that are chosen; false: score what was trained
            while choosing.
    """

    name: str = option("finetune", Text(255, 1), incidental=True)
    epochs: float = option(30.0, Number(above=0, high=1e6))
    head_rate: float = option(1.0, Number(above=0, high=1e6))
    layer_decay: float = option(1.0, Number(above=0, high=1))
    size: int = option(0, SIDE)
    crop: str = option("random", Choice("random", "centre"))
    crop_scale: list[float] = option([0.08, 1.0], AREAS)
    test_crop: str = option("centre", Choice("centre", "short_side"))
    test_size: int = option(0, SIDE)
    mixup: float = option(0.0, Number(0, 100))
    label_smoothing: float = option(0.0, SHARE)
    batch_size: int = option(256, Integer(1, 2**24))
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(larc=False, weight_decay=1e-4))
    decay_over_rate: bool = option(False, Flag())
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig("cosine", peak=0.01, final=0.0)
    )
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    grid: dict[str, Any] = option({}, Grid())
    point: int = option(0, Integer(0, 10_000), incidental=True)
    holdout: float = option(0.2, Number(above=0, below=1))
    retrain: bool = option(True, Flag())

    def rows(self, train: Labelled) -> np.ndarray:
        """Which of the data's training images are used, `(n,)` rising numbers: all of them.

        Tasks that train on fewer take these away here; all else is as for finetuning.
        """
        return np.arange(len(train))

    def settled(self, train: Labelled, given: Container[str] = ()) -> Self:
        """What the options are with these training images; `given` are those of the command line.

        Raises:
            InputError: the images are fewer than a batch.
        """
        self.check_images(train)
        return self

    def check_images(self, train: Labelled) -> None:
        """Raise `InputError` where the images are fewer than a batch."""
        if len(train) < self.batch_size:
            raise InputError(
                f"{self.data}: {len(train)} training images are fewer than one batch; "
                f"use batch_size={len(train)} or less"
            )

    def searched(self) -> set[str]:
        """The options that the points of the grid set, by dotted key."""
        keys: set[str] = set()
        for name, entries in self.grid.items():
            for entry in entries:
                keys |= set(entry) if isinstance(entry, Mapping) else {name}
        return keys

    def decay(self) -> float:
        """What is added of a weight to its gradient.

        Raises:
            InputError: it is to be divided by a rate of 0, or is too large then.
        """
        decay = self.optim.weight_decay
        if not (self.decay_over_rate and decay):
            return decay
        peak = peak_for(self.schedule, self.batch_size)
        if decay > LARGEST_DECAY * peak:
            raise InputError(
                f"decay_over_rate: optim.weight_decay={decay:g} divided by a rate of {peak:g} is above "
                f"{LARGEST_DECAY:g}"
            )
        return decay / peak

    def files(self, train: Labelled) -> dict[str, str]:
        """Texts that the run directory holds beside the configuration, by their files' names."""
        return {}

    def renamed(self, score: "Score") -> "Score":
        """A score as results call it."""
        return score
