"""The nearest rows of many features to one, exactly, by looking at few of them.

Rows as vectors of length 1 are turned onto their principal axes (of the second moments, about 0).
Of each, the first R coordinates `h` are kept, and how long the rest is, ρ = √(1 − |h|²). By the
inequality of Cauchy and Schwarz the cosine of rows x and q is at most h(x)·h(q) + ρ(x)·ρ(q), so
whatever lies below the k-th nearest by that bound need not be compared with at all.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from seer.eval.probes.features import LARGE
from seer.eval.probes.search import Nearest, directions, search

KEPT = 256  # R
SAMPLE = 20_000  # rows of which the axes are taken
SMALL = 2**21  # values, of fewer of which all are compared with
BLOCK = 2**12  # rows that are turned at once
GATHERED = 2**7  # rows that are compared with at once: they stay in the cores' cache
FEW = 4  # times as many rows as are asked for are compared with to begin with
SLACK = 1e-5  # of the bounds, for what float32 rounds
CPU = torch.device("cpu")


@dataclass
class Index:
    """Features to be searched.

    Attributes:
        features: `(N, D)` float32, finite, none all zero.
        axes: `(D, R)` float32, orthonormal.
        heads: `(N, R)` float32, the first coordinates h of the directions.
        rests: `(N,)` float32, ρ.
        lengths: `(N,)` float32 of the features; None where squares overflow or vanish.
    """

    features: Tensor
    axes: Tensor
    heads: Tensor
    rests: Tensor
    lengths: Tensor | None

    @classmethod
    def of(cls, features: Tensor, kept: int = KEPT) -> "Index":
        axes = principal_axes(features, min(kept, features.shape[1]))
        blocks = features.split(BLOCK)
        heads = torch.cat([directions(block) @ axes for block in blocks])
        lengths = torch.cat([torch.linalg.vector_norm(block, dim=1) for block in blocks])
        usual = bool(((lengths > 1 / LARGE) & (lengths < LARGE)).all())
        return cls(features, axes, heads, _rest(heads), lengths if usual else None)

    def nearest(self, query: Tensor, k: int) -> Nearest:
        """Cosines and places `(k,)` of the k rows nearest to a query `(D,)`, nearest first."""
        k = min(k, len(self.features))
        if self.features.numel() <= SMALL:
            return _all_compared(self.features, query, k)
        candidates = self.candidates(query, k)
        if len(candidates) > len(self.features) // 4:
            return _all_compared(self.features, query, k)
        near, order = self._cosines(query, candidates).topk(k)
        return near, candidates[order]

    def candidates(self, query: Tensor, k: int) -> Tensor:
        """The rows among which the k nearest must be."""
        direction = directions(query[None])
        head = direction @ self.axes
        estimates = torch.mv(self.heads, head[0])
        begun = estimates.topk(min(FEW * k, len(estimates))).indices
        threshold = self._cosines(query, begun).topk(k).values[-1] - SLACK
        bounds = estimates.addcmul_(self.rests, _rest(head))
        return (bounds >= threshold).nonzero()[:, 0]

    def _cosines(self, query: Tensor, rows: Tensor) -> Tensor:
        direction = directions(query[None])[0]
        parts = rows.split(GATHERED)
        if self.lengths is None:
            return torch.cat([torch.mv(directions(self.features[p]), direction) for p in parts])
        products = torch.cat([torch.mv(self.features[p], direction) for p in parts])
        return products / self.lengths[rows]


def principal_axes(features: Tensor, count: int) -> Tensor:
    """`(D, count)`: the directions in which the directions of features `(N, D)` are longest."""
    width = features.shape[1]
    every = max(1, len(features) // SAMPLE)
    rows = torch.arange(0, len(features), every)
    moments = torch.zeros(width, width)
    for part in rows.split(BLOCK):
        block = directions(features[part])
        moments += block.T @ block
    return torch.linalg.eigh(moments).eigenvectors.flip(1)[:, :count].contiguous()


def _rest(heads: Tensor) -> Tensor:
    """ρ of rows whose first coordinates these are."""
    return (1 - heads.square().sum(1)).clamp(min=0).sqrt()


def _all_compared(features: Tensor, query: Tensor, k: int) -> Nearest:
    near, places = search(query[None], features, k, CPU)
    return near[0], places[0]


def neighbour_graph(directions: Tensor, k: int, begin: int, end: int) -> Tensor:
    """The k nearest other rows of rows `begin` … `end` - 1, `(end - begin, k)`."""
    _, places = search(directions[begin:end], directions, min(k + 1, len(directions)), CPU)
    own = places == torch.arange(begin, end)[:, None]
    # A row that is not among its own nearest has so many that are alike: the last gives way.
    own[:, -1] |= ~own.any(1)
    return places[~own].view(end - begin, places.shape[1] - 1)
