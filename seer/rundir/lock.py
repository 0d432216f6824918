"""One run at a time in a run directory, and one process that scores it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seer import files
from seer.errors import InputError, InUseError
from seer.rundir.names import LOCK, SCORE_LOCK


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the run directory for this run: a second run in it is refused, a killed one leaves
    nothing behind.
    """
    remedy = "choose another run_dir"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{run_dir}: cannot be written: {error.strerror}; {remedy}") from error
    in_use = f"{run_dir}: another process is training there; wait for it, or {remedy}"
    with _held(run_dir / LOCK, InUseError(in_use), remedy):
        yield


@contextmanager
def locked_for_scoring(run_dir: Path) -> Iterator[None]:
    """Hold a run that is there for this process to score, whether it trains or not: a second one is
    refused, since it would measure the same and write into the same files.
    """
    in_use = f"{run_dir}: another process is scoring it; wait for it, or leave the scores to it"
    # No later attempt of a launcher's is wanted: the first may take as long as the run.
    with _held(run_dir / SCORE_LOCK, InputError(in_use), "its scores are kept there"):
        yield


@contextmanager
def _held(path: Path, in_use: InputError, remedy: str) -> Iterator[None]:
    try:
        lock = files.open_own(path, "a+b")
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be written: {error.strerror}; {remedy}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise in_use from None
        yield
