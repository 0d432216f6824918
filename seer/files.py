"""Files that several processes see: there as a whole or not at all, whenever their writer is
killed.
"""

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a hidden path beside `path`; what is written there becomes `path`, on the disk, unless
    the block fails.
    """
    # A number of its own: on a shared disk, processes of two hosts may have the same, and in a
    # stranger's folder a link may wait where we would write.
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(3)}")
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


def open_own(path: Path, mode: str) -> IO:
    """Open a file to be written, which is made if need be. Raises OSError where a link or a pipe is
    in its place.
    """
    return open(path, mode, opener=_open_regular)


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ENXIO, "not a regular file", path)
    return descriptor


def is_still(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one at this path: neither removed nor replaced since it was
    opened.
    """
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def sha256(path: Path) -> str:
    """What a file hashes to, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have a file that was just written reach the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
