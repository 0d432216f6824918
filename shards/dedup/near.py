"""Which of many hashes are near to an earlier one: every pair within a Hamming distance, without
comparing all pairs.

Two hashes that differ in at most d bits agree in at least m − d of m blocks of bits (Manku, Jain,
Das Sarma: Detecting Near-Duplicates for Web Crawling, 2007). So the hashes are sorted once for each
choice of m − d blocks, with these blocks in front, and only hashes that agree in front are
compared: no pair within d is missed. `m` is chosen by cost.

Memory: at most 40 bytes per hash. Pairs go to a file. Time grows as n · C(m, d), with m slowly
growing in n.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations, count, pairwise
from math import comb
from pathlib import Path

import numpy as np

from shards.options import MAX_DISTANCE
from shards.sources.phash import FEATURELESS, MIRROR, canonical, distance

BITS = 64
SORTING = 12  # what sorting costs per hash and table, in comparisons of two hashes; measured, and not critical
CHUNK = 1 << 16  # hashes at a time; as many as a core has in its cache
TRIES = 64  # candidates that an image is compared with: among thousands of like logos, not all
NONE = -1
# Of a packed pair.
HALF = np.uint64(32)
LOWER = np.uint64(0xFFFFFFFF)


def near_duplicates(
    hashes: np.ndarray,
    furthest: int,
    scratch: Path,
    fixed: int = 0,
    among_others: bool = True,
    confirm: Callable[[np.ndarray], Callable[[int, int], bool]] | None = None,
) -> np.ndarray:
    """For each hash the place of an earlier one that it is near to and that stays itself; `NONE`
    for those that stay.

    Hashes are taken in order, and one that is near to none that stayed stays. So whatever goes is
    near to something that stays, which groups by transitive nearness would not ensure: a chain of
    small differences can join any two.

    Args:
        hashes: `(N,)` uint64 of `shards.sources.phash`; `FEATURELESS` ones are near to none. N below 2³².
        furthest: bits in which two hashes may differ, or one and the other's mirror image.
        scratch: a folder for the pairs that are found, 16 bytes each.
        fixed: so many hashes at the start stay in any case.
        among_others: whether those after the fixed ones are compared with each other.
        confirm: from the places of all that have anything near, to a function that says whether the images at two of
            these places are really alike. It is asked for the nearest first, `TRIES` times at most.

    Returns:
        `(N,)` int64.
    """
    assert 0 <= furthest <= MAX_DISTANCE
    assert len(hashes) < 1 << 32
    groups = _Groups(hashes)
    with tempfile.TemporaryFile(dir=scratch) as file:
        for left, right in pairs(groups.keys, furthest):
            for group, beside in ((left, right), (right, left)):
                matters = groups.useful(group, beside, fixed, among_others)
                upper = group[matters].astype(np.uint64)
                lower = beside[matters].astype(np.uint64)
                (upper << HALF | lower).tofile(file)
        beside = np.empty(0, np.uint64)
        if file.tell():
            beside = np.memmap(file, np.uint64).view(np.ndarray)
        beside.sort()
        return _choose(groups, beside, fixed, among_others, confirm)


class _Groups:
    """Places by canonical hash: group g has those of `keys[g]`, `order[starts[g] : starts[g + 1]]`,
    in order.
    """

    def __init__(self, hashes: np.ndarray):
        self.count = len(hashes)
        keys = canonical(hashes)
        order = np.argsort(keys, kind="stable").astype(np.uint32)
        keys.sort()
        featureless = int(np.count_nonzero(keys == FEATURELESS))  # these sort first
        keys = keys[featureless:]
        self.order = order[featureless:]
        is_new = np.ones(len(keys), bool)
        is_new[1:] = keys[1:] != keys[:-1]
        self.keys = keys[is_new]
        starts = np.flatnonzero(is_new)
        self.starts = np.append(starts, len(keys)).astype(np.uint32)

    def members(self, group: int, count: int) -> list[int]:
        """The first places of a group, `count` of them."""
        return self.order[self.starts[group] :][:count].tolist()

    def first(self, groups: np.ndarray) -> np.ndarray:
        return self.order[self.starts[groups]]

    def last(self, groups: np.ndarray) -> np.ndarray:
        return self.order[self.starts[groups + 1] - 1]

    def useful(
        self, groups: np.ndarray, beside: np.ndarray, fixed: int, among_others: bool
    ) -> np.ndarray:
        """Whether something of `groups` may go because of something of the groups `beside`."""
        return (self.last(groups) >= fixed) & ((self.first(beside) < fixed) | among_others)

    def of_places(self) -> np.ndarray:
        """The group of each place; that of featureless hashes is one too many."""
        groups = np.full(self.count, len(self.keys), np.uint32)
        groups[self.order] = np.repeat(
            np.arange(len(self.keys), dtype=np.uint32), np.diff(self.starts)
        )
        return groups


def _choose(
    groups: _Groups, beside: np.ndarray, fixed: int, among_others: bool, confirm: Callable | None
) -> np.ndarray:
    """What goes because of what. `beside` has sorted pairs of groups that are near, packed, each
    both ways.
    """
    group_of = groups.of_places()
    found = np.full(groups.count, NONE, np.int64)
    concerned = np.zeros(len(groups.keys) + 1, bool)
    for start in range(0, len(groups.keys), CHUNK):
        numbers = np.arange(start, min(start + CHUNK, len(groups.keys)))
        several = groups.starts[numbers + 1] - groups.starts[numbers] > 1
        concerned[numbers] = several & groups.useful(numbers, numbers, fixed, among_others)
    for start in range(0, len(beside), CHUNK):
        pairs = beside[start : start + CHUNK]
        concerned[pairs >> HALF] = concerned[pairs & LOWER] = True
    concerned = concerned[group_of]
    same = (
        confirm(np.flatnonzero(concerned))
        if confirm and concerned.any()
        else lambda later, earlier: True
    )
    # Those of a group that stay gather at its start: members come in order, so none is overwritten
    # before its turn.
    stay = np.zeros(len(groups.keys), np.uint32)
    for start in range(0, len(concerned), CHUNK):
        for place in (start + np.flatnonzero(concerned[start : start + CHUNK])).tolist():
            group = int(group_of[place])
            if place >= fixed:
                candidates = _candidates(groups, stay, beside, group)
                found[place] = next(
                    (earlier for earlier in candidates if same(place, earlier)), NONE
                )
            if found[place] == NONE and (place < fixed or among_others):
                groups.order[groups.starts[group] + stay[group]] = place
                stay[group] += 1
    return found


def _candidates(groups: _Groups, stay: np.ndarray, beside: np.ndarray, group: int) -> list[int]:
    """Up to `TRIES` places near to a group that stay, the nearest first, the earlier ones of equal
    distance first.
    """
    bounds = np.array([group << 32, (group + 1) << 32], np.uint64)
    low, high = np.searchsorted(beside, bounds)
    own = groups.members(group, min(stay[group], TRIES))
    if low == high or len(own) == TRIES:
        return own
    near = (beside[low:high] & LOWER).astype(np.int64)
    near = near[stay[near] > 0]
    apart = distance(groups.keys[near], groups.keys[group])
    nearest_first = sorted(zip(apart.tolist(), near.tolist(), strict=True))
    candidates = [(0, place) for place in own]
    furthest = 0
    for bits, neighbour in nearest_first:
        if len(candidates) >= TRIES and bits > furthest:
            break
        furthest = bits
        members = groups.members(neighbour, stay[neighbour])
        candidates += [(bits, place) for place in members]
    nearest = sorted(set(candidates))
    return [place for _, place in nearest[:TRIES]]


def pairs(hashes: np.ndarray, furthest: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places of all pairs of `hashes` within `furthest` bits of each other or of the other's mirror
    image.

    `hashes` are canonical, sorted and different. A pair comes twice if it is near both as it is and
    mirrored.
    """
    blocks = choose_blocks(2 * len(hashes), furthest)
    table = np.empty(2 * len(hashes), np.uint64)
    as_they_are = table[: len(hashes)]
    mirrored = table[len(hashes) :]
    for front in combinations(range(blocks), blocks - furthest):
        layout = _Layout(blocks, front)
        for start in range(0, len(hashes), CHUNK):
            chunk = slice(start, start + CHUNK)
            as_they_are[chunk] = layout.apply(hashes[chunk])
            mirrored[chunk] = layout.apply(hashes[chunk] ^ MIRROR)
        table.sort()
        for left, right in _neighbours(table, layout.front_bits, furthest):
            left = layout.undo(left)
            right = layout.undo(right)
            first = canonical(left)
            second = canonical(right)
            # Each pair comes with that of both mirror images: of the two, that with the smaller
            # hash as it is counts.
            counts = np.where(first < second, left == first, right == second)
            counts &= first != second
            counts &= layout.is_first_for(left ^ right)
            yield (
                np.searchsorted(hashes, first[counts]),
                np.searchsorted(hashes, second[counts]),
            )


def choose_blocks(count: int, furthest: int) -> int:
    """m, the number of blocks for which sorting and comparing `count` hashes within `furthest` bits
    costs least.
    """

    def cost(blocks: int) -> float:
        bits = _Layout(blocks, range(blocks - furthest)).front_bits
        return comb(blocks, furthest) * (SORTING + count / 2 ** (bits + 1))

    return min(range(furthest + 1, furthest + 13), key=cost)


def _neighbours(
    table: np.ndarray, front_bits: int, furthest: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of a sorted table that agree in the front and differ by at most `furthest` bits behind
    it.
    """
    behind = np.uint64(BITS - front_bits)
    for start in range(0, len(table), CHUNK):
        places = np.arange(start, min(start + CHUNK, len(table)))
        # Each hash meets the next one, then the one after that, as long as their fronts agree.
        for step in count(1):
            places = places[places + step < len(table)]
            if not len(places):
                break
            differences = table[places] ^ table[places + step]
            if front_bits:
                agree = (differences >> behind) == 0
                places = places[agree]
                differences = differences[agree]
            near = places[np.bitwise_count(differences) <= furthest]
            yield table[near], table[near + step]


class _Layout:
    """64 bits cut into `blocks`, and those of `front` moved to the front."""

    def __init__(self, blocks: int, front: Iterable[int]):
        self.front = list(front)
        behind = [block for block in range(blocks) if block not in self.front]
        edges = [BITS * block // blocks for block in range(blocks + 1)]
        widths = [high - low for low, high in pairwise(edges)]
        self.front_bits = sum(widths[block] for block in self.front)
        self.masks = []
        for low, width in zip(edges[:-1], widths, strict=True):
            mask = ((1 << width) - 1) << low
            self.masks.append(np.uint64(mask))
        self.moves = []  # of each block: its mask, where it begins, and where it goes
        top = BITS
        for block in self.front + behind:
            top -= widths[block]
            move = (self.masks[block], np.uint64(edges[block]), np.uint64(top))
            self.moves.append(move)

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
        """Whether `front` is the first of the choices that these pairs agree in, so that one table
        reports each.
        """
        first = np.full(len(differences), True)
        for block in set(range(self.front[-1] if self.front else 0)) - set(self.front):
            first &= (differences & self.masks[block]) != 0
        return first


def distances(hashes: np.ndarray, found: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Bits between the hashes at `places` and those that `found` gives for them."""
    return distance(hashes[places], hashes[found[places]])
