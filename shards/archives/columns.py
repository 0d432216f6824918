"""Images in a column of a Parquet file: binary, or a struct with `bytes`, as Hugging Face has it."""

import os
import threading
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seer.errors import first_line

_reading = threading.Lock()  # lest several threads read the same row group


def parquet(path: str | Path) -> pq.ParquetFile:
    """The file, whatever bytes its name has. Raises OSError and `pa.ArrowException`."""
    return pq.ParquetFile(pa.OSFile(os.fsencode(path)), pre_buffer=False)


def group_starts(path: str | Path) -> np.ndarray:
    """`(row groups,)` int64: the number of each one's first row."""
    metadata = parquet(path).metadata
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return np.cumsum([0, *sizes])[:-1]


def read_image(path: str, column: str, row: int) -> bytes | None:
    """The image in a row; None for a row without one. Raises OSError.

    Parquet is read by row groups, the last two of which are kept; so ask for rows that lie together
    one after another.
    """
    modified = os.path.getmtime(path)
    try:
        with _reading:
            starts = _starts(path, modified)
            group = int(np.searchsorted(starts, row, side="right")) - 1
            value = _images(path, column, group, modified)[row - int(starts[group])].as_py()
    except (pa.ArrowException, IndexError) as error:
        raise OSError(first_line(error)) from None
    value = value.get("bytes") if isinstance(value, dict) else value
    return value if isinstance(value, bytes) else None


@lru_cache(maxsize=16)
def _starts(path: str, modified: float) -> np.ndarray:
    return group_starts(path)


@lru_cache(maxsize=2)
def _images(path: str, column: str, group: int, modified: float) -> pa.ChunkedArray:
    # Of that name, the first.
    return parquet(path).read_row_group(group, columns=[column], use_threads=False).column(0)
