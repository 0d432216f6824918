"""Two models on one test set: whether one is better by more than chance.

Both answered for the same images, and on most they agree; a test that pairs the answers sees
differences that lie well within the intervals of both.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp, lgamma, log, sqrt

import torch
from torch import Tensor

from seer.eval.ranking import RESAMPLES, mean_precision, resampled
from seer.eval.scores import Z
from seer.rundir.thresholds import CHANCE

Outcomes = Mapping[str, Tensor]  # of each image: `Score.outcomes`


@dataclass(frozen=True)
class Difference:
    """By how much the first model's value is above the second's, the 95 % interval of that, and the
    two-sided p of a difference at least as large by chance.
    """

    value: float
    low: float
    high: float
    p: float


def compare(first: Outcomes, second: Outcomes) -> Difference:
    """The two must be of the same images and measure.

    Accuracies: McNemar's exact test, with the interval of Agresti and Min (2005, Stat. Med. 24).
    Others: the bootstrap over images, 1,000 times.
    """
    assert first.keys() == second.keys()
    if set(first) == {"hits"}:
        return mcnemar(first["hits"], second["hits"])
    if "hits" in first:
        return bootstrap(class_means(first), class_means(second), len(first["hits"]))
    return bootstrap(precisions(first), precisions(second), len(first["scores"]))


def mcnemar(first: Tensor, second: Tensor) -> Difference:
    """Of `(N,)` bool, whether each image was right."""
    images = len(first)
    better = int((first & ~second).sum())
    worse = int((second & ~first).sum())
    value = (better - worse) / images
    # As if half an image more were in each of the four cells.
    shifted = (better - worse) / (images + 2)
    spread = (better + worse + 1) / (images + 2) - shifted**2
    half = Z * sqrt(spread / (images + 2))
    low = min(value, max(-1.0, shifted - half))
    high = max(value, min(1.0, shifted + half))
    return Difference(value, low, high, two_sided(min(better, worse), better + worse))


def two_sided(fewer: int, trials: int) -> float:
    """The probability that fair coins, so many, fall at least as unevenly as `fewer` on one side."""
    largest = lgamma(trials + 1) - trials * log(2)
    terms = [exp(largest - lgamma(k + 1) - lgamma(trials - k + 1)) for k in range(fewer + 1)]
    return min(1.0, 2 * sum(terms))


def bootstrap(
    first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor], images: int
) -> Difference:
    """Of two measures that are functions of how often each image is there, `(B, N)` → `(B,)`."""
    whole = torch.ones(1, images)
    value = float(first(whole) - second(whole))
    drawn = torch.cat([first(counts) - second(counts) for counts in resampled(images)])
    drawn = drawn[drawn.isfinite()]
    low, high = drawn.quantile(drawn.new_tensor([0.025, 0.975])).tolist()
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (RESAMPLES + 1))
    return Difference(value, min(low, value), max(high, value), p)


def class_means(outcomes: Outcomes) -> Callable[[Tensor], Tensor]:
    """Of hits and labels, the mean over the classes that are there of their accuracies."""
    labels = outcomes["labels"]
    members = torch.nn.functional.one_hot(labels, int(labels.max()) + 1).float()
    right = members * outcomes["hits"][:, None]
    return lambda counts: ((counts @ right) / (counts @ members)).nanmean(1)


def precisions(outcomes: Outcomes) -> Callable[[Tensor], Tensor]:
    """Of scores and labels, the mean average precision."""
    return lambda counts: mean_precision(outcomes["scores"], outcomes["labels"], counts)


def verdict(first: str, second: str, difference: Difference) -> str:
    """In words."""
    points = 100 * difference.value
    interval = f"[{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
    p = f"p = {difference.p:.2g}" if difference.p >= 1e-4 else "p < 0.0001"
    said = "larger" if difference.p < CHANCE else "no larger"
    return f"{first} against {second}: {points:+.1f} points {interval}, {said} than chance ({p})"
