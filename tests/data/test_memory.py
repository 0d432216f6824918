import gc
import pickle

import numpy as np
import pytest
import torch

from seer.data import memory
from seer.data.memory import Arena

SHAPES = [(2, 3, 3, 3), (5, 2, 2, 3)]


@pytest.fixture
def arena(monkeypatch):
    """Three slots for each of two workers, of which this process plays the second one, too."""
    monkeypatch.setattr(memory, "_source", memory._source)
    arena = Arena(2, 3, SHAPES, np.float32)
    arena.serve(1)
    return arena


def filled(value: float) -> list[np.ndarray]:
    arrays = memory.arrays(SHAPES, np.float32)
    for number, array in enumerate(arrays):
        array[:] = value + number
    return arrays


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
    small = memory.arrays([(1, 3, 3, 3), (2, 2, 2, 3)], np.float32)
    small[0][:], small[1][:] = 1, 2
    assert (small[0] == 1).all()
    assert not np.shares_memory(*small)
