"""Intersection over union of classes, over test images that are resampled."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from seer.errors import InputError
from seer.eval.dense.pixel_errors import Confusion
from seer.eval.ranking import resampled
from seer.eval.scores import Score


class Overlaps(NamedTuple):
    """What is counted of an image.

    Attributes:
        hits: `(C,)` int64 pixels of each class that were given it. truth: `(C,)` pixels of it. given: `(C,)` pixels
            that were given it, among those that have a class.
        void: pixels that have none.
    """

    hits: np.ndarray
    truth: np.ndarray
    given: np.ndarray
    void: int

    @property
    def union(self) -> np.ndarray:
        return self.truth + self.given - self.hits

    def miou(self) -> float:
        """The mean over the image's own classes; 1 where it has none."""
        there = self.truth > 0
        if not there.any():
            return 1.0
        return float((self.hits[there] / self.union[there]).mean())


def overlaps(truth: np.ndarray, decided: np.ndarray, classes: int) -> Overlaps:
    """Count the pixels of an image: integers of one shape; the truth is negative where void."""
    confusion = Confusion(classes)
    confusion.add(truth, decided)
    counts = confusion.counts
    return Overlaps(counts.diagonal().copy(), counts.sum(1), counts.sum(0), confusion.void)


def overlap_scores(
    images: Sequence[Overlaps], names: Sequence[str], details: dict[str, Any]
) -> list[Score]:
    """mIoU (Everingham et al. 2015, section 3.3: of all pixels of all images), pixel accuracy, and the mean
    accuracy of classes, with intervals between percentiles of resampled images (bootstrap).

    Raises:
        InputError: no pixel has a class.
    """
    hits = np.stack([image.hits for image in images])
    truth = np.stack([image.truth for image in images])
    union = np.stack([image.union for image in images])
    if not truth.sum():
        raise InputError("no pixel of the test images has a class; see void=")
    per_class = _shares(hits.sum(0)[None], union.sum(0)[None])[0]
    by_class = {
        name: None if np.isnan(share) else float(share)
        for name, share in zip(names, per_class, strict=True)
    }
    details = {
        **details,
        "by_class": by_class,
        "pixels": int(truth.sum()),
        "void_pixels": sum(image.void for image in images),
    }
    pairs = {
        "miou": ("mIoU", hits, union),
        "pixel_accuracy": (
            "pixel accuracy",
            hits.sum(1, keepdims=True),
            truth.sum(1, keepdims=True),
        ),
        "mean_accuracy": ("mean accuracy of classes", hits, truth),
    }
    draws = resampled(len(images))
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in pairs}
    for each in draws:
        for name, (_, above, below) in pairs.items():
            drawn[name].append(_means(each @ above, each @ below))
    frequent = float(truth.sum(0).max() / truth.sum())
    scores = []
    for name, (title, above, below) in pairs.items():
        value = float(_means(above.sum(0)[None], below.sum(0)[None])[0])
        low, high = np.nanquantile(np.concatenate(drawn[name]), [0.025, 0.975]).tolist()
        scores.append(
            Score(
                name,
                title,
                value,
                min(low, value),
                max(high, value),
                headline=name == "miou",
                chance=frequent if name == "pixel_accuracy" else None,
                details=details,
            )
        )
    return scores


def _shares(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below > 0, above / below, np.nan)


def _means(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Of each row the mean share of the columns that are there; NaN where none is."""
    shares = _shares(above, below)
    there = np.isfinite(shares)
    with np.errstate(invalid="ignore"):
        return np.where(there, shares, 0).sum(1) / there.sum(1)
