"""Spherical k-means of rows that lie on several ranks (Dhillon & Modha 2001, Machine Learning 42,
143-175).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from seer.distributed import all_reduce_sum

BLOCK = 2**24  # similarities that are held at a time: 64 MB
APART = 1e-4  # how far, in each dimension, the halves of a cluster that is divided are put apart


@dataclass(frozen=True)
class Clusters:
    """What k-means comes to.

    Attributes:
        centroids: `(K, D)` of length 1, the same on all ranks.
        assignments: `(n,)` int64, of this rank's rows.
        empty: how many clusters no row of any rank is in.
    """

    centroids: Tensor
    assignments: Tensor
    empty: int


@torch.no_grad()
def spherical_kmeans(
    rows: Tensor, centroids: Tensor, iterations: int, refill: bool = False
) -> Clusters:
    """Move centroids to the mean directions of the rows that are nearest to them by cosine, so many
    times.

    Args:
        rows: `(n, D)` of length 1, this rank's; n may be 0.
        centroids: `(K, D)` of length 1 to begin with, the same on all ranks.
        refill: give half of the largest cluster to each that is empty; else these keep their centroids.
    """
    for _ in range(iterations):
        sums, counts = sums_of(rows, nearest(rows, centroids), len(centroids))
        moved = F.normalize(sums, dim=1).to(centroids.dtype)
        centroids = torch.where(counts[:, None] > 0, moved, centroids)
        if refill:
            centroids = divided(centroids, counts)
    assignments = nearest(rows, centroids)
    _, counts = sums_of(rows, assignments, len(centroids))
    return Clusters(centroids, assignments, int((counts == 0).sum()))


def nearest(rows: Tensor, centroids: Tensor) -> Tensor:
    """`(n,)`: the centroid that each row `(n, D)` is nearest to; of equally near ones the first."""
    block = max(1, BLOCK // len(centroids))
    parts = [(part @ centroids.T).argmax(1) for part in rows.split(block)]
    return torch.cat(parts) if len(rows) else rows.new_zeros(0, dtype=torch.int64)


def sums_of(rows: Tensor, assignments: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """`(K, D)` sums of each cluster's rows and `(K,)` how many they are, over all ranks, in float64: so
    that their order, and with it the number of ranks, hardly counts.
    """
    sums = rows.new_zeros(clusters, rows.shape[1], dtype=torch.float64)
    sums.index_add_(0, assignments, rows.double())
    counts = torch.bincount(assignments, minlength=clusters).double()
    together = all_reduce_sum(torch.cat([sums, counts[:, None]], dim=1))
    return together[:, :-1], together[:, -1]


def divided(centroids: Tensor, counts: Tensor) -> Tensor:
    """The largest clusters' centroids in two, a little apart, one half in the place of an empty
    cluster's.
    """
    empty = (counts == 0).nonzero().flatten()
    largest = counts.argsort(descending=True, stable=True)[: len(empty)]
    empty = empty[: int((counts > 1).sum())]
    largest = largest[: len(empty)]
    signs = 1 - 2 * (torch.arange(centroids.shape[1], device=centroids.device) % 2)
    shift = APART * signs.to(centroids.dtype)
    apart = centroids.clone()
    apart[empty] = F.normalize(centroids[largest] + shift, dim=1)
    apart[largest] = F.normalize(centroids[largest] - shift, dim=1)
    return apart
