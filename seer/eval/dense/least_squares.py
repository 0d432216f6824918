"""Ridge regression from sums alone, so that no features are kept."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

HELD = 5  # one of so many training images chooses λ
RIDGES = [10.0**power for power in range(-7, 1)]


class Sums:
    """What weighted least squares needs of all places: FᵀWF, FᵀWY and YᵀWY, float64.

    A constant feature stands last among the D + 1.
    """

    def __init__(self, features: int, targets: int):
        self.gram = torch.zeros(features + 1, features + 1, dtype=torch.float64)
        self.cross = torch.zeros(features + 1, targets, dtype=torch.float64)
        self.square = torch.zeros((), dtype=torch.float64)
        self.weight = torch.zeros((), dtype=torch.float64)

    def add(self, features: Tensor, targets: Tensor, weights: Tensor) -> None:
        """Add places: `(n, D)`, `(n, T)` and `(n,)`."""
        rows = torch.cat([features, torch.ones_like(features[:, :1])], 1).double()
        weighted = rows * weights.double()[:, None]
        self.gram += weighted.T @ rows
        self.cross += weighted.T @ targets.double()
        self.square += (targets.double().square() * weights.double()[:, None]).sum()
        self.weight += weights.double().sum()

    def __add__(self, more: "Sums") -> "Sums":
        total = Sums(len(self.gram) - 1, self.cross.shape[1])
        for name in ("gram", "cross", "square", "weight"):
            setattr(total, name, getattr(self, name) + getattr(more, name))
        return total

    def solve(self, ridge: float) -> Tensor:
        """Coefficients `(D + 1, T)` that make the mean squared error plus `ridge` times the squares
        of the coefficients of unit-scale features least; the constant is free.
        """
        scale = (self.gram.diagonal() / self.weight).sqrt().clamp(min=1e-12)
        scaled = self.gram / self.weight / torch.outer(scale, scale)
        penalty = torch.full_like(scale, ridge)
        penalty[-1] = 0
        cross = self.cross / self.weight / scale[:, None]
        return torch.linalg.solve(scaled + penalty.diag(), cross) / scale[:, None]

    def error(self, coefficients: Tensor) -> float:
        """The mean squared error of coefficients on these places."""
        explained = 2 * (coefficients * self.cross).sum()
        fitted = (coefficients * (self.gram @ coefficients)).sum()
        return float((self.square - explained + fitted) / self.weight)


def best_ridge(fit: Sums, held: Sums, ridges: Sequence[float]) -> float:
    """The one whose solution of `fit` has the least error on `held`; the first of equals."""
    errors = [held.error(fit.solve(ridge)) for ridge in ridges]
    return ridges[int(np.argmin(errors))]


def fitted(
    samples: Iterable[tuple[int, Tensor, Tensor, Tensor]], count: int
) -> tuple[float, Tensor] | None:
    """λ, the one with the least squared error on a fifth of the images, and the coefficients `(D + 1,
    C)` of all; None where one of the two parts has nothing.

    Args:
        samples: of each of the `count` images its number, features `(n, D)`, targets `(n, C)` and weights `(n,)`.
    """
    parts: list[Sums] = []
    for number, features, targets, weights in samples:
        parts = parts or [Sums(features.shape[1], targets.shape[1]) for _ in range(2)]
        held = number % HELD == HELD - 1 or number == count - 1 < HELD
        parts[held].add(features, targets, weights)
    kept, held_out = parts
    if not (kept.weight > 0 and held_out.weight > 0):
        return None
    ridge = best_ridge(kept, held_out, RIDGES)
    return ridge, (kept + held_out).solve(ridge)
