import pickle
import tracemalloc
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seer.data.order import Order, permute

sizes_of_shards = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any)


@st.composite
def orders(draw) -> Order:
    seed, lanes, window = (
        draw(st.integers(0, 2**40)),
        draw(st.integers(1, 50)),
        draw(st.integers(1, 60)),
    )
    return Order(np.array(draw(sizes_of_shards)), seed, lanes, window)


@given(orders(), st.integers(0, 1000))
def test_every_sample_once_per_epoch(order, epoch):
    ids = order.ids(epoch * order.samples, order.samples)
    assert sorted(ids.tolist()) == list(range(order.samples))


@settings(deadline=None)  # an order of one sample goes through hundreds of epochs here
@given(orders(), st.integers(1, 50), st.integers(0, 8))
def test_continuing_from_any_step_equals_the_undisturbed_stream(order, batch, step):
    undisturbed = order.ids(0, (step + 3) * batch)
    continued = pickle.loads(pickle.dumps(order))  # a new process has only the arguments
    assert (undisturbed[step * batch :] == continued.ids(step * batch, 3 * batch)).all()


@settings(deadline=None)
@given(orders(), st.integers(1, 12), st.integers(1, 6), st.integers(0, 100))
def test_rank_slices_make_the_same_global_batch_whatever_the_world_size(
    order, world_size, per_rank, step
):
    batch = world_size * per_rank
    whole = order.ids(step * batch, batch)
    slices = [order.ids(step * batch + rank * per_rank, per_rank) for rank in range(world_size)]
    assert (np.concatenate(slices) == whole).all()


@given(orders(), st.integers(0, 5))
def test_batches_may_straddle_epochs(order, epoch):
    end = (epoch + 1) * order.samples
    both = order.ids(end - 1, 2)
    assert both[0] == order.ids(end - 1, 1)[0]
    assert both[1] == order.ids(end, 1)[0]
    assert order.epoch(np.array([end - 1, end])).tolist() == [epoch, epoch + 1]


@given(st.integers(1, 70), st.integers(0, 2**64 - 1))
def test_permute_is_a_permutation(length, key):
    index = np.arange(length)
    assert (
        sorted(permute(index, np.full(length, length), np.full(length, key, np.uint64)).tolist())
        == index.tolist()
    )


def test_permutations_are_equally_likely():
    keys = np.repeat(np.arange(24_000, dtype=np.uint64), 4)
    places = permute(np.tile(np.arange(4), 24_000), np.full(96_000, 4), keys).reshape(-1, 4)
    counts = Counter(map(tuple, places.tolist()))
    assert set(counts) == set(permutations(range(4)))
    # 23 degrees of freedom: one in 10,000.
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 57


def test_seeds_and_epochs_differ():
    sizes = np.full(10, 50)
    streams = {
        tuple(Order(sizes, seed, 8, 16).ids(epoch * 500, 500))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(streams) == 16


def test_the_order_is_pinned():
    """A change of this changes what every run in progress would read next."""
    assert Order(np.array([3, 5, 4]), seed=1, lanes=2, window=4).ids(10, 8).tolist() == [
        7,
        1,
        2,
        4,
        8,
        5,
        0,
        3,
    ]


@settings(max_examples=50)
@given(orders())
def test_lanes_are_read_forward(order):
    """Sequential to within a window: the k-th read of a lane lies less than `window` places from
    its k-th sample, and the lane's windows follow one another. On disk a lane thus reads each of
    its shards in one forward pass."""
    ids = order.ids(0, order.samples)
    shards, ends = order._lay_shards(0)
    line = np.concatenate(
        [np.arange(order.samples)[start : start + size] for start, size in spans(order, shards)]
    )
    place = np.empty(order.samples, dtype=np.int64)
    place[line] = np.arange(order.samples)  # of each sample on the line of this epoch's shards
    lengths = [len(range(lane, order.samples, order.lanes)) for lane in range(order.lanes)]
    starts = np.cumsum([0, *lengths[:-1]])
    for lane, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        reads = place[ids[lane :: order.lanes]] - start
        assert (reads // order.window == np.arange(length) // order.window).all()
    assert ends[-1] == order.samples


def spans(order: Order, shards: np.ndarray):
    firsts = np.concatenate([[0], np.cumsum(order.sizes)])
    return [(firsts[shard], order.sizes[shard]) for shard in shards]


def test_a_shard_is_read_by_few_lanes():
    """With lanes longer than shards, a shard's bytes go to at most two lanes, so to at most two
    ranks.
    """
    order = Order(np.full(100, 50), seed=0, lanes=20, window=16)
    lanes_of_shard: dict[int, set[int]] = {}
    for position, sample in enumerate(order.ids(0, order.samples).tolist()):
        lanes_of_shard.setdefault(sample // 50, set()).add(position % 20)
    assert max(map(len, lanes_of_shard.values())) <= 2


def test_neighbours_in_a_batch_come_from_distant_shards():
    order = Order(np.full(100, 50), seed=0, lanes=20, window=16)
    batches = order.ids(0, order.samples).reshape(-1, 20) // 50
    assert np.mean([len(set(batch)) for batch in batches.tolist()]) > 19


def test_a_billion_samples_need_memory_for_shards_only():
    sizes = np.random.default_rng(0).integers(5_000, 15_000, 100_000)
    order = Order(sizes, seed=0, lanes=8192, window=256)
    tracemalloc.start()
    # Some of this batch belongs to epoch 98, some to 99.
    batch = order.ids(99 * order.samples - 4000, 8192)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(batch.tolist())) == 8192
    assert batch.max() < order.samples
    assert peak < 100 * len(sizes)  # bytes


@pytest.mark.parametrize("sizes", [[], [0, 0]])
def test_no_samples_is_a_bug(sizes):
    with pytest.raises(AssertionError):
        Order(np.array(sizes), 0, 1, 1)
