"""Clusters of surface normals, so that they can be learned as classes (Wang et al. 2015,
arXiv:1411.4958): k-means, and the mean of the clusters by their probabilities.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

ROUNDS = 100


def clusters(normals: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`(count, 3)` float64 unit centres of `(N, 3)` unit normals: k-means (Lloyd's rounds from the seeds of
    k-means++, Arthur and Vassilvitskii 2007), the centres put back on the sphere at the end.

    Raises:
        ValueError: there are fewer different normals.
    """
    points = normals.astype(np.float64)
    centres = _seeds(points, count, np.random.default_rng(seed))
    assigned = np.full(len(points), -1)
    for _ in range(ROUNDS):
        nearest = _nearest(points, centres)
        if (nearest == assigned).all():
            break
        assigned = nearest
        members = np.bincount(assigned, minlength=count)
        sums = np.stack([np.bincount(assigned, column, count) for column in points.T], 1)
        there = members > 0
        centres[there] = sums[there] / members[there, None]
    return centres / np.linalg.norm(centres, axis=1, keepdims=True)


def _seeds(points: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    centres = np.empty((count, 3))
    distance = np.full(len(points), np.inf)
    for k in range(count):
        shares = distance if k else np.ones(len(points))
        ends = np.cumsum(shares)
        if not distance.any():
            raise ValueError(f"there are {k} different normals, and {count} clusters")
        drawn = np.searchsorted(ends, random.random() * ends[-1], side="right")
        centres[k] = points[min(drawn, len(points) - 1)]
        distance = np.minimum(distance, np.square(points - centres[k]).sum(1))
    return centres


def _nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """`(N,)`: whose centre is nearest; the first of equals."""
    return (points @ centres.T - np.square(centres).sum(1) / 2).argmax(1)


def assigned(normals: Tensor, codebook: Tensor) -> Tensor:
    """The cluster `(B, H, W)` of each normal `(B, 3, H, W)`: that of the smallest angle to one of `(K, 3)`
    unit centres, the first of equals; −1 where the normal is not finite.
    """
    known = normals.isfinite().all(1)
    cosines = torch.einsum("bchw,kc->bkhw", torch.where(known[:, None], normals, 0), codebook)
    return torch.where(known, cosines.argmax(1), -1)


def expected(logits: Tensor, codebook: Tensor) -> Tensor:
    """`(B, 3, H, W)`: the mean of `(K, 3)` centres by the probabilities of classes `(B, K, H, W)`, whose
    direction is the normal.
    """
    return torch.einsum("bkhw,kc->bchw", logits.softmax(1), codebook)


def sample(maps: Sequence[np.ndarray], most: int) -> np.ndarray:
    """Up to about `most` known normals `(N, 3)`, evenly from maps `(H, W, 3)`."""
    chosen = []
    for normals in maps:
        known = normals[np.isfinite(normals).all(-1)]
        step = max(1, len(known) * len(maps) // most)
        chosen.append(known[step // 2 :: step])
    return np.concatenate([np.empty((0, 3), np.float32), *chosen])
