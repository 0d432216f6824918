"""How the compiled parts of the data path are compiled: on import, unless numba finds the result of
an earlier time.

It looks and writes beside the source, or in `NUMBA_CACHE_DIR`. Loops over pixels are to become
vector instructions: they have neither branches nor calls, and unsigned indices, because numba lets
signed ones count from the end.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

# Without fast mathematics: what is compiled anew and what comes from the cache must agree in every
# bit.
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
INDEX = np.uintp


def compiled(signature: Any, function: Callable, **more: Any) -> Callable:
    """The function, compiled, with `more` options of numba's. A cache that cannot be written, or
    read, is no reason to fail.
    """
    options = OPTIONS | more
    try:
        return njit(signature, cache=True, **options)(function)
    except Exception:
        return njit(signature, **options)(function)
