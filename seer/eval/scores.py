"""Measured values and how sure they are."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seer.eval.outcomes import Measured
from seer.eval.paired import Z, crossed_variance
from seer.eval.ranking import mean_precision, resampled


@dataclass
class Score:
    """One measured value with the 95 % interval [low, high].

    Attributes:
        title: what people are shown after the task's.
        unit: `share`: from 0 to 1, shown as percentages.
        better: `higher` or `lower`.
        headline: whether it stands for the task where only one value is shown.
        chance: what is reached without looking at the images; None where that is not known.
        details: what was chosen on the way.
        outcomes: of each test image, for comparisons (`seer.eval.paired`): `hits`, whether it was right; besides
            `labels`, where classes count alike; or `scores` and `labels`; or `values`; or, of each query of
            few-shot episodes, `hits` and the number of its image, `images`. Empty where they are not known.
        test: the images that it is of, where they are not the task's test images.
    """

    metric: str
    title: str
    value: float
    low: float
    high: float
    unit: str = "share"
    better: str = "higher"
    headline: bool = False
    chance: float | None = None
    details: dict[str, Any] = field(default_factory=dict)
    outcomes: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)
    test: Measured | None = field(default=None, compare=False, repr=False)


def chance(labels: Tensor, guesses: int = 1) -> float:
    """The accuracy of always naming the same classes, so many of them, the most frequent ones of
    `(N,)` labels: nobody who does not look at the images can do better.
    """
    counts = torch.bincount(labels)
    return int(counts.topk(min(guesses, len(counts))).values.sum()) / len(labels)


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion (1927); it stays inside [0, 1], and honest near
    its ends.
    """
    p = successes / trials
    shrink = 1 + Z**2 / trials
    centre = (p + Z**2 / (2 * trials)) / shrink
    half = Z / shrink * math.sqrt(p * (1 - p) / trials + Z**2 / (4 * trials**2))
    return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))


def accuracy(
    metric: str,
    title: str,
    correct: Tensor,
    details: dict[str, Any] | None = None,
    headline: bool = False,
    by_chance: float | None = None,
) -> Score:
    """The share of `correct` (bool), as a number from 0 to 1, with Wilson's interval."""
    score = share(metric, title, int(correct.sum()), correct.numel(), details, headline, by_chance)
    score.outcomes = {"hits": correct.cpu()}
    return score


def mean_of_episodes(
    metric: str,
    title: str,
    hits: Tensor,
    images: Tensor,
    details: dict[str, Any] | None = None,
    by_chance: float | None = None,
) -> Score:
    """The share of `(E, Q)` hits of few-shot episodes, each of which asks about `(E, Q)` images.

    An image that many episodes ask about is one image, and the queries of an episode share what it
    learned from: the interval is Wilson's of as many independent answers as have the same variance
    (`crossed_variance`), at most one an image that was asked about where all answers are alike.
    """
    value = float(hits.double().mean())
    distinct = len(images.unique())
    variance = crossed_variance(hits.double().numpy() - value, images.numpy())
    independent = value * (1 - value) / variance if variance > 0 else float(distinct)
    low, high = wilson(value * independent, independent)
    return Score(
        metric,
        title,
        value,
        low,
        high,
        chance=by_chance,
        details={"images": distinct, **(details or {})},
        outcomes={"hits": hits, "images": images.int()},
    )


def mean_per_class(
    metric: str,
    title: str,
    correct: Tensor,
    labels: Tensor,
    details: dict[str, Any] | None = None,
    headline: bool = False,
) -> Score:
    """The mean of the accuracies within each class that `(N,)` labels have, `correct` being bool.

    The interval is normal, with the variances of Agresti and Coull (1998), which are not 0 where a
    class is all right or all wrong.
    """
    _, places, images = labels.unique(return_inverse=True, return_counts=True)
    hits = torch.bincount(places, correct.double(), len(images))
    value = float((hits / images).mean())
    shrunk = (hits + Z**2 / 2) / (images + Z**2)
    variance = float((shrunk * (1 - shrunk) / (images + Z**2)).sum()) / len(images) ** 2
    half = Z * math.sqrt(variance)
    return Score(
        metric,
        title,
        value,
        max(0.0, value - half),
        min(1.0, value + half),
        headline=headline,
        chance=1 / len(images),
        details={"images": len(labels), "classes": len(images), **(details or {})},
        outcomes={"hits": correct, "labels": labels},
    )


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
    ranked = (scores.numpy(), labels.numpy())
    images = len(scores)
    value = float(mean_precision(*ranked, np.ones((1, images)))[0])
    drawn = np.concatenate([mean_precision(*ranked, counts) for counts in resampled(images)])
    low, high = np.quantile(drawn[np.isfinite(drawn)], [0.025, 0.975]).tolist()
    return Score(
        metric,
        title,
        value,
        min(low, value),
        max(high, value),
        headline=headline,
        details={"images": images, "classes": scores.shape[1], **(details or {})},
        outcomes={"scores": scores, "labels": labels},
    )


def share(
    metric: str,
    title: str,
    hits: int,
    trials: int,
    details: dict[str, Any] | None = None,
    headline: bool = False,
    by_chance: float | None = None,
) -> Score:
    """So many of so many, as a number from 0 to 1, with Wilson's interval."""
    low, high = wilson(hits, trials)
    details = {"images": trials, **(details or {})}
    return Score(
        metric,
        title,
        hits / trials,
        low,
        high,
        headline=headline,
        chance=by_chance,
        details=details,
    )
