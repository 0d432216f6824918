"""Errors of dense predictions, added up image by image: classes, normals and depth of pixels."""

from collections.abc import Sequence

import numpy as np

ANGLES = (11.25, 22.5, 30.0)  # degrees (Fouhey et al. 2013, ICCV, section 5)


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


def angles_between(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Degrees between normals `(…, 3)` of any length above 0; NaN where the truth has none (not
    finite, or 0).

    The tangent's form, since a cosine near 1 has lost its digits.
    """
    first = truth.astype(np.float64)
    second = predicted.astype(np.float64)
    sine = np.linalg.norm(np.cross(first, second), axis=-1)
    cosine = (first * second).sum(-1)
    degrees = np.degrees(np.arctan2(sine, cosine))
    return np.where(np.abs(first).sum(-1) > 0, degrees, np.nan)


def angular_errors(degrees: np.ndarray, limits: Sequence[float] = ANGLES) -> dict[str, float]:
    """Mean, median and RMS over all pixels that are not NaN, and the shares below each limit."""
    known = degrees[np.isfinite(degrees)]
    errors = {
        "mean": float(known.mean()),
        "median": float(np.median(known)),
        "rms": float(np.sqrt(np.square(known).mean())),
    }
    return errors | {f"within_{limit:g}": float((known < limit).mean()) for limit in limits}


def depth_errors(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Relative error, root mean squared error in metres, and δ₁ over the pixels whose depth is known
    (Eigen et al. 2014, arXiv:1406.2283, section 4.1).

    Args:
        truth: metres; what is not finite and above 0 is a hole.
        predicted: metres above 0.
    """
    known = np.isfinite(truth) & (truth > 0)
    metres = truth[known].astype(np.float64)
    guess = predicted[known].astype(np.float64)
    ratio = np.maximum(metres / guess, guess / metres)
    return {
        "abs_rel": float((np.abs(guess - metres) / metres).mean()),
        "rmse": float(np.sqrt(np.square(guess - metres).mean())),
        "delta1": float((ratio < 1.25).mean()),
    }
