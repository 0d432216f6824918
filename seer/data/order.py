"""Which sample comes at which position of the stream: a pure function, so that the loader's whole
state is one integer.

The shards of an epoch are permuted and laid end to end; the line of their N samples is cut into L
equal runs, the lanes. Stream position p = epoch·N + i is sample i div L of lane i mod L, mixed
within a window inside its lane. Each sample comes once per epoch; a lane is read forward, window by
window; neighbours in a batch come from distant shards; and nobody needs to know how many ranks or
workers there are.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Self, TypeVar

import numpy as np

from seer.data.hashing import mix

Position = TypeVar("Position", int, np.ndarray)

ROUNDS = 24  # of swap-or-not; each halves what an observer could tell about the place of one sample in its window
# One domain of the hash per use, so that no two uses see the same numbers.
SHARDS = 1
WINDOWS = 2


class Order:
    """The order of samples for all epochs. Memory is O(shards); any position is found in
    milliseconds.

    Args:
        sizes: `(shards,)` samples in each shard, in the manifest's order.
        seed: any integer.
        lanes: L, how many places of the line are read side by side. The global batch is a good choice.
        window: how many successive samples of a lane are mixed.
    """

    def __init__(self, sizes: np.ndarray, seed: int, lanes: int, window: int):
        self.sizes = np.asarray(sizes, dtype=np.int64)
        assert lanes > 0
        assert window > 0
        assert self.sizes.sum() > 0
        self.seed = seed
        self.lanes = lanes
        self.window = window
        self.samples = int(self.sizes.sum())
        self._first_ids = np.cumsum(self.sizes) - self.sizes
        self._line = lru_cache(maxsize=2)(self._lay_shards)

    def __reduce__(self) -> tuple[type[Self], tuple[np.ndarray, int, int, int]]:
        return type(self), (self.sizes, self.seed, self.lanes, self.window)

    def epoch(self, position: Position) -> Position:
        """The epoch (from 0) of a stream position, or of an array of them."""
        return position // self.samples

    def ids(self, start: int, count: int) -> np.ndarray:
        """`(count,)` int64 global sample ids at stream positions start … start + count - 1."""
        pieces = [np.empty(0, dtype=np.int64)]
        while count > 0:
            epoch, first = divmod(start, self.samples)
            length = min(count, self.samples - first)
            places = np.arange(first, first + length)
            pieces.append(self._ids_of_epoch(epoch, places))
            start += length
            count -= length
        return np.concatenate(pieces)

    def _ids_of_epoch(self, epoch: int, i: np.ndarray) -> np.ndarray:
        """Sample ids of places `i` in [0, N) of one epoch."""
        shards, ends = self._line(epoch)
        on_line = self._mix_in_window(epoch, i % self.lanes, i // self.lanes)
        slot = np.searchsorted(ends, on_line, side="right")
        shard = shards[slot]
        return self._first_ids[shard] + on_line - (ends[slot] - self.sizes[shard])

    def _lay_shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards in this epoch's order, and the place on the line where each ends."""
        shards = np.argsort(
            mix(self.seed, SHARDS, epoch, np.arange(len(self.sizes))), kind="stable"
        )
        return shards, np.cumsum(self.sizes[shards])

    def _mix_in_window(self, epoch: int, lane: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Place on the line of the j-th sample of each lane, after mixing."""
        # The first `longer` lanes have one sample more.
        short, longer = divmod(self.samples, self.lanes)
        lane_start = lane * short + np.minimum(lane, longer)
        lane_length = short + (lane < longer)
        window = j // self.window
        window_start = window * self.window
        length = np.minimum(self.window, lane_length - window_start)
        key = mix(self.seed, WINDOWS, epoch, lane, window)
        return lane_start + window_start + permute(j - window_start, length, key)


@dataclass(frozen=True)
class OnePass:
    """One epoch of an order as a stream of its own, which begins anew where it ends."""

    order: Order
    number: int

    def epoch(self, position: int | np.ndarray) -> np.ndarray:
        """The epoch of every position: that of the pass."""
        return np.full_like(position, self.number)

    def ids(self, start: int, count: int) -> np.ndarray:
        """`(count,)` int64 global sample ids at positions start … start + count - 1."""
        pieces = []
        while count > 0:
            place = start % self.order.samples
            length = min(count, self.order.samples - place)
            pieces.append(self.order.ids(self.number * self.order.samples + place, length))
            start, count = start + length, count - length
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)


def permute(index: np.ndarray, length: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Where `index` goes in the pseudorandom permutation of range(length) that `key` names; all
    elementwise.

    Swap-or-not (Hoang, Morris, Rogaway: An Enciphering Scheme Based on a Card Shuffle, CRYPTO
    2012): a round pairs every x with (pivot - x) mod length, and a coin of the pair decides whether
    the two swap. That works for any length and needs no table.
    """
    for round_ in range(ROUNDS):
        drawn = mix(key, 2 * round_) % length.astype(np.uint64)
        pivot = drawn.astype(np.int64)
        partner = (pivot - index) % length
        larger = np.maximum(index, partner)  # the same for both of the pair
        coin = mix(key, 2 * round_ + 1, larger)
        index = np.where(coin & np.uint64(1), partner, index)
    return index
