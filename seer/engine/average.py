"""Weights averaged over the steps of a training (Polyak and Juditsky 1992, SIAM J. Control Optim. 30)."""

from collections.abc import Iterator, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from seer.distributed import local

WARMUP = 10  # steps' worth of patience: the first weights are not remembered for long


class Average(nn.Module):
    """Copies of modules whose parameters follow theirs as an exponential moving average; state of a
    learner like any other, sharded as they are. Buffers are not averaged.

    Args:
        decay: how much of the average stays at each step, once there were many.
    """

    def __init__(self, modules: Sequence[nn.Module], decay: float):
        super().__init__()
        self.copies = nn.ModuleList(deepcopy(list(modules)))
        self.requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def follow(self, modules: Sequence[nn.Module], step: int) -> None:
        """Average ← d · average + (1 − d) · weights, after the update of a step (from 0): d is the decay,
        or (1 + step) / (10 + step) where that is less.
        """
        decay = min(self.decay, (1 + step) / (WARMUP + step))
        torch._foreach_lerp_(list(_local(self.copies)), list(_local(modules)), 1 - decay)

    @torch.no_grad()
    def put_into(self, modules: Sequence[nn.Module]) -> None:
        """Give the modules the averaged weights."""
        for weights, average in zip(_local(modules), _local(self.copies), strict=True):
            weights.copy_(average)


def _local(modules: Sequence[nn.Module] | nn.ModuleList) -> Iterator[Tensor]:
    """Each parameter's part on this rank."""
    for module in modules:
        yield from map(local, module.parameters())
