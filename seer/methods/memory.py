"""What a method remembers beyond a step: a queue of embeddings, a slowly following teacher."""

import math
from copy import deepcopy
from itertools import chain
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seer.distributed import all_reduce_mean, gather, local, rank, size
from seer.engine.learner import Step
from seer.methods.base import over_crops
from seer.precision import at_least_fp32

T = TypeVar("T")


class Aside(Generic[T]):
    """What micro-batches leave for `after_update`: of one step, so that those of a step that failed are
    dropped.
    """

    def __init__(self) -> None:
        self.step = -1
        self.kept: list[T] = []

    def keep(self, value: T, step: Step) -> None:
        """Keep what a micro-batch leaves, in its order; no gradient."""
        earlier = self.kept if self.step == step.number else []
        self.kept = [*earlier, value]
        self.step = step.number

    def take(self) -> list[T]:
        """What was kept, which is forgotten then."""
        kept = self.kept
        self.step = -1
        self.kept = []
        return kept


def cut_batch(queue: int, batch_size: int) -> list[str]:
    """What to tell of a queue that is no multiple of the batch: it is a ring, so nothing is lost."""
    if queue % batch_size == 0:
        return []
    told = f"no multiple of batch_size={batch_size}, so of its oldest batch a part is left"
    return [f"method.queue={queue}: {told}"]


class Queue(nn.Module):
    """The last `length` rows pushed by any rank, oldest overwritten first. Every rank holds all of
    it.

    A ring: `pushed` counts the rows that ever came, so row number n lies at n modulo `length`.
    """

    rows: Tensor
    pushed: Tensor
    _noted: tuple[Tensor | None, int, int]

    def __init__(self, length: int, *shape: int):
        super().__init__()
        self.aside: Aside[Tensor] = Aside()
        self.register_buffer("rows", torch.zeros(length, *shape))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))
        self._note(0)

    def reset_parameters(self) -> None:
        self.rows.zero_()
        self.clear()

    @torch.no_grad()
    def clear(self) -> None:
        """Forget every row."""
        self.pushed.zero_()
        self._note(0)

    @property
    def full(self) -> bool:
        """Whether every row has been pushed.

        It waits for the device once after a checkpoint was loaded, and not at any other time.
        """
        if self.pushed.is_meta:
            return False
        count = self._count()
        if count is None:
            count = int(self.pushed)
            self._note(count)
        return count >= len(self.rows)

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Append the `(n, ...)` rows of each rank, in rank order."""
        rows = gather(rows.detach().to(self.rows.dtype))
        count = self._count()
        self.pushed += len(rows)
        if count is not None:
            self._note(count + len(rows))
        rows = rows[-len(self.rows) :]
        numbers = self.pushed - len(rows) + torch.arange(len(rows), device=rows.device)
        self.rows[numbers % len(self.rows)] = rows

    def push_aside(self) -> None:
        """Push what micro-batches have kept in `aside`."""
        for rows in self.aside.take():
            self.push(rows)

    def share(self) -> Tensor:
        """This rank's part of the rows; the ranks' parts together are the whole queue."""
        return self.rows.tensor_split(size())[rank()]

    def _note(self, count: int) -> None:
        """Remember on the host what `pushed` holds, by the version of the tensor: whoever writes
        into it, or puts another in its place, makes the note void.
        """
        self._noted = (self.pushed, self.pushed._version, count)

    def _count(self) -> int | None:
        """What `pushed` holds; None where only the device knows."""
        tensor, version, count = self._noted
        return count if tensor is self.pushed and version == self.pushed._version else None

    def __getstate__(self) -> dict:
        """Of a copy: its tensors count their versions anew."""
        return {**self.__dict__, "_noted": (None, 0, 0), "aside": Aside()}


class Keys(Queue):
    """A queue of directions, `(length, width)`, that begins with random ones, the same on all ranks
    and in all runs: every row counts from the first step on.
    """

    def __init__(self, length: int, width: int):
        super().__init__(length, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if not self.rows.is_meta:
            draw = torch.Generator().manual_seed(0)
            directions = torch.randn(self.rows.shape, generator=draw)
            self.rows.copy_(F.normalize(directions, dim=1))


class Teacher(nn.Module):
    """A copy of backbone and head whose parameters follow theirs as an exponential moving average.

    Only parameters are averaged. Like its student, the teacher runs in training mode: its BatchNorm
    uses the batch's statistics, and its running statistics come from its own forward passes. So
    does DeepMind's BYOL (deepmind-research, byol_experiment.py: `target_state`); they are neither
    copied nor averaged.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone = deepcopy(backbone)
        self.head = deepcopy(head)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, crops: Tensor) -> Tensor:
        """`(V, B, D)` embeddings of crops `(V, B, C, H, W)`."""
        return over_crops(self.head, over_crops(self.backbone, crops))

    @torch.no_grad()
    def copy_from(self, backbone: nn.Module, head: nn.Module) -> None:
        """Become equal to the student, buffers included."""
        for network, student in ((self.backbone, backbone), (self.head, head)):
            mine, theirs = (chain(n.parameters(), n.buffers()) for n in (network, student))
            for target, source in zip(mine, theirs, strict=True):
                local(target).copy_(local(source))

    @torch.no_grad()
    def follow(self, backbone: nn.Module, head: nn.Module, momentum: float) -> None:
        """teacher ← momentum · teacher + (1 - momentum) · student, each rank on its own shards."""
        mine = [local(p) for p in self.parameters()]
        theirs = [local(p) for p in chain(backbone.parameters(), head.parameters())]
        torch._foreach_lerp_(mine, theirs, 1 - momentum)


def teacher_momentum(base: float, step: Step) -> float:
    """1 - (1 - base) · (cos(π k / K) + 1) / 2: from `base` at step 0 to 1 at the end (BYOL; Grill et al.
    2020, arXiv:2006.07733, section 3.3).
    """
    return 1 - (1 - base) * (math.cos(math.pi * step.number / step.total) + 1) / 2


@torch.no_grad()
def spread(embeddings: Tensor) -> Tensor:
    """Root mean square distance of all ranks' `(B, D)` directions from their mean: 0 is collapse, 1
    all round.
    """
    mean = all_reduce_mean(F.normalize(at_least_fp32(embeddings), dim=1).mean(dim=0))
    return (1 - mean.square().sum()).clamp_(min=0).sqrt()
