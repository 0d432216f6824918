"""A stable integer hash, the only source of randomness in the data path: the same on every machine,
rank and run.
"""

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)


def mix(*parts: int | np.ndarray) -> np.ndarray:
    """Hash integers, or arrays of integers that broadcast together, to uint64 of the broadcast
    shape.

    Each part is folded in by one round of SplitMix64 (Steele, Lea, Flood: Fast Splittable
    Pseudorandom Number Generators, 2014), so order matters and `mix(s)` is the first output of that
    generator seeded with `s`. Scalars first are cheapest.
    """
    state = np.asarray(0, dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic is modulo 2^64 on purpose
        for part in parts:
            z = (state ^ np.asarray(part).astype(np.uint64)) + GOLDEN
            z = (z ^ (z >> SHIFTS[0])) * MULTIPLIERS[0]
            z = (z ^ (z >> SHIFTS[1])) * MULTIPLIERS[1]
            state = np.asarray(z ^ (z >> SHIFTS[2]))
    return state


def uniform(*parts: int | np.ndarray) -> np.ndarray:
    """Float64 in [0, 1) from the top 53 bits of `mix(*parts)`; e.g. `uniform(seed, epoch, ids,
    slot)`.
    """
    return (mix(*parts) >> np.uint64(11)) * 2.0**-53
