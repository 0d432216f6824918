"""Memory for the crops of a batch, used again as soon as nobody holds it.

Fresh memory is cleared page by page on first use, which takes longer than filling it with finished
crops. Within one process `arrays` hands out what an earlier batch no longer needs. Between a
loader's worker and its trainer there is an `Arena` of shared memory: the worker fills a slot of it,
the trainer sees the same pages, and when its tensors are gone the slot is free again. A trainer
that keeps its batches keeps their slots; the worker then takes fresh memory.
"""

import math
import os
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from weakref import WeakValueDictionary, finalize

import numpy as np
import torch

Shape = tuple[int, ...]
ALIGNED = 64  # bytes
SHARED = "/dev/shm"  # where Linux keeps shared memory; Docker gives it 64 MB

_spare: dict[tuple, deque[np.ndarray]] = defaultdict(partial(deque, maxlen=2))


def _recycled(shapes: Sequence[Shape], dtype: type) -> list[np.ndarray]:
    found = []
    for shape in shapes:
        spare = _spare[shape, dtype]
        memory = spare.pop() if spare else np.empty(shape, dtype)
        found.append(_returned(memory, partial(spare.append, memory)))
    return found


def _returned(memory: np.ndarray, give_back: Callable[[], object]) -> np.ndarray:
    """A view of `memory` that gives it back when it dies, and with it every tensor made of it."""
    array = memory[:]
    finalize(array, give_back).atexit = False
    return array


_source: Callable[[Sequence[Shape], type], list[np.ndarray]] = _recycled


def arrays(shapes: Sequence[Shape], dtype: type) -> list[np.ndarray]:
    """Arrays with any content."""
    return _source(shapes, dtype)


@dataclass(frozen=True)
class Lease:
    """Where the arrays of a batch lie in an arena; picklable."""

    arena: int
    slot: int
    shapes: list[Shape]
    dtype: type

    def open(self) -> list[np.ndarray]:
        """The arrays, in the process that made the arena, and once only: the slot is free when they
        are gone.
        """
        arena = _arenas[self.arena]
        held = arena.held[self.slot].numpy()
        parts = enumerate(arena.parts(self))
        return [_returned(array, partial(held.__setitem__, number, 0)) for number, array in parts]


def shared_free() -> int | None:
    """Bytes of shared memory that may still be taken; None where nothing tells."""
    try:
        status = os.statvfs(SHARED)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def docker_remedy(needed: int) -> str:
    """What gives a container `needed` bytes of shared memory, and a quarter more."""
    gibibytes = -(-needed * 5 // (4 * 2**30))
    return f"docker run --shm-size={gibibytes}g, or --ipc=host"


def arena_bytes(workers: int, slots: int, shapes: Sequence[Shape], dtype: type) -> int:
    """Of shared memory that an `Arena` takes when all of its slots are in use, its marks aside."""
    return workers * slots * _starts(shapes, dtype)[-1]


def _starts(shapes: Sequence[Shape], dtype: type) -> list[int]:
    """Where each array begins in a slot, in bytes; last, the slot's size."""
    starts = [0]
    for shape in shapes:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        starts.append(starts[-1] + -(-size // ALIGNED) * ALIGNED)
    return starts


class Arena:
    """Shared memory for the batches of several workers, each with `slots` of its own.

    A slot takes arrays of `shapes`. Pages are taken on first use, and the lowest free slot first,
    so that what is never needed takes none. The worker alone marks a slot as held, and the trainer
    alone clears the marks, one per array.
    """

    def __init__(self, workers: int, slots: int, shapes: Sequence[Shape], dtype: type):
        self.slots = slots
        self.starts = _starts(shapes, dtype)
        every_slot = workers * slots
        # `share_memory_` would touch all of it.
        storage = torch.UntypedStorage._new_shared(arena_bytes(workers, slots, shapes, dtype))
        memory = torch.empty(0, dtype=torch.uint8).set_(storage)
        self.memory = memory.view(every_slot, -1)
        held = torch.zeros(every_slot, len(shapes), dtype=torch.uint8)
        self.held = held.share_memory_()
        self.id = next(_ids)
        self.lease: Lease | None = None  # of the latest arrays that were taken here
        _arenas[self.id] = self

    def serve(self, worker: int) -> None:
        """In a worker's process: from now on `arrays` takes them from this worker's slots."""
        global _source
        _source = partial(self._take, range(worker * self.slots, (worker + 1) * self.slots))

    def _take(self, slots: range, shapes: Sequence[Shape], dtype: type) -> list[np.ndarray]:
        free = next((slot for slot in slots if not self.held[slot].any()), None)
        self.lease = None if free is None else Lease(self.id, free, list(shapes), dtype)
        if self.lease is None:
            return _recycled(shapes, dtype)
        self.held[free] = 1
        return self.parts(self.lease)

    def parts(self, lease: Lease) -> list[np.ndarray]:
        slot = self.memory[lease.slot].numpy()
        sizes = [math.prod(shape) * np.dtype(lease.dtype).itemsize for shape in lease.shapes]
        places = zip(self.starts, sizes, lease.shapes, strict=False)
        return [
            slot[start : start + size].view(lease.dtype).reshape(shape)
            for start, size, shape in places
        ]


_ids = count()
_arenas: WeakValueDictionary[int, Arena] = WeakValueDictionary()
