"""Several processes of one host that measure one model: each computes its share of the features and
of the neighbours, and the main one goes on with them.

Shares are whole batches, so that what is computed does not depend on how many share it.
"""

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seer import distributed
from seer.errors import InputError
from seer.hardware import usable_cores

_together = False


@contextmanager
def together() -> Iterator[None]:
    """While entered, the processes of the group measure together: all of them must call what is
    here. In a group that was made for something else each process is alone.
    """
    global _together
    _together = True
    before = logging.root.manager.disable
    if distributed.rank():
        logging.disable(logging.CRITICAL)  # the main process says it
    try:
        yield
    finally:
        logging.disable(before)
        _together = False


def processes() -> int:
    """How many measure together; 1 where this process is alone."""
    return distributed.size() if _together else 1


def number() -> int:
    """Which of them this one is, the main one being 0."""
    return distributed.rank() if _together else 0


def own_device(name: str) -> torch.device:
    """The device of this process. Raises `InputError` as `pick_device` does."""
    return distributed.pick_device(name, number())


def goes_on() -> bool:
    """Whether this process goes on when all that is shared is done: the main one, on all cores."""
    if number():
        return False
    if processes() > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = torch.get_num_threads() * processes()  # more than cores where these are fewer
        torch.set_num_threads(min(threads, usable_cores()))
    return True


def gathered(images: int, batches: Iterable[tuple[list[int], Tensor]], folder: Path) -> Tensor:
    """The rows `(N, D)` float32 that all processes compute, N being `images`, mapped from a file
    which has no name any more and goes with its last reader.

    Args:
        batches: numbers of images, one after the other, and their rows; of all processes together every image once.
        folder: where the file is written; elsewhere if that cannot be.

    Raises:
        InputError: there is no room for them.
    """
    path = Path(distributed.on_main(lambda: _new_file(folder)))
    with open(path, "r+b", buffering=0) as file:
        distributed.barrier()  # all have opened it
        if not number():
            path.unlink()
        for rows, values in batches:
            _write(file.fileno(), rows[0], values, path.parent)
        distributed.barrier()
        width = os.fstat(file.fileno()).st_size // (4 * images)
        # Copied when written to, which nobody does: torch takes no map that is for reading alone.
        mapped = np.memmap(file, np.float32, "c", shape=(images, width))
    return torch.from_numpy(mapped)


def _new_file(folder: Path) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(prefix=".features-", dir=folder)
    except OSError:
        handle, path = tempfile.mkstemp(prefix="seer-features-")
    os.close(handle)
    return path


def _write(file: int, row: int, values: Tensor, folder: Path) -> None:
    """Rows from number `row` on. A full disk is an error here, and would end the process in a map."""
    content = values.contiguous().numpy().tobytes()
    start = 4 * row * values.shape[1]
    written = 0
    try:
        while written < len(content):
            written += os.pwrite(file, content[written:], start + written)
    except OSError as error:
        raise InputError(
            f"{folder}: the features that several processes compute cannot be written there "
            f"({error.strerror}); set SEER_CACHE to a folder with more room, or use --nproc 1"
        ) from None
