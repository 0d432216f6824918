"""Shards as an iterable of batches, for whoever has a trainer of their own: every sample exactly once
per epoch at any number of processes, and all of its state in one integer.
"""

import os
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Generic

import torch
import torch.distributed as dist
from torch.utils.data import get_worker_info

from seer.data.cutter import Cutter, Made
from seer.data.loader import Loader, LoaderConfig
from seer.data.order import Order
from seer.data.storage.index import Manifest
from seer.data.storage.reader import Reader
from seer.data.whole_samples import PassTask, SampleCutter, SampleTask
from seer.errors import InputError


class ShardStream(Generic[Made]):
    """The batches of this process, pass after pass: each `for` delivers what is left of the current
    pass, and the next one goes on with the next.

    The order is one endless stream, in which every sample comes once in each stretch of as many
    positions as there are samples. A pass is the next `length` positions of it. Where it is no
    multiple of the batch, its last batch is smaller.

    Attributes:
        batch_size: samples of one step, of all processes together.
        samples: of the data.
        length: samples of one pass.
        consumed: samples that all processes together have been given; all of the state.
        replaced: how many damaged images this process has replaced by the next good one of their shard.
    """

    def __init__(
        self,
        manifest: Manifest,
        cutter: Cutter[Made],
        batch_size: int,
        length: int,
        *,
        seed: int,
        config: LoaderConfig,
        rank: int | None = None,
        world_size: int | None = None,
        device: torch.device | str = "cpu",
    ):
        self.manifest = manifest
        self.cutter = cutter
        self.batch_size = batch_size
        self.samples = manifest.samples
        self.length = length
        self.seed = seed
        self.config = config
        self.device = device
        self.consumed = 0
        self.replaced = 0
        self._place = (rank, world_size)
        if rank is not None or world_size is not None:
            check_place(rank, world_size, batch_size)

    @property
    def epoch(self) -> int:
        """How many epochs have been consumed."""
        return self.consumed // self.samples

    def __len__(self) -> int:
        """Batches of a whole pass."""
        return -(-self.length // self.batch_size)

    def __iter__(self) -> Iterator[Made]:
        if get_worker_info() is not None:
            raise InputError(
                "load_shards: it has workers of its own; iterate over it itself, without a DataLoader around it"
            )
        rank, world_size = self.place()
        start = self.consumed
        end = (start // self.length + 1) * self.length
        left = (end - start) % self.batch_size
        if 0 < left < world_size:
            raise InputError(
                f"load_shards: the last batch of this pass has {left} samples for {world_size} processes; "
                "use another batch_size, or steps=, which makes all batches full"
            )
        loader = self._loader(rank, world_size, start, end)
        before = self.replaced
        for batch in loader.iterate(0, -(-(end - start) // self.batch_size)):
            start = min(start + self.batch_size, end)
            self.consumed = start
            self.replaced = before + loader.replaced
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many samples have been consumed, the batch in hand included; the same on all
        processes.
        """
        return {"samples": self.consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state: in as many processes, and with as large batches, as now."""
        samples = state.get("samples")
        if not isinstance(samples, int) or samples < 0:
            raise InputError(f"load_shards: {state!r:.100} is no state of it")
        self.consumed = samples

    def place(self) -> tuple[int, int]:
        """Rank and number of processes: as given, as torch.distributed has them, or as a launcher
        says.
        """
        rank, world_size = self._place
        if rank is None or world_size is None:
            rank, world_size = place_here()
        check_place(rank, world_size, self.batch_size)
        return rank, world_size

    def _loader(self, rank: int, world_size: int, begin: int, end: int) -> Loader[Made]:
        order = Order(self.manifest.sizes, self.seed, self.config.lanes, self.config.window)
        loader = Loader(
            Reader(self.manifest, self.config, self.config.lanes),
            order,
            self.cutter,
            batch_size=self.batch_size,
            rank=rank,
            world_size=world_size,
            config=self.config,
            device=self.device,
        )
        same: dict[str, Any] = {f.name: getattr(loader.task, f.name) for f in fields(loader.task)}
        if isinstance(self.cutter, SampleCutter):
            del same["encoded"]
            loader.task = SampleTask(**same, begin=begin, end=end, seed=self.seed)
        else:
            loader.task = PassTask(**same, begin=begin, end=end)
        return loader


def place_here() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def check_place(rank: int | None, world_size: int | None, batch_size: int) -> None:
    """Raise `InputError` unless there is such a process, and the batch divides among all of them."""
    if rank is None or world_size is None:
        raise InputError("load_shards: rank= and world_size= belong together; give both or neither")
    if not 0 <= rank < world_size:
        raise InputError(f"load_shards: there is no rank={rank} of world_size={world_size}")
    if batch_size % world_size:
        raise InputError(
            f"load_shards: batch_size={batch_size} is no multiple of the {world_size} processes; change either"
        )
