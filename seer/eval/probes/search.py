"""The nearest features, by comparing with all: exact, of as many as a disk holds."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from seer.distributed import on_all
from seer.eval.probes import together
from seer.eval.probes.features import LARGE, taming

BLOCK = 2**25  # values of the bank that are compared with at once: 128 MB
CHUNK = 2**24  # similarities held at once: 64 MB
GROUP = 32
FEW = 8  # groups for each neighbour, below which it is faster to rank all

Nearest = tuple[Tensor, Tensor]  # how near `(Q, k)`, and where


def search(
    queries: Tensor, bank: Tensor, k: int, device: torch.device, metric: str = "cosine"
) -> Nearest:
    """Nearness and places in `bank` of each query's k nearest, nearest first: two `(Q, k)` on the
    CPU.

    The bank passes by once, block by block, and may be mapped from a file that is larger than
    memory.

    Args:
        metric: `cosine`, whose nearness is the cosine, or `euclidean`, whose nearness is minus half of the squared
            distance (of vectors of length 1: the cosine minus 1).
    """
    turn = directions if metric == "cosine" else euclidean(bank)
    rows = block_of(bank, k)
    chunks = queries.split(chunk_of(bank, k))
    asked = [turn(chunk.to(device), False) for chunk in chunks]
    nearest: list[Nearest] = []
    for first in range(0, len(bank), rows):
        block = turn(bank[first : first + rows].to(device), True)
        of_block = [_nearest(chunk @ block.T, k, first) for chunk in asked]
        nearest = list(map(_merged, nearest, of_block)) if nearest else of_block
    near = torch.cat([part for part, _ in nearest]).cpu()
    return near, torch.cat([places for _, places in nearest]).cpu()


def search_together(
    queries: Tensor, bank: Tensor, k: int, device: torch.device, metric: str
) -> Nearest:
    """`search`, the queries shared among the processes; the whole result in each of them."""
    if together.processes() == 1:
        return search(queries, bank, k, device, metric)
    chunks = queries.split(chunk_of(bank, k))
    own = chunks[together.number() :: together.processes()]
    found: list[Nearest] = []
    if own:
        near, places = search(torch.cat(own), bank, k, device, metric)
        lengths = [len(chunk) for chunk in own]
        found = list(zip(near.split(lengths), places.split(lengths), strict=True))
    of_all = on_all(lambda: found)
    in_order = [
        of_all[i % together.processes()][i // together.processes()] for i in range(len(chunks))
    ]
    return torch.cat([near for near, _ in in_order]), torch.cat([at for _, at in in_order])


def block_of(bank: Tensor, k: int) -> int:
    """How many rows of a bank are compared with at once."""
    return max(k, BLOCK // bank.shape[1])


def chunk_of(bank: Tensor, k: int) -> int:
    """How many queries are compared at once."""
    return max(1, CHUNK // min(block_of(bank, k), len(bank)))


def _nearest(nearness: Tensor, k: int, first: int) -> Nearest:
    """The k nearest of a block `(Q, N)` whose first place is `first`.

    They are in the k groups whose nearest are nearest: only those are ranked, since looking for
    maxima is much faster than ranking.
    """
    groups = nearness.shape[1] // GROUP
    if groups < FEW * k:
        near, places = nearness.topk(min(k, nearness.shape[1]))
        return near, places + first
    grouped = nearness[:, : groups * GROUP].unflatten(1, (groups, GROUP))
    best = grouped.amax(2).topk(k).indices[:, :, None]
    members = best * GROUP + torch.arange(GROUP, device=nearness.device)
    rest = torch.arange(groups * GROUP, nearness.shape[1], device=nearness.device)
    places = torch.cat([members.flatten(1), rest.expand(len(nearness), -1)], 1)
    near, which = nearness.gather(1, places).topk(k)
    return near, places.gather(1, which) + first


def _merged(a: Nearest, b: Nearest) -> Nearest:
    """The k nearest of two lists, of which the first has k."""
    near, which = torch.cat([a[0], b[0]], 1).topk(a[0].shape[1])
    return near, torch.cat([a[1], b[1]], 1).gather(1, which)


def directions(features: Tensor, _: bool = True) -> Tensor:
    """Features `(N, D)` as vectors of length 1."""
    lengths = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    if bool(((lengths > 1 / LARGE) & (lengths < LARGE)).all()):
        return features / lengths
    return F.normalize(features * taming(features.abs().amax(1, keepdim=True)), dim=1)


def euclidean(bank: Tensor) -> Callable[[Tensor, bool], Tensor]:
    """Turns features `(N, D)` into `(N, D + 2)`, the bank's and the queries' in two ways, so that
    their products are minus half of the squared distances.

    Of differences to the bank's mean, since squares of what is far from 0 would cancel.
    """
    blocks = bank.split(max(1, BLOCK // bank.shape[1]))
    largest = torch.stack([block.abs().amax() for block in blocks]).amax()
    factor = taming(largest)
    total = torch.stack([(block * factor).sum(0, dtype=torch.float64) for block in blocks]).sum(0)
    mean = (total / len(bank)).to(bank.dtype)

    def turn(features: Tensor, of_bank: bool) -> Tensor:
        moved = features * factor.to(features.device) - mean.to(features.device)
        halves = moved.square().sum(1, keepdim=True) / -2
        ones = torch.ones_like(halves)
        return torch.cat([moved, halves, ones] if of_bank else [moved, ones, halves], 1)

    return turn
