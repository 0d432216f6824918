"""Low-shot: finetuning on a few of the labels, 1 % and 10 % of ImageNet's in the papers (Chen et al.
2020, arXiv:2002.05709, section 4.2).
"""

import hashlib
import math
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from seer.data.labelled import Labelled, say_once
from seer.errors import InputError
from seer.eval.data.subsets import by_list, by_number, by_percent, names
from seer.eval.trained.options import FinetuneConfig
from seer.rundir.names import SUBSET
from seer.schema import COUNT, SEED, Location, Number, Text, option

if TYPE_CHECKING:
    from seer.eval.scores import Score  # imports torch

SMALLEST_BATCH = 8  # images, of which BatchNorm still learns something; larger ones are multiples
FAR = 2  # times the percentage: the list of another one


@dataclass
class LowshotConfig(FinetuneConfig):
    """Options of `seer eval lowshot`, and those of finetuning.

    Attributes:
        percent: of each class's training images, one at least; with `labels` or `subset` it only says whose values of
            a protocol are meant, and with `subset` what the score is called.
        labels: how many training images in all, as evenly from the classes as they have them; 0 goes by `percent`.
        subset: a file that names the training images, one a line; "" draws them.
        subset_seed: of the drawing.
        chosen: what the names of the images hash to; known once they are.
        least_steps: where the epochs would be fewer updates of the weights, batches are smaller, multiples of 8 images,
            with rates in proportion, and then epochs more, if none are given; 0 takes all as they stand, and so do
            `steps`, also a protocol's, and a `batch_size` that is given.
    """

    name: str = option("lowshot", Text(255, 1), incidental=True)
    # Which images these come to is `chosen`'s to say, and the metric says the share.
    percent: float = option(10.0, Number(above=0, high=100), incidental=True)
    labels: int = option(0, COUNT, incidental=True)
    subset: str = option("", Location(), incidental=True)
    subset_seed: int = option(0, SEED, incidental=True)
    chosen: str = option("", Text(64))
    least_steps: int = option(100, COUNT)

    def rows(self, train: Labelled) -> np.ndarray:
        """Which of the training images count as labelled.

        Raises:
            InputError: there are not so many, or the list is not of these images.
        """
        if self.subset and self.labels:
            raise InputError(f"labels={self.labels}: the images are those of subset={self.subset}")
        if self.labels:
            return by_number(train, self.labels, self.subset_seed)
        if not self.subset:
            return by_percent(train, self.percent, self.subset_seed)
        if not Path(self.subset).is_file():
            raise InputError(f"subset={self.subset}: no such file")
        rows = by_list(train, Path(self.subset), self.data)
        share = 100 * len(rows) / len(train)
        if not 1 / FAR < share / self.percent < FAR:
            say_once(
                f"{self.subset} lists {len(rows):,} of {len(train):,} training images, {share:.3g} %, and the score is "
                f"called that of percent={self.percent:g}"
            )
        return rows

    def settled(self, train: Labelled, given: Container[str] = ()) -> Self:
        """With the hash of the labelled images, and a batch that they can make."""
        if self.chosen:
            raise InputError("chosen=: it is what the labelled images hash to; choose by subset=")
        digest = hashlib.sha256("\n".join(sorted(names(train))).encode()).hexdigest()[:16]
        config = replace(self, chosen=digest)
        if self.steps or not self.least_steps or "batch_size" in given:
            return FinetuneConfig.settled(config, train, given)
        return config._with_steps(len(train), "epochs" in given)

    def _with_steps(self, images: int, fixed: bool) -> Self:
        """With batches small enough, or else, unless they are fixed, epochs enough for `least_steps`
        updates; rates shrink with the batch (Goyal et al. 2017, arXiv:1706.02677, section 2.1).
        """
        steps = math.ceil(self.epochs * images / self.batch_size)
        if steps >= self.least_steps and images >= self.batch_size:
            return self
        # Eights divide among processes.
        unit = math.lcm(SMALLEST_BATCH, self.accumulate)
        size = max(1, round(self.epochs * images / self.least_steps / unit)) * unit
        size = min(size, self.batch_size, max(1, images // self.accumulate) * self.accumulate)
        # Rounded down, so that the steps, rounded up, are no more than that.
        enough = math.floor(1e4 * self.least_steps * size / images) / 1e4
        epochs = self.epochs if fixed else max(self.epochs, enough)
        schedule = replace(self.schedule, per=self.schedule.per or self.batch_size)
        say_once(
            f"{images:,} labelled images are few for batches of {self.batch_size:,}: batch_size={size}, "
            f"epochs={epochs:.4g}, {math.ceil(epochs * images / size):,} steps, rates in proportion to the batch; "
            "batch_size= or steps= says otherwise"
        )
        return replace(self, batch_size=size, epochs=epochs, schedule=schedule)

    def files(self, train: Labelled) -> dict[str, str]:
        """The list of the labelled images, which `subset` reads."""
        return {SUBSET: "".join(f"{name}\n" for name in names(train))}

    def renamed(self, score: "Score") -> "Score":
        """Scores of other shares of the labels are other measures."""
        if self.labels:
            metric, words = f"{self.labels}labels", f"{self.labels:,} labels"
        else:
            metric, words = f"{self.percent:g}percent", f"{self.percent:g} % of the labels"
        return replace(score, metric=f"{score.metric}_{metric}", title=f"{score.title}, {words}")
