"""How long a transfer benchmark takes, about: by what was measured of each model and of this machine.

It is an estimate: images of other sizes decode at other rates, and a search may converge sooner.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from seer.config import layer, parse_overrides
from seer.data.decoding.decode import DamagedImage
from seer.distributed import pick_device
from seer.errors import InputError
from seer.eval.probes.features import SMALL, stack
from seer.eval.tasks import DENSE, TASKS
from seer.eval.transfer.agenda import Cell, DataPlace
from seer.eval.transfer.contestants import Contestant
from seer.eval.transfer.journal import Journal, Loaded

DECODED = 8  # images of a data set, from which it is told how long they take
SIDE = 1024  # of the matrices by whose product the machine is timed
TRIALS = 4
BACKWARD = 3.0  # a step of training, in passes forward
OVERHEAD = 1.0  # seconds of each task
# Iterations of L-BFGS at each λ, about, each search beginning at the last one's solution.
ITERATIONS = 10
# What share of the rate of large products a task reaches: measured on two cores, with 750 to 50,000
# training images of 368 to 1,280 features in 5 and 10 classes. Geometry is in float64: on one core, with
# 2,000 and 4,000 images of 512 and 1,280 features.
SHARES = {
    "knn": 0.3,
    "linear": 0.1,
    "logreg": 0.2,
    "fewshot": 0.015,
    "calibration": 0.2,
    "geometry": 0.15,
}
ASPECT = 4 / 3  # of most photographs
UNRESIZED = 480  # the shorter side of images that are taken as they are
PARTS = 20  # that geometry leaves out in turns
KINDS = 12  # of images that invariance compares, each altered in another way and none kept


@dataclass(frozen=True)
class Estimate:
    """Seconds of a cell: to compute features, where the cell is the first that needs them, and of the
    task itself.
    """

    cell: Cell
    features: float
    task: float

    @property
    def seconds(self) -> float:
        return self.features + self.task


class Forecast:
    """Estimates, from what is measured once of machine, data sets and models."""

    def __init__(self, journal: Journal, device: str):
        self.journal = journal
        self.rate = products_per_second(device)
        self._decoding: dict[str, float] = {}

    def of(self, cells: list[tuple[Cell, Contestant]]) -> Iterator[Estimate]:
        """Of cells in the order in which they run."""
        computed: set[Any] = set()
        for cell, model in cells:
            try:
                images = self.journal.images(cell.place, TASKS[cell.task])
                yield self._estimate(cell, model, images, computed)
            except InputError:  # which the task will say
                yield Estimate(cell, 0.0, OVERHEAD)

    def _estimate(
        self, cell: Cell, model: Contestant, images: Loaded, computed: set[Any]
    ) -> Estimate:
        task = TASKS[cell.task]
        count = len(images.train) + len(images.test)
        decoding = self._seconds_to_decode(cell.place, model, images)
        each = 1 / model.images_per_second + decoding
        if task.trained:
            given = layer({"model": cell.model, "data": cell.place.data})
            config = task.resolve(given, parse_overrides(list(cell.options)))
            seen = config.steps * config.batch_size or config.epochs * len(images.train)
            larger = area(config) / model.size**2 if cell.task in DENSE else 1.0
            each = larger / model.images_per_second + decoding
            return Estimate(cell, 0.0, OVERHEAD + seen * each * BACKWARD)
        config = task.resolve(parse_overrides(list(cell.options)))
        if cell.task in DENSE:
            return Estimate(cell, 0.0, OVERHEAD + count * each)
        if cell.task == "invariance":
            altered = KINDS * min(config.images, len(images.test))
            return Estimate(cell, 0.0, OVERHEAD + altered * each)
        key = (cell.place.data, model.name, config.crop, config.precision)
        features = 0.0 if config.cache and key in computed else count * each
        computed.add(key)
        dimensions = model.dimensions or 3 * self.journal.pixels(cell.place) ** 2
        products = PRODUCTS[cell.task](config, images, dimensions) if cell.task in PRODUCTS else 0
        share = SHARES.get(cell.task, 1.0)
        return Estimate(cell, features, OVERHEAD + products / (self.rate * share))

    def _seconds_to_decode(self, place: DataPlace, model: Contestant, images: Loaded) -> float:
        """Of one image, in one thread."""
        if place.data not in self._decoding:
            first, *numbers = range(0, len(images.train), max(1, len(images.train) // DECODED))
            with suppress(DamagedImage):  # which the task will say
                images.train.image(first)  # whatever is made ready at the first one
            began = time.perf_counter()
            with suppress(DamagedImage):
                stack([images.train.image(i) for i in numbers], model.size or SMALL, "short_side")
            self._decoding[place.data] = (time.perf_counter() - began) / max(1, len(numbers))
        return self._decoding[place.data]


def area(config: Any) -> float:
    """Pixels of a training image of a dense task, one of 4 by 3 where it is not cut; its heads are not
    counted.
    """
    if getattr(config, "scales", []) and hasattr(config, "square"):
        return float(config.square**2)
    if getattr(config, "crop", []):
        return float(prod(config.crop))
    sides = config.short_sides or [config.test_size or UNRESIZED]
    return sides[len(sides) // 2] ** 2 * ASPECT


def products_per_second(device: str) -> float:
    """Multiplications with additions of large matrices, measured."""
    where = pick_device(device)
    matrix = torch.rand(SIDE, SIDE, device=where)
    seconds = []
    for _ in range(TRIALS):  # the first makes ready what is needed
        began = time.perf_counter()
        float((matrix @ matrix)[0, 0])
        seconds.append(time.perf_counter() - began)
    return SIDE**3 / min(seconds)


def _knn(config: Any, images: Loaded, dimensions: int) -> float:
    return prod((len(images.test), len(images.train), dimensions))


def _linear(config: Any, images: Loaded, dimensions: int) -> float:
    """Forward, and the gradient of the weights, of all rates side by side, and of the best once more."""
    heads = len(config.lrs) * len(config.weight_decays) + config.refit
    return 2 * heads * config.epochs * len(images.train) * dimensions * len(images.train.classes)


def _logreg(config: Any, images: Loaded, dimensions: int) -> float:
    searches = 2 * config.count * ITERATIONS
    return 2 * searches * len(images.train) * dimensions * len(images.train.classes)


def _fewshot(config: Any, images: Loaded, dimensions: int) -> float:
    gathered = sum(config.ways * (shots + config.queries) for shots in config.shots)
    return config.episodes * gathered * dimensions * config.ways


def _geometry(config: Any, images: Loaded, dimensions: int) -> float:
    """All pairs of images twice, and the two kinds of singular values of all and with parts left out."""
    count = len(images.test)
    smaller = min(count, dimensions)
    singular = count * dimensions * smaller + smaller**3
    return 2 * count**2 * dimensions + 2 * (PARTS + 1) * singular


PRODUCTS: dict[str, Callable[[Any, Loaded, int], float]] = {
    "knn": _knn,
    "linear": _linear,
    "logreg": _logreg,
    "fewshot": _fewshot,
    "calibration": _logreg,
    "geometry": _geometry,
}
