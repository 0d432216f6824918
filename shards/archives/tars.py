"""Plain WebDataset tars: members found with their place in the file, and written as the same bytes
every time.
"""

import hashlib
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from seer.inputs import open_file, open_regular
from shards.archives.headers import FILE, DamagedTar, Entry, entries

# WebDataset's own metadata, and hidden files.
SKIPPED = re.compile(r"__[^/]*__(/|$)|(.*/)?\.[^/]*$")
# What can be a suffix of a member: it begins with a letter and has no blanks. Letters beyond ASCII,
# and bytes that are no text, count as letters.
SUFFIX = re.compile(r"[A-Za-z\x80-\U0010ffff][\w+\-\x80-\U0010ffff]*")
COPIED = 1 << 22  # bytes at a time


class Member(NamedTuple):
    """A regular file in a tar: its name, and where its data lie, in bytes."""

    name: str
    offset: int
    size: int


def split_name(name: str) -> tuple[str, str]:
    """`(key, suffix)`. Suffixes are lower case.

    By WebDataset's rule the key runs to the first dot of the base name, and all behind it is the
    suffix. So it is here where every part behind the first dot can be one (`1.seg.png`). Else, as
    in `2021.05.01 12.00.jpg`, the parts that cannot and all before them belong to the key: images
    of one year are not members of one sample.
    """
    folder, slash, base = name.rpartition("/")
    stem, *parts = base.split(".")
    behind = len(parts)
    while behind and SUFFIX.fullmatch(parts[behind - 1]):
        behind -= 1
    key = ".".join([stem, *parts[:behind]])
    return f"{folder}{slash}{key}", ".".join(parts[behind:]).lower()


def raw(name: str) -> bytes:
    """The bytes of a member's name as the tar has them."""
    return name.encode("utf-8", "surrogateescape")


def members(path: str | Path) -> Iterator[Member]:
    """The regular files of a tar in order; links, sparse and hidden files are passed over. Raises
    as `entries`.
    """
    return (member for entry in entries(path) if (member := member_of(entry)))


def member_of(entry: Entry) -> Member | None:
    """The entry as a member of a sample; None for what is passed over."""
    return Member(entry.name, entry.offset, entry.size) if not passed_over(entry) else None


def passed_over(entry: Entry) -> str:
    """What kind of entry this is, when it can be no member of a sample; else ""."""
    if entry.kind != FILE:
        return entry.kind
    return "hidden" if SKIPPED.match(entry.name) else ""


def runs(members: Iterable[Member]) -> Iterator[tuple[str, dict[str, Member]]]:
    """`(key, members by suffix)` of each run of members with one key; a suffix that repeats begins
    another run.

    DamagedTar is passed on after the runs before the damage.
    """
    current = ""
    group = dict[str, Member]()
    damage = None
    try:
        for member in members:
            key, suffix = split_name(member.name)
            if group and (key != current or suffix in group):
                yield current, group
                group = {}
            current = key
            group[suffix] = member
    except DamagedTar as error:
        damage = error
    if group:
        yield current, group
    if damage:
        raise damage


def read_range(path: str, offset: int, size: int) -> bytes:
    """`size` bytes at `offset`. Raises OSError, also when the file ends before."""
    state = os.stat(path)
    # Held, lest another thread's read evict and close it.
    file = _descriptor(path, state.st_ino, state.st_mtime_ns)
    data = os.pread(file.fileno(), size, offset)
    if len(data) != size:
        raise OSError("the file is shorter than when it was listed")
    return data


@lru_cache(maxsize=64)
def _descriptor(path: str, *version: int) -> BinaryIO:
    # Closed by reference counting when it leaves the cache.
    return open(open_regular(Path(path)), "rb")


class TarWriter:
    """Writes members with owner 0, time 0 and mode 0644, and hashes what it writes.

    `webdataset.TarWriter` does not tell where the data went, and that is what the index is for.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.bytes = 0
        self.sha256 = hashlib.sha256()

    def add(self, name: str, data: bytes) -> int:
        """Append one member; returns the offset of its data."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._write(info.tobuf(tarfile.PAX_FORMAT, "utf-8"))
        offset = self.bytes
        self._write(data)
        self._write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset

    def copy(self, source: BinaryIO, start: int, end: int) -> None:
        """Append these bytes of another tar, which must be whole members."""
        source.seek(start)
        while chunk := source.read(min(COPIED, end - start)):
            self._write(chunk)
            start += len(chunk)

    def close(self) -> None:
        """Two empty blocks end the archive, which fills whole records. The file stays open."""
        end = self.bytes + 2 * tarfile.BLOCKSIZE
        self._write(bytes(2 * tarfile.BLOCKSIZE + -end % tarfile.RECORDSIZE))

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.sha256.update(data)
        self.bytes += len(data)


def sha256_file(path: str | Path) -> str:
    """The file's SHA-256 in hex. Raises `UnreadableError`, or FileNotFoundError."""
    with open_file(Path(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
