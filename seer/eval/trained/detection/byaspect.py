"""The order of a detector's images: those of a batch are of about one aspect ratio."""

from functools import lru_cache
from typing import Any, Self

import numpy as np

from seer.data.order import Order


class ByAspect:
    """An order of images in which those of a batch are all wide or all tall, as far as their numbers
    allow; each comes once in an epoch.

    The images of each kind are taken in the order of the plain stream, and batches in the order in which they become
    full; what fills none stands at the ends of the epoch.

    Args:
        wide: `(N,)` bool.
        batch: of all processes.
    """

    def __init__(self, order: Order, wide: np.ndarray, batch: int):
        self.order = order
        self.wide = wide
        self.batch = batch
        self.samples = order.samples
        self._epoch = lru_cache(maxsize=2)(self._arranged)

    def __reduce__(self) -> tuple[type[Self], tuple[Order, np.ndarray, int]]:
        return type(self), (self.order, self.wide, self.batch)

    def epoch(self, position: Any) -> Any:
        """The epoch of a position of the stream, or of an array of them."""
        return position // self.samples

    def ids(self, start: int, count: int) -> np.ndarray:
        """`(count,)` int64 sample ids at positions start … start + count - 1."""
        pieces = [np.empty(0, np.int64)]
        while count > 0:
            epoch, first = divmod(start, self.samples)
            length = min(count, self.samples - first)
            pieces.append(self._epoch(epoch)[first : first + length])
            start += length
            count -= length
        return np.concatenate(pieces)

    def _arranged(self, epoch: int) -> np.ndarray:
        """The ids of one epoch. Its first `head` places complete the batch that the epoch before began."""
        ids = self.order.ids(epoch * self.samples, self.samples)
        head = min(-epoch * self.samples % self.batch, self.samples)
        full = (self.samples - head) // self.batch
        batches: list[np.ndarray] = []
        left: list[np.ndarray] = []
        for kind in (True, False):
            places = np.flatnonzero(self.wide[ids] == kind)
            whole = len(places) // self.batch * self.batch
            batches += list(places[:whole].reshape(-1, self.batch))
            left.append(places[whole:])
        batches.sort(key=lambda places: int(places[-1]))
        # Of more batches than there is room for, the last ones fill the ends, and the reverse.
        rest = np.concatenate([*batches[full:], *left]).astype(np.int64)
        middle = np.concatenate([np.empty(0, np.int64), *batches[:full]]).astype(np.int64)
        arranged = np.concatenate([rest[:head], middle, rest[head:]])
        return ids[arranged]
