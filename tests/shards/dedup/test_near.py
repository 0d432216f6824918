import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.dedup import near
from shards.dedup.near import NONE, choose_blocks, near_duplicates, pairs
from shards.sources.phash import FEATURELESS, MIRROR, canonical, distance


def alike(seed: int, count: int, flips: int = 6) -> np.ndarray:
    """Hashes of which many differ from others, or their mirror images, by few bits."""
    draw = np.random.default_rng(seed)
    found = draw.integers(1, 2**64, max(1, count // 4), dtype=np.uint64)[
        draw.integers(0, max(1, count // 4), count)
    ]
    for _ in range(flips):
        bit = np.uint64(1) << draw.integers(0, 64, count, dtype=np.uint64)
        found = np.where(draw.random(count) < 0.5, found ^ bit, found)
    found = np.where(draw.random(count) < 0.3, found ^ MIRROR, found)
    return np.where(draw.random(count) < 0.05, np.uint64(FEATURELESS), found)


def one_by_one(hashes: np.ndarray, furthest: int, fixed: int, among_others: bool) -> list[int]:
    """The same decision by comparing each hash with all those before it that stayed."""
    found = [NONE] * len(hashes)
    for later in range(fixed, len(hashes)):
        candidates = []
        for earlier in range(later if among_others else fixed):
            usable = found[earlier] == NONE and FEATURELESS not in (hashes[later], hashes[earlier])
            if usable and (bits := distance(hashes[later], hashes[earlier])) <= furthest:
                candidates.append((bits, earlier))
        found[later] = min(candidates)[1] if candidates else NONE
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(0, 120),
    st.integers(0, 10),
    st.integers(0, 30),
    st.booleans(),
)
def test_as_by_comparing_all(tmp_path_factory, seed, count, furthest, fixed, among_others):
    hashes, fixed = alike(seed, count), min(fixed, count)
    found = near_duplicates(hashes, furthest, tmp_path_factory.getbasetemp(), fixed, among_others)
    assert found.tolist() == one_by_one(hashes, furthest, fixed, among_others)


@pytest.mark.parametrize("furthest", [0, 1, 4, 8])
@pytest.mark.parametrize("chunk", [7, 1 << 16])
def test_no_pair_is_missed(monkeypatch, furthest, chunk):
    monkeypatch.setattr(near, "CHUNK", chunk)
    hashes = np.unique(canonical(alike(furthest, 300, flips=max(1, furthest))))
    found = {
        frozenset(pair)
        for a, b in pairs(hashes, furthest)
        for pair in zip(a.tolist(), b.tolist(), strict=True)
    }
    expected = {
        frozenset(pair)
        for pair in combinations(range(len(hashes)), 2)
        if distance(*hashes[list(pair)]) <= furthest
    }
    assert found == expected
    assert len(expected) > 10 or furthest == 0


def test_a_chain_is_not_one_group(tmp_path):
    """Each is near the one before it: what goes is near to something that stays."""
    start = np.uint64(0x9E3779B97F4A7C15)
    chain = np.array([start ^ np.uint64((1 << n) - 1) for n in range(12)], np.uint64)
    assert near_duplicates(chain, 2, tmp_path).tolist() == [
        NONE,
        0,
        0,
        NONE,
        3,
        3,
        NONE,
        6,
        6,
        NONE,
        9,
        9,
    ]


def test_what_is_fixed_stays(tmp_path):
    same = np.full(4, 0x9E3779B97F4A7C15, np.uint64)
    assert near_duplicates(same, 2, tmp_path, fixed=2).tolist() == [NONE, NONE, 0, 0]


def test_blocks_grow_with_the_count():
    chosen = [choose_blocks(10**power, 6) for power in range(3, 10)]
    assert chosen == sorted(chosen)
    assert chosen[0] < chosen[-1]


def test_memory_is_below_64_bytes_per_image(tmp_path, monkeypatch):
    monkeypatch.setattr(near, "CHUNK", 1 << 10)
    others = np.random.default_rng(1).integers(1, 2**64, 95_000, dtype=np.uint64)
    hashes = np.concatenate([alike(0, 5_000, flips=2), others])
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    found = near_duplicates(hashes, 2, tmp_path)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert (found != NONE).sum() > 2_000
    # Of each image also its hash and its exact duplicate are held meanwhile.
    assert peak / len(hashes) < 64 - 8 - 8


def test_what_is_not_confirmed_stays(tmp_path):
    """Asked are those that have something near, about those that stay, the nearest first."""
    base = np.uint64(0x9E3779B97F4A7C15)
    hashes = base ^ np.array([0, 1, 0, 3, 1 << 40 | 7, 0xFFFFFFFF], np.uint64)
    asked, prepared = [], []

    def confirm(places):
        prepared.append(places.tolist())
        return lambda later, earlier: asked.append((later, earlier)) or (later, earlier) == (3, 0)

    found = near_duplicates(hashes, 2, tmp_path, confirm=confirm)
    assert found.tolist() == [NONE, NONE, NONE, 0, NONE, NONE]
    assert prepared == [[0, 1, 2, 3, 4]]
    # 3 went, so 4 has nothing near that stays.
    assert asked == [(1, 0), (2, 0), (2, 1), (3, 1), (3, 0)]


def test_no_more_than_so_many_are_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(near, "TRIES", 3)
    asked = []
    hashes = np.full(8, 12345, np.uint64)
    near_duplicates(
        hashes, 2, tmp_path, confirm=lambda places: lambda *pair: bool(asked.append(pair))
    )
    assert [pair for pair in asked if pair[0] == 7] == [(7, 0), (7, 1), (7, 2)]
