"""Whole shards of a store on a local disk, shared by all processes of a host and bounded in bytes.

A file is named by its SHA-256, so what lies there is right or not there. It is fetched under a
`.part` name, which the fetching process locks, and renamed when its bytes are on the disk; the
kernel drops the lock of a killed process, and the next one that wants the shard, or its space,
takes the part over.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seer import files
from seer.data.storage.store import Url, read_ranges
from seer.errors import InputError
from seer.inputs import open_regular
from seer.schema import DIGEST, MismatchError

PIECE = 2**23  # bytes of one request; four at once, so that a fetch holds 32 MB
PARALLEL = 4


class UnwritableError(InputError):
    """The cache's disk is full, or not to be written to."""


class Cache:
    """Shards in `folder`, together at most `limit` bytes; the longest unused ones make room."""

    def __init__(self, folder: Path, limit: int):
        self.folder = folder
        self.limit = limit
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)

    def open(self, digest: str, size: int) -> int | None:
        """A descriptor of the shard, to be closed by the caller (it outlives eviction); None if it
        is not here.
        """
        path = self._path(digest, ".tar")
        try:
            descriptor = open_regular(path)
        except FileNotFoundError:
            return None
        if os.fstat(descriptor).st_size != size:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            return None
        with suppress(PermissionError):  # another user's file
            os.utime(descriptor)
        return descriptor

    def bring(self, url: Url, digest: str, size: int) -> None:
        """Fetch the shard, if it is not here and no other process is fetching it."""
        if (descriptor := self.fetch(url, digest, size, wait=False)) is not None:
            os.close(descriptor)

    def fetch(self, url: Url, digest: str, size: int, wait: bool = True) -> int | None:
        """A descriptor of the shard, which is fetched if it is not here.

        Args:
            wait: for another process that is fetching this shard; else None is returned.

        Raises:
            InputError: the disk or the store fails, or the store holds other bytes than those that were indexed.
        """
        part = self._path(digest, ".part")
        while True:
            with self._writing():
                descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                os.close(descriptor)
                return None
            # Or somebody renamed or evicted it before we had the lock.
            ours = files.is_still(part, descriptor)
            if (present := self.open(digest, size)) is None and ours:
                return self._complete(descriptor, part, url, digest, size)
            if ours:
                part.unlink()
            os.close(descriptor)
            if present is not None:
                return present

    def _path(self, digest: str, suffix: str) -> Path:
        """A file of the cache. A digest comes from a stranger's manifest: what is none would lead
        out of the folder.
        """
        try:
            return self.folder / f"{DIGEST.check(digest)}{suffix}"
        except MismatchError as error:
            raise InputError(
                f"the cache keeps shards by their SHA-256: {error}; index them again"
            ) from None

    def _complete(self, descriptor: int, part: Path, url: Url, digest: str, size: int) -> int:
        try:
            with self._writing():
                while not self._make_room(descriptor, part, size):
                    # What fills the cache is being fetched just now, and can be evicted soon.
                    time.sleep(0.1)
                _download(url, descriptor, digest, size)
                os.replace(part, part.with_suffix(".tar"))
        except BaseException:
            part.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return descriptor

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = "set loader.cache_dir, less loader.cache_gb, or loader.fetch=ranges"
            raise UnwritableError(
                f"{self.folder} cannot be written ({error.strerror}); {remedy}"
            ) from error

    def _make_room(self, descriptor: int, part: Path, size: int) -> bool:
        """Give the part its full size, which counts from now on, if the bound allows that after
        eviction.
        """
        with open(self.folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            others = {}  # parts before shards: that is how one becomes the other
            for path in (*self.folder.glob("*.part"), *self.folder.glob("*.tar")):
                with suppress(
                    FileNotFoundError
                ):  # it has become a shard, or was removed, since it was listed
                    others[path] = path.stat()
            others.pop(part, None)
            excess = sum(status.st_size for status in others.values()) + size - self.limit
            for path, status in sorted(others.items(), key=lambda file: file[1].st_mtime_ns):
                if excess > 0 and _evict(path):
                    excess -= status.st_size
            if excess <= 0:
                os.ftruncate(descriptor, size)
            return excess <= 0


def _evict(path: Path) -> bool:
    """Remove a shard, or a part that nobody is fetching; who reads it goes on reading."""
    with suppress(FileNotFoundError), open(path, "rb") as file:
        if path.suffix == ".part":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        if not files.is_still(path, file.fileno()):
            return False  # it has become a shard since it was listed
        path.unlink()
    return True


def _download(url: Url, descriptor: int, digest: str, size: int) -> None:
    sha256 = hashlib.sha256()
    with open(descriptor, "wb", closefd=False) as file:
        for start in range(0, size, PIECE * PARALLEL):
            starts = range(start, min(size, start + PIECE * PARALLEL), PIECE)
            for piece in read_ranges([(url, first, min(size, first + PIECE)) for first in starts]):
                file.write(piece)
                sha256.update(piece)
    if sha256.hexdigest() != digest:
        raise InputError(
            f"{url} was replaced after it was indexed (other SHA-256); restore it, or index it again"
        )
    os.fsync(descriptor)
