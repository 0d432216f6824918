"""Average precision as PASCAL VOC 2007 defines it, of images ranked for each class; and images drawn
anew, by which it is told how sure such a value is.

Imports no torch: the report compares models by it.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

RECALLS = 10  # steps of recall from 0 to 1
RESAMPLES = 1000
TOGETHER = 2**24  # counts of images that are evaluated at once: 64 MB


def resampled(images: int) -> Iterator[NDArray[np.float32]]:
    """How often each image is there when as many are drawn with replacement, `(B, N)`; 1,000 times
    in all, and the same every time.
    """
    random = np.random.default_rng(0)
    together = max(1, min(100, TOGETHER // images))
    for first in range(0, RESAMPLES, together):
        rows = min(together, RESAMPLES - first)
        counts = np.empty((rows, images), np.float32)
        for row in counts:
            drawn = random.integers(images, size=images)
            row[:] = np.bincount(drawn, minlength=images)
        yield counts


def mean_precision(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The classes' mean average precision `(B,)` of scores and labels `(N, C)`, each image there as
    often as `counts` `(B, N)` says; classes of which no image is there are left out.
    """
    precisions = []
    for column, truth in zip(scores.T, labels.T, strict=True):
        ranked = np.argsort(-column, kind="stable")
        ranked = ranked[truth[ranked] >= 0]
        precisions.append(average_precision(truth[ranked], counts[:, ranked]))
    return mean_of_known(np.stack(precisions, 1))


def average_precision(truth: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The 11-point average precision `(B,)` of ranked labels `(N,)`, 1 or 0, the first rank first,
    each there as often as `counts` `(B, N)` says; NaN without positives.

    The mean, over recalls r = 0, 0.1 … 1, of the best precision at a recall of r or more
    (Everingham et al. 2010, Int. J. Comput. Vis. 88, section 4.2).
    """
    if not truth.any():
        return np.full(len(counts), np.nan)
    weights = counts.astype(np.float64)
    hits = (weights * truth).cumsum(1)
    precision = hits / np.maximum(weights.cumsum(1), 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    averages = np.full(len(counts), np.nan)
    for row, positives in enumerate(hits[:, -1]):
        if positives:
            wanted = positives * np.arange(RECALLS + 1)
            first = np.searchsorted(RECALLS * hits[row], wanted)  # whole numbers: they are exact
            averages[row] = best[row, first].mean()
    return averages


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """The mean of each row `(B, C)` over what is no NaN there; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(1)
    total = np.where(known, values, 0.0).sum(1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
