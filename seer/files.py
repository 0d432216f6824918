"""Files that several processes see: there as a whole or not at all, whenever their writer is killed."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a hidden path beside `path`; what is written there becomes `path`, on the disk, unless the block fails."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)  # in a stranger's folder, a link to whatever it would be written over
    try:
        yield beside
        sync(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write(path: Path, text: str | Iterable[str]) -> None:
    """Make `path` hold this text, in UTF-8, in one step."""
    with replacing(path) as beside, open(beside, "w", encoding="utf-8") as file:
        file.writelines([text] if isinstance(text, str) else text)


def open_lock(path: Path) -> IO[bytes]:
    """A file to lock, made if need be. What is in it stays, and a link is not followed: it may lead anywhere."""
    return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666), "r+b")


def is_still(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one at this path: neither removed nor replaced since it was opened."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def sync(path: Path) -> None:
    """Have a file that was just written reach the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
