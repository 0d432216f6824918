import gc
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seer.data.crops.arena import (
    ALIGNED,
    Arena,
    _source,
    arena_bytes,
    arrays,
    docker_remedy,
    shared_free,
)

SHAPES = [(2, 3, 3, 3), (5, 2, 2, 3)]


@pytest.fixture
def arena(monkeypatch):
    """Three slots for each of two workers, of which this process plays the second one, too."""
    monkeypatch.setattr("seer.data.crops.arena._source", _source)
    arena = Arena(2, 3, SHAPES, np.float32)
    arena.serve(1)
    return arena


def filled(value: float) -> list[np.ndarray]:
    batch = arrays(SHAPES, np.float32)
    for number, array in enumerate(batch):
        array[:] = value + number
    return batch


def test_what_a_worker_writes_the_trainer_reads(arena):
    filled(7.0)
    lease = pickle.loads(pickle.dumps(arena.lease))
    first, second = lease.open()
    assert (first.shape, second.shape) == tuple(SHAPES)
    assert (first == 7).all()
    assert (second == 8).all()


def test_a_slot_is_free_when_the_last_tensor_of_its_arrays_is_gone(arena):
    assert [filled(i) and arena.lease.slot for i in range(2)] == [3, 4]
    lease = arena.lease
    first, second = (torch.from_numpy(array).unflatten(0, (1, -1)) for array in lease.open())
    del first
    gc.collect()
    filled(9.0)
    assert arena.lease.slot == 5
    assert (second == 2).all()
    del second
    gc.collect()
    filled(9.0)
    assert arena.lease.slot == 4


def test_with_no_slot_free_a_worker_takes_other_memory(arena):
    for _ in range(3):
        filled(1.0)
    others = filled(2.0)
    assert arena.lease is None
    assert not np.shares_memory(others[0], arena.memory.numpy())
    assert (arena.memory[3:].view(torch.float32)[:, 0] == 1).all()
    assert (arena.memory[:3] == 0).all()  # the other worker's


def test_a_smaller_batch_fits_and_arrays_do_not_overlap(arena):
    small = arrays([(1, 3, 3, 3), (2, 2, 2, 3)], np.float32)
    small[0][:], small[1][:] = 1, 2
    assert (small[0] == 1).all()
    assert not np.shares_memory(*small)


SIDES = st.lists(st.integers(1, 9), min_size=1, max_size=4)


@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.lists(SIDES, min_size=1, max_size=3),
    st.sampled_from("ufd"),
)
def test_an_arena_takes_what_is_said(workers, slots, sides, kind):
    dtype = {"u": np.uint8, "f": np.float32, "d": np.float64}[kind]
    shapes = [tuple(shape) for shape in sides]
    arena = Arena(workers, slots, shapes, dtype)
    said = arena_bytes(workers, slots, shapes, dtype)
    assert arena.memory.nbytes == arena.memory.untyped_storage().nbytes() == said
    content = (
        sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape in shapes) * workers * slots
    )
    assert content <= said < content + workers * slots * len(shapes) * ALIGNED


def test_free_shared_memory_is_that_of_its_file_system(monkeypatch, tmp_path):
    status = os.statvfs(tmp_path)
    monkeypatch.setattr("seer.data.crops.arena.SHARED", str(tmp_path))
    assert shared_free() == pytest.approx(status.f_bavail * status.f_frsize, rel=0.05)
    monkeypatch.setattr("seer.data.crops.arena.SHARED", str(tmp_path / "nowhere"))
    assert shared_free() is None


def test_docker_gets_a_quarter_more_in_whole_gibibytes():
    assert "--shm-size=1g" in docker_remedy(2**20)
    assert "--shm-size=5g" in docker_remedy(4 * 2**30)
    assert "--shm-size=6g" in docker_remedy(4 * 2**30 + 1)
