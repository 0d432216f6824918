"""How closely two quantities go together over models: Pearson, Spearman and Kendall, with bootstrap
intervals.

As "How Well Do Self-Supervised Models Transfer?" does it (Ericsson et al. 2021, arXiv:2011.13377),
shares are compared by their logits: from 98 to 99 % is as far as from 50 to 67 %.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from seer.errors import InputError

RESAMPLES = 2000  # of the models
CHUNK = 2**22  # pairs of models that are compared at once
LEAST = 3  # models: through two points there is always a line
FEW = 10  # models, below which a coefficient says little

Pairs = Callable[[np.ndarray, np.ndarray], np.ndarray]  # `(B, N)`, `(B, N)` → `(B,)`


@dataclass(frozen=True)
class Coefficient:
    """A coefficient and the 95 % interval of it over other models of the same kind; NaN where one
    quantity is the same for all models.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Correlation:
    """Two quantities over so many models."""

    pearson: Coefficient
    spearman: Coefficient
    kendall: Coefficient
    models: int

    @property
    def remark(self) -> str:
        """What keeps people from reading too much into it."""
        if self.models >= FEW:
            return ""
        return f"{self.models} models say little of others, and the interval, which resamples these, hardly more"


def logit(shares: np.ndarray, whose: str) -> np.ndarray:
    """log(p / (1 − p)) of shares.

    Raises:
        InputError: a share is exactly 0 or 1, or is none; `whose` names the values.
    """
    ends = shares[(shares <= 0) | (shares >= 1)]
    if len(ends):
        raise InputError(
            f"{whose}: {ends[0]:g} has no finite logit; leave it out, or compare the values as they are (scale=raw)"
        )
    return np.log(shares) - np.log1p(-shares)


def correlate(x: np.ndarray, y: np.ndarray, seed: int = 0) -> Correlation:
    """All three coefficients of `(N,)` values of the same models.

    The intervals are between the 2.5 and 97.5 percentiles over resampled models; resamples in which
    a quantity is constant are left out.

    Raises:
        InputError: fewer than three models, or a value that is not finite.
    """
    if len(x) < LEAST:
        raise InputError(f"a correlation over {len(x)} models says nothing; give {LEAST} or more")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("a correlation of values that are not finite (NaN) says nothing")
    drawn = np.random.default_rng(seed).integers(len(x), size=(RESAMPLES, len(x)))
    return Correlation(
        _coefficient(pearson, x, y, drawn),
        _coefficient(spearman, x, y, drawn),
        _coefficient(kendall, x, y, drawn),
        len(x),
    )


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's r of each row of `(B, N)`; NaN where one of the two is constant."""
    x = _centred(x)
    y = _centred(y)
    spread = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    unknown = np.full_like(spread, np.nan)
    values = np.divide((x * y).sum(1), spread, out=unknown, where=spread > 0)
    return np.clip(values, -1, 1)


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's ρ of each row: Pearson's r of ranks, ties having the mean of theirs."""
    return pearson(average_ranks(x), average_ranks(y))


def kendall(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Kendall's τ-b of each row (Kendall 1945, Biometrika 33): of all pairs of models, those in the
    same order less those in opposite orders, with a correction for ties.
    """
    x_order = _orders(x)
    y_order = _orders(y)
    spread = np.sqrt((x_order**2).sum((1, 2)) * (y_order**2).sum((1, 2)))
    unknown = np.full_like(spread, np.nan)
    return np.divide((x_order * y_order).sum((1, 2)), spread, out=unknown, where=spread > 0)


def average_ranks(values: np.ndarray) -> np.ndarray:
    """The ranks of each row of `(B, N)` from 1, the smallest, ties having the mean of theirs."""
    below = (values[:, None, :] < values[:, :, None]).sum(2)
    ties = (values[:, None, :] == values[:, :, None]).sum(2)
    return below + (ties + 1) / 2


def _coefficient(measure: Pairs, x: np.ndarray, y: np.ndarray, drawn: np.ndarray) -> Coefficient:
    value = float(measure(x[None], y[None])[0])
    together = max(1, CHUNK // len(x) ** 2)
    parts = [drawn[i : i + together] for i in range(0, len(drawn), together)]
    resampled = np.concatenate([measure(x[part], y[part]) for part in parts])
    resampled = resampled[np.isfinite(resampled)]
    if np.isnan(value) or not len(resampled):
        return Coefficient(value, np.nan, np.nan)
    low, high = np.quantile(resampled, [0.025, 0.975]).tolist()
    return Coefficient(value, min(low, value), max(high, value))


def _centred(values: np.ndarray) -> np.ndarray:
    """About the mean of each row; exactly 0 where all are the same, which rounding may not be."""
    constant = (values == values[:, :1]).all(1, keepdims=True)
    return np.where(constant, 0.0, values - values.mean(1, keepdims=True))


def _orders(values: np.ndarray) -> np.ndarray:
    """Of each pair in each row, `(B, N, N)`: which is larger, 1, 0 or −1."""
    return np.sign(values[:, :, None] - values[:, None, :])
