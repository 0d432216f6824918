"""Sinkhorn–Knopp: soft assignments that use all prototypes equally."""

import torch
from torch import Tensor

from seer.distributed import all_reduce_max, all_reduce_sum
from seer.precision import full_precision


@torch.no_grad()
@full_precision
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> tuple[Tensor, Tensor]:
    """Assign samples to prototypes, every prototype getting the same share of all ranks' samples.

    The solution has the form Q = Diag(u) exp(scores / ε) Diag(v) (Caron et al. 2020, eq. 5). Only
    the vectors u, over prototypes, and v, over samples, are iterated on, so each half iteration is
    one matrix–vector product; and as each sample's assignment is made to sum to 1 at the end, the
    sizes of the shares cancel out.

    exp cannot overflow, and no row or column of finite scores can vanish: each prototype's highest
    score among the samples of all ranks and then each sample's highest remaining score are
    subtracted first. Both are exact, the one because prototypes are scaled first, the other because
    v starts with what it took away.

    Args:
        scores: `(A, N, K)`: A independent problems of this rank's N samples and K prototypes. N may differ among ranks.
        epsilon: the entropy's weight; the smaller, the closer to one prototype for each sample.
        iterations: at least 1.

    Returns:
        `(A, N, K)` assignments in at least fp32, each sample's summing to 1; and the number of prototypes (a scalar
        tensor) that got no sample at all, as a column of -inf or a mass beyond the reach of floating point makes them.
    """
    assert iterations >= 1
    limits = torch.finfo(scores.dtype)
    q = scores / epsilon
    q -= all_reduce_max(q.amax(dim=1, keepdim=True)).clamp_(min=limits.min)
    highest = q.amax(dim=2, keepdim=True).clamp_(min=limits.min)
    q = q.sub_(highest).exp_()

    v = highest.squeeze(2).exp_()
    mass = all_reduce_sum(_products(q.mT, v))  # of each prototype
    for _ in range(iterations - 1):
        v = _inverse(_products(q, _inverse(mass)))
        mass = all_reduce_sum(_products(q.mT, v))
    q *= _inverse(mass).unsqueeze(1)
    q /= q.sum(dim=2, keepdim=True).clamp_(min=limits.tiny)
    return q, (mass < _floor(mass)).sum()


def _floor(tensor: Tensor) -> float:
    """What counts as nothing: its inverse, summed over a million samples or prototypes, is still
    finite.
    """
    return torch.finfo(tensor.dtype).tiny * 1e8


def _inverse(sums: Tensor) -> Tensor:
    return sums.clamp(min=_floor(sums)).reciprocal_()


def _products(matrices: Tensor, vectors: Tensor) -> Tensor:
    """`(A, n, m)` times `(A, m)`. One at a time: a batched product may go through TF32, which has
    10 bits.
    """
    return torch.stack([torch.mv(m, v) for m, v in zip(matrices, vectors, strict=True)])
