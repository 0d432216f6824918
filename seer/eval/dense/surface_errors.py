"""Errors of normals and depths, added up image by image, so that no pixel is kept."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from seer.eval.ranking import resampled
from seer.eval.scores import Score

LIMITS = (11.25, 22.5, 30.0)  # degrees (Fouhey et al. 2013, ICCV, section 5)
BINS = 9000  # of 0.02 degrees each, in one of which the median is
DELTA = 1.25  # by which factor a depth may differ to be counted (Eigen et al. 2014)


def angles_between(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Degrees between normals `(…, 3)` of any length above 0; NaN where the truth has none (not
    finite, or 0).

    The tangent's form, since a cosine near 1 has lost its digits.
    """
    known = np.isfinite(truth).all(-1, keepdims=True)
    first = np.where(known, truth, 0).astype(np.float64)
    second = predicted.astype(np.float64)
    sine = np.linalg.norm(np.cross(first, second), axis=-1)
    cosine = (first * second).sum(-1)
    degrees = np.degrees(np.arctan2(sine, cosine))
    return np.where(np.abs(first).sum(-1) > 0, degrees, np.nan)


class Angles(NamedTuple):
    """The angular errors of an image.

    Attributes:
        pixels: whose normal is known. sum: of degrees. square: of their squares.
        within: how many are below each of `LIMITS`. bins: `(BINS,)`, how many are in each.
    """

    pixels: int
    sum: float
    square: float
    within: np.ndarray
    bins: np.ndarray

    @classmethod
    def of(cls, degrees: np.ndarray) -> "Angles":
        """Of an image's errors, NaN where no normal is known."""
        known = degrees[np.isfinite(degrees)].astype(np.float64)
        places = np.minimum((known * (BINS / 180)).astype(np.int64), BINS - 1)
        within = np.array([int((known < limit).sum()) for limit in LIMITS])
        bins = np.bincount(places, minlength=BINS).astype(np.int32)
        return cls(len(known), float(known.sum()), float(np.square(known).sum()), within, bins)


class Depths(NamedTuple):
    """The errors of an image's depth.

    Attributes:
        pixels: whose depth is known. square: sum of the squares of differences in metres.
        relative: sum of differences as shares of the depth. close: how many are within a factor of 1.25.
    """

    pixels: int
    square: float
    relative: float
    close: int

    @classmethod
    def of(cls, truth: np.ndarray, predicted: np.ndarray) -> "Depths":
        """Of metres `(H, W)`, the truth being NaN where not known, and a guess above 0."""
        known = np.isfinite(truth)
        metres = truth[known].astype(np.float64)
        guess = predicted[known].astype(np.float64)
        off = np.abs(guess - metres)
        ratio = np.maximum(metres / guess, guess / metres)
        return cls(
            len(metres),
            float(np.square(off).sum()),
            float((off / metres).sum()),
            int((ratio < DELTA).sum()),
        )


class Measure(NamedTuple):
    """A value of all pixels.

    Attributes:
        value: of sums over images, `(B, columns)`, to `(B,)`. columns: names of the sums.
    """

    metric: str
    title: str
    unit: str
    better: str
    value: Callable[[np.ndarray], np.ndarray]


def normal_scores(images: Sequence[Angles], details: dict[str, Any]) -> list[Score]:
    """The shares of angular errors below 11.25, which stands for the task, 22.5 and 30 degrees, their median,
    mean and root mean square, over all pixels of all images.
    """
    sums = np.array([[each.pixels, each.sum, each.square, *each.within] for each in images])
    bins = np.stack([each.bins for each in images])
    shares = [_within(place, limit) for place, limit in enumerate(LIMITS)]
    median = Measure("median", "median error", "degrees", "lower", median_of)
    means = [
        Measure("mean", "mean error", "degrees", "lower", lambda s: s[:, 1] / s[:, 0]),
        Measure("rms", "RMS error", "degrees", "lower", lambda s: np.sqrt(s[:, 2] / s[:, 0])),
    ]
    scores = [_scored(row, sums, details) for row in shares]
    scores += [_scored(median, bins, details), *(_scored(row, sums, details) for row in means)]
    scores[0].headline = True
    return scores


def _within(place: int, limit: float) -> Measure:
    return Measure(
        f"within_{limit:g}",
        f"within {limit:g}°",
        "share",
        "higher",
        lambda s: s[:, 3 + place] / s[:, 0],
    )


def depth_scores(images: Sequence[Depths], details: dict[str, Any]) -> list[Score]:
    """The share within a factor of 1.25, which stands for the task, root mean square and relative errors,
    over all pixels of all images (Eigen et al. 2014, arXiv:1406.2283, section 4.1).
    """
    sums = np.array([list(each) for each in images], np.float64)
    rows = [
        Measure("delta1", "within 1.25×", "share", "higher", lambda s: s[:, 3] / s[:, 0]),
        Measure("rmse", "RMSE", "metres", "lower", lambda s: np.sqrt(s[:, 1] / s[:, 0])),
        Measure("abs_rel", "relative error", "ratio", "lower", lambda s: s[:, 2] / s[:, 0]),
    ]
    scores = [_scored(row, sums, details) for row in rows]
    scores[0].headline = True
    return scores


def median_of(bins: np.ndarray) -> np.ndarray:
    """The medians `(B,)` of counts `(B, BINS)`, as if what is in a bin lay evenly in it: at most 0.02 degrees
    from those of the errors themselves.
    """
    ends = np.cumsum(bins, axis=1, dtype=np.float64)
    half = ends[:, -1:] / 2
    place = (ends < half).sum(1)
    rows = np.arange(len(bins))
    inside = bins[rows, place]
    before = ends[rows, place] - inside
    with np.errstate(invalid="ignore", divide="ignore"):
        return (place + (half[:, 0] - before) / inside) * (180 / BINS)


def _scored(measure: Measure, sums: np.ndarray, details: dict[str, Any]) -> Score:
    """With an interval between percentiles of resampled images (bootstrap)."""
    value = float(measure.value(sums.sum(0, keepdims=True))[0])
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = np.concatenate([measure.value(draws @ sums) for draws in resampled(len(sums))])
    low, high = np.quantile(drawn[np.isfinite(drawn)], [0.025, 0.975]).tolist()
    return Score(
        measure.metric,
        measure.title,
        value,
        min(low, value),
        max(high, value),
        unit=measure.unit,
        better=measure.better,
        details=details,
    )
