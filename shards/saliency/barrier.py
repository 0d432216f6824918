"""The minimum barrier distance from an image's border, compiled (Zhang et al. 2015, algorithm 1)."""

import numpy as np
from numba import njit

PASSES = 3  # as in the paper: what more of them change is seldom seen


def _compiled(function):  # type: ignore[no-untyped-def]
    """Compiled now or taken from the cache beside the source, if one can be written there."""
    signature = "f4[:,::1](f4[:,::1],i8)"
    try:
        return njit(signature, cache=True, nogil=True)(function)
    except RuntimeError:
        return njit(signature, nogil=True)(function)


def minimum_barrier(image: np.ndarray) -> np.ndarray:
    """`(H, W)` float32: of all paths from each pixel to the border the least of the highest value less
    the lowest, found approximately, by scans in turns from both ends.
    """
    return _scanned(image, PASSES)


@_compiled
def _scanned(image, passes):  # type: ignore[no-untyped-def]
    height, width = image.shape
    highest = image.copy()
    lowest = image.copy()
    distance = np.full((height, width), np.float32(np.inf), np.float32)
    distance[0] = 0
    distance[height - 1] = 0
    distance[:, 0] = 0
    distance[:, width - 1] = 0
    for number in range(passes):
        step = 1 if number % 2 == 0 else -1
        for i in range(1, height - 1):
            y = i if step == 1 else height - 1 - i
            for j in range(1, width - 1):
                x = j if step == 1 else width - 1 - j
                value = image[y, x]
                for turn in range(2):
                    from_y = y - step if turn == 0 else y
                    from_x = x if turn == 0 else x - step
                    high = max(highest[from_y, from_x], value)
                    low = min(lowest[from_y, from_x], value)
                    if high - low < distance[y, x]:
                        distance[y, x] = high - low
                        highest[y, x] = high
                        lowest[y, x] = low
    return distance
