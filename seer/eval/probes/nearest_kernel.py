"""How far queries are from the centroids of their episode, compiled: each row of features is read
where it lies, where PyTorch would copy it before.
"""

import numpy as np
from numba import types

from seer.data.crops.compiled import compiled

# Sums may be taken in any order: vector instructions need that, and what is closer than rounding
# could tell is decided elsewhere.
ANY_ORDER = {"fastmath": {"reassoc", "contract", "nsz"}}
ZERO = np.float32(0)
FAR = np.float32(np.inf)


def _nearest(
    features: np.ndarray,
    queries: np.ndarray,
    start: int,
    stop: int,
    centroids: np.ndarray,
    own: np.ndarray,
    rival: np.ndarray,
) -> None:
    """Squared distances of queries to their own centroid and to the nearest other one.

    Pairs of an episode and one of its ways are counted through, and these are `start` to `stop`:
    `queries`, `own` and `rival` are `(pairs, Q)`, `centroids` is `(episodes, ways, D)`. Four queries
    are compared with a centroid at a time; the last ones of a pair more than once.
    """
    ways = centroids.shape[1]
    last = queries.shape[1] - 1
    for pair in range(start, stop):
        episode = pair // ways
        for i in range(0, last + 1, 4):
            j = min(i + 1, last)
            k = min(i + 2, last)
            m = min(i + 3, last)
            p = features[queries[pair, i]]
            q = features[queries[pair, j]]
            r = features[queries[pair, k]]
            s = features[queries[pair, m]]
            nearest_p = nearest_q = nearest_r = nearest_s = FAR
            for way in range(ways):
                centroid = centroids[episode, way]
                to_p = to_q = to_r = to_s = ZERO
                for d in range(len(centroid)):
                    value = centroid[d]
                    to_p += (p[d] - value) * (p[d] - value)
                    to_q += (q[d] - value) * (q[d] - value)
                    to_r += (r[d] - value) * (r[d] - value)
                    to_s += (s[d] - value) * (s[d] - value)
                if way == pair % ways:
                    own[pair, i] = to_p
                    own[pair, j] = to_q
                    own[pair, k] = to_r
                    own[pair, m] = to_s
                else:
                    nearest_p = min(nearest_p, to_p)
                    nearest_q = min(nearest_q, to_q)
                    nearest_r = min(nearest_r, to_r)
                    nearest_s = min(nearest_s, to_s)
            rival[pair, i] = nearest_p
            rival[pair, j] = nearest_q
            rival[pair, k] = nearest_r
            rival[pair, m] = nearest_s


_ROWS = types.float32[:, ::1]
nearest = compiled(
    types.void(
        _ROWS, types.int64[:, ::1], types.int64, types.int64, types.float32[:, :, ::1], _ROWS, _ROWS
    ),
    _nearest,
    **ANY_ORDER,
)
