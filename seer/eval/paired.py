"""Two models on one test set: whether one is better by more than chance.

Both answered for the same images, and on most they agree; a test that pairs the answers sees
differences that lie well within the intervals of both.

Imports no torch: the report compares models by it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import erfc, exp, lgamma, log, sqrt

import numpy as np

from seer.eval.ranking import RESAMPLES, mean_of_known, mean_precision, resampled
from seer.rundir.thresholds import CHANCE

Z = 1.959964  # two-sided 95 % of the normal distribution
NEGLIGIBLE = 1e-17  # of a sum
SHARE = "share"  # a unit

Outcomes = Mapping[str, np.ndarray]  # of each image, or query of an episode: `Score.outcomes`
Measure = Callable[[np.ndarray], np.ndarray]  # of how often images are there: `(B, N)` → `(B,)`


@dataclass(frozen=True)
class Difference:
    """By how much the first model's value is above the second's, the 95 % interval of that, and the
    two-sided p of a difference at least as large by chance.
    """

    value: float
    low: float
    high: float
    p: float

    @property
    def beyond_chance(self) -> bool:
        return self.p < CHANCE

    def row(self) -> dict[str, float]:
        """As a row of scores.jsonl has it."""
        return {"difference": self.value, "low": self.low, "high": self.high, "p": self.p}

    @classmethod
    def of_row(cls, row: Mapping[str, float]) -> "Difference":
        """What `row` has written."""
        return cls(row["difference"], row["low"], row["high"], row["p"])


def alike(first: Outcomes, second: Outcomes) -> bool:
    """Whether two are of the same measure and images, as far as they tell."""
    if not first or first.keys() != second.keys():
        return False
    if any(first[name].shape != second[name].shape for name in first):
        return False
    same = ("labels", "images")
    return all(bool((first[name] == second[name]).all()) for name in same if name in first)


def compare(first: Outcomes, second: Outcomes) -> Difference:
    """The two must be of the same images and measure.

    Accuracies: McNemar's exact test, with the interval of Agresti and Min (2005, Stat. Med. 24).
    Few-shot queries: by their images and episodes (`crossed`). Others: the bootstrap over images,
    1,000 times.
    """
    assert alike(first, second)
    if "images" in first:
        return crossed(first["hits"], second["hits"], first["images"])
    for name in ("values", "accuracies"):
        if name in first:
            return bootstrap(mean(first[name]), mean(second[name]), len(first[name]))
    if set(first) == {"hits"}:
        return mcnemar(first["hits"], second["hits"])
    if "hits" in first:
        return bootstrap(class_means(first), class_means(second), len(first["hits"]))
    return bootstrap(precisions(first), precisions(second), len(first["scores"]))


def mcnemar(first: np.ndarray, second: np.ndarray) -> Difference:
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
    chances = lgamma(trials + 1) - lgamma(fewer + 1) - lgamma(trials - fewer + 1)
    term = exp(chances - trials * log(2))
    total = 0.0
    for k in range(fewer, -1, -1):  # from the largest
        total += term
        if term <= NEGLIGIBLE * total:
            break
        term *= k / (trials - k + 1)
    return min(1.0, 2 * total)


def crossed(first: np.ndarray, second: np.ndarray, images: np.ndarray) -> Difference:
    """Of `(E, Q)` bool, whether the queries of few-shot episodes were right, about `images` `(E, Q)`;
    by the normal distribution.
    """
    margins = first.astype(np.float64) - second
    value = float(margins.mean())
    # Where all queries differ alike, as if on one image more they did not.
    least = 1 / len(np.unique(images)) ** 2
    spread = sqrt(max(crossed_variance(margins - value, images), least))
    p = erfc(abs(value) / spread / sqrt(2))
    return Difference(value, max(-1.0, value - Z * spread), min(1.0, value + Z * spread), p)


def crossed_variance(deviations: np.ndarray, images: np.ndarray) -> float:
    """The variance of the mean of what queries are above it, `(E, Q)`, which go together within an
    episode (a row) and wherever they are of one of the `images` `(E, Q)`.

    What is summed by episode and by image counts what a query has for itself twice, and it is taken
    off once (Cameron, Gelbach and Miller 2011, J. Bus. Econ. Stat. 29, 238-249, equation 2.13).
    """
    _, numbers = np.unique(images, return_inverse=True)
    by_image = np.square(np.bincount(numbers.ravel(), deviations.ravel())).sum()
    by_episode = np.square(deviations.sum(1)).sum()
    total = by_image + by_episode - np.square(deviations).sum()
    # The difference can come out below either by chance.
    return float(max(total, by_image, by_episode)) / deviations.size**2


def bootstrap(first: Measure, second: Measure, images: int) -> Difference:
    """Of two measures of images that are drawn anew."""
    whole = np.ones((1, images), np.float32)
    value = float((first(whole) - second(whole))[0])
    drawn = np.concatenate([first(counts) - second(counts) for counts in resampled(images)])
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (RESAMPLES + 1))
    return Difference(value, min(low, value), max(high, value), p)


def mean(values: np.ndarray) -> Measure:
    """The mean of a value for each image; or, as an older seer kept them, for each episode."""
    return lambda counts: counts @ values / counts.sum(1)


def class_means(outcomes: Outcomes) -> Measure:
    """Of hits and labels, the mean over the classes that are there of their accuracies."""
    order = np.argsort(outcomes["labels"], kind="stable")
    _, starts = np.unique(outcomes["labels"][order], return_index=True)
    hits = outcomes["hits"][order]

    def measure(counts: np.ndarray) -> np.ndarray:
        by_class = counts[:, order]
        members = np.add.reduceat(by_class, starts, axis=1, dtype=np.float64)
        right = np.add.reduceat(by_class * hits, starts, axis=1, dtype=np.float64)
        unknown = np.full_like(right, np.nan)
        return mean_of_known(np.divide(right, members, out=unknown, where=members > 0))

    return measure


def precisions(outcomes: Outcomes) -> Measure:
    """Of scores and labels, the mean average precision."""
    return lambda counts: mean_precision(outcomes["scores"], outcomes["labels"], counts)


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """Differences that are looked at together, with p so that the chance of calling any of them
    larger than chance is that of one by itself (Holm 1979, Scand. J. Stat. 6, 65-70).

    Intervals stay those of one comparison.
    """
    ps = np.array([difference.p for difference in differences])
    order = np.argsort(ps)
    factors = np.arange(len(ps), 0, -1)
    adjusted = np.empty_like(ps)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * ps[order]))
    pairs = zip(differences, adjusted.tolist(), strict=True)
    return [replace(difference, p=p) for difference, p in pairs]


def verdict(first: str, second: str, difference: Difference) -> str:
    """In words."""
    return f"{first} against {second}: {in_words(difference)}"


def in_words(difference: Difference, unit: str = SHARE) -> str:
    """A difference of shares: `+5.2 points [+3.1, +7.3], larger than chance (p = 0.0003)`."""
    said = "larger" if difference.beyond_chance else "no larger"
    return f"{size_in_words(difference, unit)}, {said} than chance ({p_of(difference)})"


def size_in_words(difference: Difference, unit: str = SHARE) -> str:
    """`+5.2 points [+3.1, +7.3]`; of what is no share, in its unit: `+0.052 nats [+0.031, +0.073]`."""
    factor, digits, name = (100, ".1f", "points") if unit == SHARE else (1, ".3g", unit)
    ends = (difference.value, difference.low, difference.high)
    value, low, high = (f"{factor * end:+{digits}}" for end in ends)
    return f"{value} {name} [{low}, {high}]"


def p_of(difference: Difference) -> str:
    return p_in_words(difference.p)


def p_in_words(p: float) -> str:
    return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"
