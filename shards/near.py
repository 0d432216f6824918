"""Which of many hashes are near to an earlier one: every pair within a Hamming distance, without comparing all pairs.

Two hashes that differ in at most d bits agree in at least m − d of m blocks of bits (Manku, Jain, Das Sarma: Detecting
Near-Duplicates for Web Crawling, 2007). So the hashes are sorted once for each choice of m − d blocks, with these
blocks in front, and only hashes that agree in front are compared: no pair within d is missed. `m` is chosen by cost.

Memory: at most 45 bytes per hash. Pairs go to a file. Time grows as n · C(m, d), with m slowly growing in n.
"""

import tempfile
from collections.abc import Iterable, Iterator
from itertools import combinations, pairwise
from math import comb
from pathlib import Path

import numpy as np

from shards.phash import FEATURELESS, MIRROR, canonical, distance

BITS = 64
SORTING = 12  # what sorting costs per hash and table, in comparisons of two hashes; measured, and not critical
CHUNK = 1 << 16  # hashes at a time; as many as a core has in its cache
MAX_DISTANCE = 16
NONE = -1
HALF, LOWER = np.uint64(32), np.uint64(0xFFFFFFFF)  # of a packed pair


def near_duplicates(
    hashes: np.ndarray, furthest: int, scratch: Path, fixed: int = 0, among_others: bool = True
) -> np.ndarray:
    """For each hash the place of an earlier one that it is near to and that stays itself; `NONE` for those that stay.

    Hashes are taken in order, and one that is near to none that stayed stays. So whatever goes is near to something
    that stays, which groups by transitive nearness would not ensure: a chain of small differences can join any two.

    Args:
        hashes: `(N,)` uint64 of `shards.phash`; `FEATURELESS` ones are near to none. N below 2³².
        furthest: bits in which two hashes may differ, or one and the other's mirror image.
        scratch: a folder for the pairs that are found, 8 bytes each.
        fixed: so many hashes at the start stay in any case.
        among_others: whether those after the fixed ones are compared with each other.

    Returns:
        `(N,)` int64.
    """
    assert 0 <= furthest <= MAX_DISTANCE
    assert len(hashes) < 1 << 32
    keys = canonical(hashes)
    order = np.argsort(keys, kind="stable").astype(np.uint32)
    keys.sort()
    featureless = int(np.count_nonzero(keys == FEATURELESS))  # these sort first
    keys, order = keys[featureless:], order[featureless:]
    new = np.ones(len(keys), bool)
    new[1:] = keys[1:] != keys[:-1]
    keys, leaders = keys[new], order[new]  # of equal hashes the first in order speaks for all
    with tempfile.TemporaryFile(dir=scratch) as file:
        for one, other in pairs(keys, furthest):
            later, earlier = np.maximum(leaders[one], leaders[other]), np.minimum(leaders[one], leaders[other])
            matters = (later >= fixed) & ((earlier < fixed) | among_others)
            (later[matters].astype(np.uint64) << HALF | earlier[matters]).tofile(file)
        found = np.full(len(hashes), NONE, np.int64)
        _choose(file, found)
    group = -1
    for start in range(0, len(order), CHUNK):
        members, groups = order[start : start + CHUNK], group + np.cumsum(new[start : start + CHUNK])
        leads, group = leaders[groups].astype(np.int64), groups[-1]
        joined = np.where(found[leads] == NONE, leads, found[leads])
        matters = (members >= fixed) & ((joined < fixed) | among_others) & (members != leads)
        found[members[matters]] = joined[matters]
    return found


def _choose(file, found: np.ndarray) -> None:
    """Fill in what goes because of whom, from packed pairs (later, earlier) in any order."""
    if not file.tell():
        return
    packed = np.memmap(file, np.uint64)
    packed.sort()  # by the later one, so that whether the earlier one stays is known by then
    for start in range(0, len(packed), CHUNK):
        chunk = packed[start : start + CHUNK]
        for later, earlier in zip((chunk >> HALF).tolist(), (chunk & LOWER).tolist(), strict=True):
            if found[later] == NONE and found[earlier] == NONE:
                found[later] = earlier


def pairs(hashes: np.ndarray, furthest: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places of all pairs of `hashes` within `furthest` bits of each other or of the other's mirror image.

    `hashes` are canonical, sorted and different. A pair may come more than once, and either way round.
    """
    blocks = choose_blocks(2 * len(hashes), furthest)
    table = np.empty(2 * len(hashes), np.uint64)
    for front in combinations(range(blocks), blocks - furthest):
        layout = _Layout(blocks, front)
        for start in range(0, len(hashes), CHUNK):
            chunk = hashes[start : start + CHUNK]
            table[start : start + len(chunk)] = layout.apply(chunk)
            table[len(hashes) + start :][: len(chunk)] = layout.apply(chunk ^ MIRROR)
        table.sort()
        for one, other in _neighbours(table, layout.front_bits, furthest):
            one, other = layout.undo(one), layout.undo(other)
            new = layout.is_first_for(one ^ other)
            one = np.searchsorted(hashes, canonical(one[new]))
            other = np.searchsorted(hashes, canonical(other[new]))
            yield one[one != other], other[one != other]


def choose_blocks(count: int, furthest: int) -> int:
    """m, the number of blocks for which sorting and comparing `count` hashes within `furthest` bits costs least."""

    def cost(blocks: int) -> float:
        bits = _Layout(blocks, range(blocks - furthest)).front_bits
        return comb(blocks, furthest) * (SORTING + count / 2 ** (bits + 1))

    return min(range(furthest + 1, furthest + 13), key=cost)


def _neighbours(table: np.ndarray, front_bits: int, furthest: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of a sorted table that agree in the front and differ by at most `furthest` bits behind it."""
    behind = np.uint64(BITS - front_bits)
    for start in range(0, len(table), CHUNK):
        places, step = np.arange(start, min(start + CHUNK, len(table))), 1
        while len(places := places[places + step < len(table)]):
            one, other = table[places], table[places + step]
            alike = ((one ^ other) >> behind) == 0 if front_bits else np.full(len(places), True)
            places, one, other = places[alike], one[alike], other[alike]
            near = np.bitwise_count(one ^ other) <= furthest
            yield one[near], other[near]
            step += 1


class _Layout:
    """64 bits cut into `blocks`, and those of `front` moved to the front."""

    def __init__(self, blocks: int, front: Iterable[int]):
        edges = [BITS * block // blocks for block in range(blocks + 1)]
        spans = [(np.uint64(low), np.uint64(high - low)) for low, high in pairwise(edges)]
        self.front = list(front)
        self.masks = [np.uint64(((1 << int(width)) - 1) << int(low)) for low, width in spans]
        self.front_bits = sum(int(spans[block][1]) for block in self.front)
        self.moves, top = [], BITS  # of each block: its mask, where it begins, and where it goes
        for block in [*self.front, *(block for block in range(blocks) if block not in self.front)]:
            top -= int(spans[block][1])
            self.moves.append((self.masks[block], spans[block][0], np.uint64(top)))

    def apply(self, hashes: np.ndarray) -> np.ndarray:
        moved = np.zeros_like(hashes)
        for mask, low, new in self.moves:
            moved |= ((hashes & mask) >> low) << new
        return moved

    def undo(self, moved: np.ndarray) -> np.ndarray:
        hashes = np.zeros_like(moved)
        for mask, low, new in self.moves:
            hashes |= ((moved >> new) << low) & mask
        return hashes

    def is_first_for(self, differences: np.ndarray) -> np.ndarray:
        """Whether `front` is the first of the choices that these pairs agree in, so that one table reports each."""
        first = np.full(len(differences), True)
        for block in set(range(self.front[-1] if self.front else 0)) - set(self.front):
            first &= (differences & self.masks[block]) != 0
        return first


def distances(hashes: np.ndarray, found: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Bits between the hashes at `places` and those that `found` gives for them."""
    return distance(hashes[places], hashes[found[places]])
