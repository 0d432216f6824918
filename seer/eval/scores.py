"""Measured values and how sure they are."""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Z = 1.959964  # two-sided 95 % of the normal distribution


@dataclass
class Score:
    """One measured value with the 95 % interval [low, high]; `details` say what was chosen on the way."""

    metric: str
    value: float
    low: float
    high: float
    details: dict[str, Any] = field(default_factory=dict)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion (1927); it stays inside [0, 1], and honest near its ends."""
    p, shrink = successes / trials, 1 + Z**2 / trials
    centre = (p + Z**2 / (2 * trials)) / shrink
    half = Z / shrink * math.sqrt(p * (1 - p) / trials + Z**2 / (4 * trials**2))
    return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))


def accuracy(metric: str, correct: Tensor, details: dict[str, Any] | None = None) -> Score:
    """The share of `correct` (bool), as a number from 0 to 1, with Wilson's interval."""
    hits, trials = int(correct.sum()), correct.numel()
    return Score(metric, hits / trials, *wilson(hits, trials), {"images": trials, **(details or {})})
