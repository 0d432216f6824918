"""Banks: rows that a learner keeps of every sample, shared out among the ranks.

What N samples need is too much for every rank to hold, as it would a buffer, and is neither
trained like a parameter. So rank r of R holds rows r·⌈N/R⌉ and on, the last ranks fewer, or none:
`torch.chunk`'s cut, which is also DTensor's. A learner declares a bank by making it an attribute:

    self.features = Bank(samples, 128)                                   # (N, 128), zeros
    self.assignments = Bank(samples, dtype=torch.int64, fill=-1)         # (N,)

A bank is no buffer, so DDP neither broadcasts nor FSDP shards it, mixed precision leaves its type
alone, and `state_dict` has none of it, nor have copies and hashes of weights made from that.
Checkpoints save its rows as `method.NAME.rows`, each rank its own, and load them at any number of
ranks.
Like every tensor there they must be finite: a run whose bank is not goes back.

`write` and `read` are collectives: every rank brings its own batch's indices, as many as every
other. `write` belongs into `after_update`, or into `before_epoch`: a step that is not applied must
leave no trace. Samples that are of one rank alone need none of this: `rows` and `first` say what
lies here, and banks of equal length lie alike.
"""

from collections.abc import Callable
from math import isfinite
from typing import Self

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from seer.distributed import exchange, gather, rank, size


class Bank(nn.Module):
    """`length` rows of this `shape`, in one process or many.

    Attributes:
        length: N, the rows of all ranks together.
        first: the number of the first row that lies here.

    Args:
        dtype: of the rows; a learner that is made wider as a whole (`precision=fp64`) takes its
            banks with it, one that is made narrower does not.
        fill: what they hold before anything is written; finite.
    """

    def __init__(
        self, length: int, *shape: int, dtype: torch.dtype = torch.float32, fill: float = 0
    ):
        super().__init__()
        assert length > 0
        assert isfinite(fill)
        self.length = length
        self.shape = shape
        self.fill = fill
        self._ranks = size()
        self.first, count = share_of(length, rank(), self._ranks)
        # One row more than lies here takes what is written elsewhere: so no shape depends on
        # indices, and no device has to tell the host how many of them are its own.
        self._storage = torch.full((count + 1, *shape), fill, dtype=dtype)

    @property
    def rows(self) -> Tensor:
        """The `(n, ...)` rows that lie here, rows `first` … `first` + n - 1 of all."""
        return self._storage[:-1]

    @torch.no_grad()
    def write(self, index: Tensor, rows: Tensor) -> None:
        """Put the `(B, ...)` rows of each rank's samples `(B,)` in their places. A collective.

        Where a sample comes twice, the last in rank order stays. All rows go to all ranks: a global
        batch of them is a few megabytes, and who needs which is then nobody's question.

        Raises:
            RuntimeError: an index is none of the bank's; on a CUDA device, some time later.
        """
        everyones = self._gathered(index)
        rows = gather(rows.detach().to(self._storage))
        self._storage[self._places(everyones, last_of_each(everyones))] = rows

    @torch.no_grad()
    def read(self, index: Tensor) -> Tensor:
        """The `(B, ...)` rows of samples `(B,)`, wherever they lie, bit for bit and without
        gradient. A collective.

        Raises: as `write`.
        """
        everyones = self._gathered(index)
        # Every rank answers everyone. Of the answers to its own question each takes the owner's.
        answers = exchange(self._storage[self._places(everyones)])
        answers = answers.view(self._ranks, len(index), *self.shape)
        owners = index.to(answers.device) // rows_each(self.length, self._ranks)
        return answers[owners, torch.arange(len(index), device=answers.device)]

    def whole(self) -> Tensor:
        """The rows of all ranks as one tensor, sharded where there are several. The same memory."""
        if self._ranks == 1:
            return self.rows
        mesh = init_device_mesh(self.rows.device.type, (self._ranks,))
        shape = torch.Size((self.length, *self.shape))
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(
            self.rows, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride
        )

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Forget every row."""
        self._storage.fill_(self.fill)

    def extra_repr(self) -> str:
        return f"{self.length}, {', '.join(map(str, self.shape))}, dtype={self._storage.dtype}"

    def _gathered(self, index: Tensor) -> Tensor:
        """The `(R · B,)` indices of all ranks, in rank order."""
        assert self._ranks == size(), "a bank is made after the process group"
        index = gather(index.to(self._storage.device))
        within = (index >= 0) & (index < self.length)
        torch._assert_async(within.all(), f"a bank of {self.length} rows has no such row")
        return index

    def _places(self, index: Tensor, chosen: Tensor | bool = True) -> Tensor:
        """Where in the storage the chosen among these rows lie; the row beyond, where elsewhere."""
        count = len(self.rows)
        place = index - self.first
        return torch.where((place >= 0) & (place < count) & chosen, place, count)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `nn.Module` does to parameters and buffers: moves and conversions."""
        super()._apply(fn, recurse)
        before = self._storage
        after = fn(before)
        if after.dtype.itemsize < before.dtype.itemsize:
            after = before.to(after.device)
        self._storage = after
        if before.is_meta and not after.is_meta:
            self.reset_parameters()
        return self


def banks_of(module: nn.Module) -> dict[str, Bank]:
    """The banks of a learner by name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, Bank)}


def rows_each(length: int, ranks: int) -> int:
    """How many rows a rank holds, the last ones aside."""
    return -(-length // ranks)


def share_of(length: int, rank: int, ranks: int) -> tuple[int, int]:
    """The first row of a rank, and how many it holds."""
    each = rows_each(length, ranks)
    first = min(rank * each, length)
    return first, min(each, length - first)


def last_of_each(index: Tensor) -> Tensor:
    """`(n,)` bool: which places of `index` `(n,)` hold a number that comes at no later place."""
    order = index.argsort(stable=True)
    ordered = index[order]
    last = torch.ones_like(index, dtype=torch.bool)
    last[order[:-1]] = ordered[1:] != ordered[:-1]
    return last
