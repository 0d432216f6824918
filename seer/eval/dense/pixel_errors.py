"""Classes of pixels, counted image by image."""

import numpy as np


class Confusion:
    """How often pixels of one class were given another.

    Attributes:
        counts: `(C, C)` int64, a row for each true class.
        void: pixels that have no class and are not counted.
    """

    def __init__(self, classes: int):
        self.counts = np.zeros((classes, classes), np.int64)
        self.void = 0

    def add(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Count the pixels of an image: integers of one shape; the truth is negative where void."""
        classes = len(self.counts)
        known = truth >= 0
        pairs = truth[known].astype(np.int64) * classes + predicted[known]
        self.counts += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        self.void += int(known.size - known.sum())

    def by_class(self) -> np.ndarray:
        """Intersection over union `(C,)` float64; NaN of a class that is neither there nor predicted
        (Everingham et al. 2015, section 3.3).
        """
        hits = self.counts.diagonal()
        union = self.counts.sum(0) + self.counts.sum(1) - hits
        with np.errstate(invalid="ignore"):
            return hits / union

    def miou(self) -> float:
        """The mean of `by_class` over the classes that it has a value for."""
        return float(np.nanmean(self.by_class()))

    def pixel_accuracy(self) -> float:
        """The share of pixels that were given their class."""
        return float(self.counts.trace() / self.counts.sum())
