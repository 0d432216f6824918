"""Logistic regression with an L2 penalty on frozen features, to the optimum, at one λ after
another.

For features x, labels y and each λ, the minimum over W `(D, C)` and b `(C,)` of

    Σ_i loss(x_i W + b, y_i) + λ/2 ‖W‖²,

which is scikit-learn's `LogisticRegression` with C = 1/λ. The loss is the cross-entropy of a
softmax over the classes, or of a sigmoid for each class (one-vs-rest).

L-BFGS (Nocedal & Wright 2006, algorithm 7.4) in float64, with what keeps its passes over the
features few: they are turned into their principal axes, where a diagonal says much of the Hessian
(Böhning 1992, Ann. Inst. Stat. Math. 44); a step's length is found along the line, on logits that
are there already; and from λ to λ both the solution and what was learned of the Hessian go on.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

MEMORY = 12  # steps that are remembered
EVALUATIONS = 12  # along a line at most
FLAT = 0.1  # of the first slope: where a line is followed no further
CERTAIN = 1e-12  # below it, no image of any is uncertain
ROWS = 1024  # of features that are converted at once


class Loss(Protocol):
    """A loss of logits `(N, G, K)`, of G problems that share nothing but the features, with K
    columns each.

    Its work is on margins, which are linear in the logits: how far each column is ahead of where
    it belongs. They give the loss of each problem `(G,)`, and weights `(N, G, K)`, its derivatives
    in the margins.
    """

    shape: tuple[int, int]  # (G, K)

    def margins(self, logits: Tensor) -> Tensor: ...

    def evaluate(self, margins: Tensor) -> tuple[Tensor, Tensor]: ...

    def curvature(self, weights: Tensor, along: Tensor) -> Tensor: ...

    def gradient(self, weights: Tensor) -> Tensor: ...


class Softmax:
    """Cross-entropy over all classes: one problem. `labels`: `(N,)`.

    In margins z_c − z_y nothing cancels, however near to 0 the loss is.
    """

    def __init__(self, labels: Tensor, classes: int):
        self.own = labels[:, None, None]
        self.shape = (1, classes)

    def margins(self, logits: Tensor) -> Tensor:
        return logits - logits.gather(2, self.own)

    def evaluate(self, margins: Tensor) -> tuple[Tensor, Tensor]:
        largest = margins.amax(2, keepdim=True)  # 0 or more, that of the label being 0
        others = (margins - largest).exp_().scatter_(2, self.own, 0.0)
        total = others.sum(2, keepdim=True)
        loss = largest + torch.log1p(total + torch.expm1(-largest))
        return loss.sum((0, 2)), others.div_(total + (-largest).exp())

    def curvature(self, weights: Tensor, along: Tensor) -> Tensor:
        slopes = weights * along
        return (slopes * along).sum((0, 2)) - slopes.sum(2).square().sum(0)

    def gradient(self, weights: Tensor) -> Tensor:
        return weights.scatter(2, self.own, -weights.sum(2, keepdim=True))


class Sigmoids:
    """A binary cross-entropy for each class: as many problems, of one column each.

    `labels`: `(N, C)`: 1, 0, or -1 where an image does not count for a class.
    """

    def __init__(self, labels: Tensor):
        self.counted = (labels >= 0).double()[:, :, None]
        self.signs = (1.0 - 2.0 * labels.double())[:, :, None] * self.counted
        self.shape = (labels.shape[1], 1)

    def margins(self, logits: Tensor) -> Tensor:
        return logits * self.signs

    def evaluate(self, margins: Tensor) -> tuple[Tensor, Tensor]:
        losses = F.softplus(margins, threshold=40.0) * self.counted
        return losses.sum((0, 2)), margins.sigmoid() * self.counted

    def curvature(self, weights: Tensor, along: Tensor) -> Tensor:
        return (weights * (1 - weights) * along.square()).sum((0, 2))

    def gradient(self, weights: Tensor) -> Tensor:
        return weights * self.signs


@dataclass
class Axes:
    """Features about their mean, along their principal axes.

    Attributes:
        values: `(N, R + 1)` float64; R is D, or N where there are fewer images. The last column is
            the one that a bias multiplies.
        basis: `(D, R)`, orthonormal.
        mean: `(D,)`.
        spectrum: `(R + 1,)`, each column's sum of squares.
    """

    values: Tensor
    basis: Tensor
    mean: Tensor
    spectrum: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Axes":
        """Those of features `(N, D)` of any precision; float64 is needed but for some rows."""
        images, width = features.shape
        mean = features.mean(0, dtype=torch.float64)
        basis = torch.eye(width, dtype=torch.float64, device=features.device)
        if images < width:  # all that they say is in their span
            basis, _ = torch.linalg.qr((features.double() - mean).T)
        gram = basis.new_zeros(basis.shape[1], basis.shape[1])
        for rows in features.split(ROWS):
            part = rows.double() - mean if images >= width else (rows.double() - mean) @ basis
            gram.addmm_(part.T, part)
        spectrum, axes = torch.linalg.eigh(gram)
        basis = basis @ axes
        values = basis.new_ones(images, basis.shape[1] + 1)
        for rows, part in zip(features.split(ROWS), values.split(ROWS), strict=True):
            part[:, :-1] = (rows.double() - mean) @ basis
        spectrum = F.pad(spectrum.clamp(min=0.0), (0, 1), value=float(images))
        return cls(values, basis, mean, spectrum)

    def heads(self, solution: Tensor) -> Tensor:
        """What a solution `(R + 1, …)` is for the features themselves: weights and, last, biases
        `(D + 1, …)`.
        """
        weights = torch.tensordot(self.basis, solution[:-1], 1)
        biases = solution[-1] - torch.tensordot(self.mean, weights, 1)
        return torch.cat([weights, biases[None]])

    def solution(self, heads: Tensor) -> Tensor:
        """The inverse of `heads`, as far as these axes reach."""
        weights = torch.tensordot(self.basis.T, heads[:-1], 1)
        biases = heads[-1] + torch.tensordot(self.mean, heads[:-1], 1)
        return torch.cat([weights, biases[None]])


@dataclass
class Solution:
    """Of G problems with K columns at one λ.

    Attributes:
        values: `(R + 1, G, K)`, in the axes of `Axes`.
        losses: `(G,)`, penalty included.
        converged: `(G,)`: what is left to gain is below the tolerance, a share of the loss.
        passes: over the features.
    """

    values: Tensor
    losses: Tensor
    converged: Tensor
    passes: int


class Path:
    """Solutions at one λ after another; neighbours first to last, so that each helps the next.

    Args:
        start: where the first search begins, `(R + 1, G, K)`; zero by default.
    """

    def __init__(self, axes: Axes, loss: Loss, start: Tensor | None = None):
        self.axes = axes
        self.loss = loss
        zero = axes.values.new_zeros(len(axes.spectrum), *loss.shape)
        self.solved = [zero if start is None else start]
        self.pairs: list[tuple[Tensor, Tensor]] = []  # steps, and the loss's change of gradient

    def solve(self, penalty: float, tolerance: float, iterations: int) -> Solution:
        """The optimum at λ = `penalty`."""
        penalties = torch.full_like(self.axes.spectrum, penalty)[:, None, None]
        penalties[-1] = 0.0
        values = self._expected()
        margins = self._margins(values)
        loss, weights = self.loss.evaluate(margins)
        slopes = self._gradient(weights)
        diagonal = self._diagonal(weights) + penalties
        for iteration in range(iterations + 1):
            total = loss + inner(penalties * values, values) / 2
            gradient = slopes + penalties * values
            direction = self._direction(gradient, diagonal, penalties)
            slope = inner(gradient, direction)
            # Half of it is what Newton's method expects to gain, if the Hessian is as remembered.
            converged = -slope / 2 <= tolerance * total
            if (iteration and bool(converged.all())) or iteration == iterations:
                break
            along = self._margins(direction)
            linear = inner(penalties * values, direction)
            square = inner(penalties * direction, direction)
            length, loss, weights = self._along(margins, along, slope, linear, square)
            step = length[:, None] * direction
            margins += length[:, None] * along
            values = values + step
            before = slopes
            slopes = self._gradient(weights)
            self.pairs = [*self.pairs[1 - MEMORY :], (step, slopes - before)]
        self.solved = [*self.solved[-1:], values]
        return Solution(values, total, converged, 2 * iteration + 2)

    def _expected(self) -> Tensor:
        """Where the next solution is, if it is as far from the last as that from the one before."""
        if len(self.solved) == 1:
            return self.solved[0]
        return 2 * self.solved[1] - self.solved[0]

    def _margins(self, values: Tensor) -> Tensor:
        logits = (self.axes.values @ values.flatten(1)).unflatten(1, self.loss.shape)
        return self.loss.margins(logits)

    def _gradient(self, weights: Tensor) -> Tensor:
        gradient = self.loss.gradient(weights).flatten(1)
        return (self.axes.values.T @ gradient).unflatten(1, self.loss.shape)

    def _diagonal(self, weights: Tensor) -> Tensor:
        """About the diagonal of the loss's Hessian, as if the images were equally uncertain."""
        wrong = self.loss.gradient(weights).abs()
        uncertainty = (wrong * (1 - wrong)).mean(0).clamp(min=CERTAIN)
        return uncertainty * self.axes.spectrum[:, None, None]

    def _along(
        self, margins: Tensor, along: Tensor, slope: Tensor, linear: Tensor, square: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """How far to go, `(G,)`, by Newton's method between bounds; the loss and weights there.

        The penalty's slope at t is `linear` + t `square`.
        """
        low = torch.zeros_like(slope)
        high = torch.full_like(slope, torch.inf)
        length = torch.ones_like(slope)
        for evaluation in range(EVALUATIONS):
            loss, weights = self.loss.evaluate(margins + length[:, None] * along)
            steepness = inner(weights, along) + linear + length * square
            flat = steepness.abs() <= FLAT * slope.abs()
            if bool(flat.all()) or evaluation + 1 == EVALUATIONS:
                break
            low = torch.where(steepness < 0, length, low)
            high = torch.where(steepness > 0, length, high)
            newton = length - steepness / (self.loss.curvature(weights, along) + square)
            newton = newton.minimum(4 * length)
            between = (newton > low) & (newton < high)
            halved = torch.where(high.isinf(), 2 * length, (low + high) / 2)
            length = torch.where(flat, length, torch.where(between, newton, halved))
        return length, loss, weights

    def _direction(self, gradient: Tensor, diagonal: Tensor, penalties: Tensor) -> Tensor:
        """Minus the gradient times what is remembered of the inverse Hessian: the two loops of
        algorithm 7.4.
        """
        direction = -gradient
        remembered: list[tuple[Tensor, ...]] = []
        factor = torch.ones_like(gradient[0, :, 0])
        for step, change in reversed(self.pairs):
            change = change + penalties * step
            product = inner(step, change)
            inverse = torch.where(product > 0, 1 / product, 0.0)
            share = inverse * inner(step, direction)
            direction = direction - share[:, None] * change
            if not remembered:
                scaled = product / inner(change, change / diagonal)
                factor = torch.where((product > 0) & scaled.isfinite(), scaled, 1.0)
            remembered.append((step, change, inverse, share))
        direction = direction / diagonal * factor[:, None]
        for step, change, inverse, share in reversed(remembered):
            gained = inverse * inner(change, direction)
            direction = direction + (share - gained)[:, None] * step
        return direction


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The scalar product in each problem, `(G,)`."""
    return (a * b).sum((0, 2))
