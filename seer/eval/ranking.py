"""Average precision as PASCAL VOC 2007 defines it, of images ranked for each class."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from seer.eval.scores import Score

RECALLS = 10  # steps of recall from 0 to 1
RESAMPLES = 1000
TOGETHER = 100  # resamples that are evaluated at once


def eleven_point(
    metric: str,
    title: str,
    scores: Tensor,
    labels: Tensor,
    details: dict[str, Any] | None = None,
    headline: bool = False,
) -> Score:
    """Mean over the classes of the 11-point average precision, of `(N, C)` scores and labels: 1, 0,
    or -1 where an image does not count for a class.

    The interval is between percentiles of resampled images (bootstrap).
    """
    value = float(mean_precision(scores, labels, torch.ones(1, len(scores)))[0])
    means = [mean_precision(scores, labels, counts) for counts in resampled(len(scores))]
    sound = torch.cat(means)
    low, high = sound[sound.isfinite()].quantile(sound.new_tensor([0.025, 0.975])).tolist()
    return Score(
        metric,
        title,
        value,
        min(low, value),
        max(high, value),
        headline=headline,
        details={"images": len(scores), "classes": scores.shape[1], **(details or {})},
        outcomes={"scores": scores, "labels": labels},
    )


def resampled(images: int) -> Iterator[Tensor]:
    """How often each image is there when as many are drawn with replacement, `(B, N)`; 1,000 times
    in all, and the same every time.
    """
    generator = torch.Generator().manual_seed(0)
    for _ in range(RESAMPLES // TOGETHER):
        drawn = torch.randint(images, (TOGETHER, images), generator=generator)
        counts = torch.zeros(TOGETHER, images)
        yield counts.scatter_add_(1, drawn, torch.ones_like(counts))


def mean_precision(scores: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """The classes' mean average precision `(B,)`, each image there as often as `counts` `(B, N)`
    says; classes of which no image is there are left out.
    """
    precisions = []
    for column, truth in zip(scores.T, labels.T, strict=True):
        ranked = column.argsort(descending=True, stable=True)
        ranked = ranked[truth[ranked] >= 0]
        precisions.append(average_precision(truth[ranked], counts[:, ranked]))
    return torch.stack(precisions).nanmean(0)


def average_precision(truth: Tensor, counts: Tensor) -> Tensor:
    """The 11-point average precision `(B,)` of ranked labels `(N,)`, 1 or 0, the first rank first,
    each there as often as `counts` `(B, N)` says; NaN without positives.

    The mean, over recalls r = 0, 0.1 … 1, of the best precision at a recall of r or more
    (Everingham et al. 2010, Int. J. Comput. Vis. 88, section 4.2).
    """
    weights = counts.double()
    hits = (weights * truth).cumsum(1)
    precision = hits / weights.cumsum(1).clamp(min=1)
    best = precision.flip(1).cummax(1).values.flip(1)
    positives = hits[:, -1:]
    wanted = positives * torch.arange(RECALLS + 1)
    first = torch.searchsorted(RECALLS * hits, wanted)  # whole numbers, which compare exactly
    average = best.gather(1, first).mean(1)
    return torch.where(positives[:, 0] > 0, average, torch.nan)
