"""Models ranked over data sets, and whether their mean ranks differ by more than chance (Demšar 2006,
J. Mach. Learn. Res. 7).
"""

from dataclasses import dataclass
from functools import cache
from math import ceil, erfc, exp, lgamma, log, sqrt

import numpy as np

from seer.errors import InputError
from seer.eval.analyses.correlation import average_ranks

LEVEL = 0.05
GRID = np.linspace(-8.0, 8.0, 4001)  # of the normal distribution


@dataclass(frozen=True)
class Ranking:
    """Models over data sets.

    Attributes:
        ranks: `(models, data sets)` from 1, the best; ties have the mean of their ranks.
        mean: `(models,)`.
        p: of Friedman's test, that the models differ no more than this by chance; NaN where nothing differs.
        critical: the difference of two mean ranks from which Nemenyi's test calls it larger than chance.
    """

    ranks: np.ndarray
    mean: np.ndarray
    p: float
    critical: float

    def alike(self) -> list[list[int]]:
        """The largest groups of models that are not told apart, numbers of models, the best first;
        a model that differs from all others is in none.
        """
        order = np.argsort(self.mean, kind="stable").tolist()
        groups: list[list[int]] = []
        for begin, first in enumerate(order):
            group = [m for m in order[begin:] if self.mean[m] - self.mean[first] < self.critical]
            if len(group) > 1 and not (groups and set(group) <= set(groups[-1])):
                groups.append(group)
        return groups


def rank_models(scores: np.ndarray) -> Ranking:
    """Of `(models, data sets)`, higher being better.

    Raises:
        InputError: fewer than two models or data sets, or a score that is missing.
    """
    models, sets = scores.shape
    if models < 2 or sets < 2:
        raise InputError(
            f"{models} models on {sets} data sets: ranks compare two models or more on two or more"
        )
    if not np.isfinite(scores).all():
        raise InputError("ranks: a score is missing or NaN; leave that data set or model out")
    ranks = average_ranks(-scores.T).T
    critical = studentized_range(models) / sqrt(2) * sqrt(models * (models + 1) / (6 * sets))
    return Ranking(ranks, ranks.mean(1), friedman(ranks), critical)


def friedman(ranks: np.ndarray) -> float:
    """The p of Friedman's test on `(models, data sets)` ranks, with the correction for ties, by the
    χ² distribution.
    """
    models, sets = ranks.shape
    expected = (models + 1) / 2
    between = sets * ((ranks.mean(1) - expected) ** 2).sum()
    within = ((ranks - expected) ** 2).sum() / (sets * (models - 1))
    if within == 0:
        return float("nan")
    return chi_squared_tail(float(between / within), models - 1)


def chi_squared_tail(value: float, degrees: int) -> float:
    """P(χ² > value), in closed form: Σ x^j e^(−x) / Γ(j + 1), x = value / 2, over j = 0, 1 … or, with
    erfc(√x) besides, ½, 1½ … below degrees / 2.
    """
    half = value / 2
    if half <= 0:
        return 1.0
    first = 0.5 * (degrees % 2)
    powers = [first + j for j in range(ceil(degrees / 2 - first))]
    terms = [exp(power * log(half) - half - lgamma(power + 1)) for power in powers]
    beyond = erfc(sqrt(half)) if first else 0.0
    return min(1.0, beyond + sum(terms))


def studentized_range(models: int, level: float = LEVEL) -> float:
    """The range of so many standard normal variables that is exceeded with probability `level`."""
    low = 0.0
    high = 20.0
    for _ in range(60):
        middle = (low + high) / 2
        if _within(middle, models) < 1 - level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _within(width: float, models: int) -> float:
    """P(range ≤ width): k ∫ φ(z) (Φ(z) − Φ(z − width))^(k − 1) dz."""
    mass = _normal() - np.interp(GRID - width, GRID, _normal(), left=0.0)
    density = np.exp(-(GRID**2) / 2) / sqrt(2 * np.pi)
    return float(models * np.trapezoid(density * mass ** (models - 1), GRID))


@cache
def _normal() -> np.ndarray:
    """Φ on the grid."""
    return np.array([erfc(-z / sqrt(2)) / 2 for z in GRID.tolist()])
