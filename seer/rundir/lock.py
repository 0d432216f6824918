"""One run at a time in a run directory."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seer import files
from seer.errors import InputError, InUseError
from seer.rundir.names import LOCK


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the run directory for this run: a second run in it is refused, a killed one leaves
    nothing behind.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = files.open_own(run_dir / LOCK, "a+b")
    except OSError as error:
        raise InputError(
            f"{run_dir}: cannot be written: {error.strerror}; choose another run_dir"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(
                f"{run_dir}: another process is training there; wait for it, or choose another run_dir"
            ) from None
        yield
