import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seer.data.hashing import mix, uniform

MASK = 2**64 - 1


def splitmix(state: int) -> int:
    """The published algorithm in Python's unbounded integers."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_published_values():
    assert mix(0) == 0xE220A8397B1DCDAF
    assert mix(1234567) == 6457827717110365317


@given(st.lists(st.integers(0, MASK), min_size=1, max_size=4))
def test_folds_one_round_per_part(parts):
    expected = 0
    for part in parts:
        expected = splitmix(expected ^ part)
    assert int(mix(*parts)) == expected


def test_broadcasts_as_the_scalars_do():
    rows, columns = np.arange(3)[:, None], np.arange(4)
    table = mix(7, rows, columns)
    assert table.shape == (3, 4)
    assert table.dtype == np.uint64
    assert all(table[i, j] == mix(7, i, j) for i in range(3) for j in range(4))


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63, MASK])
def test_takes_any_64_bit_seed(seed):
    assert int(mix(seed)) == splitmix(seed & MASK)


def test_order_of_parts_matters():
    assert mix(1, 2) != mix(2, 1)


def test_uniform_is_uniform_and_uncorrelated():
    u = uniform(3, 1, np.arange(100_000)[:, None], np.arange(2))
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.histogram2d(*u.T, bins=10, range=[(0, 1), (0, 1)])[0]
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 160  # 99 degrees of freedom: exceeded once in 10,000 hashes
