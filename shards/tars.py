"""Plain WebDataset tars: members found with their place in the file, and written as the same bytes every time.

`tarfile` understands the headers (ustar, GNU and PAX long names); the places of the data are what it adds to them, and
what makes a sample readable by one seek.
"""

import hashlib
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from seer.inputs import open_regular

COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
SKIPPED = re.compile(r"__[^/]*__(/|$)|(.*/)?\.[^/]*$")  # WebDataset's own metadata, and hidden files
COPIED = 1 << 22  # bytes at a time


class DamagedTar(ValueError):  # noqa: N818  # as DamagedImage: what was found, not what went wrong here
    """The archive ends early or holds something that is not a header; what came before is sound."""


class Member(NamedTuple):
    """A regular file in a tar: its name, and where its data lie, in bytes."""

    name: str
    offset: int
    size: int


def split_name(name: str) -> tuple[str, str]:
    """`(key, suffix)` by WebDataset's rule: the key runs to the first dot of the base name; suffixes are lower case."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def members(path: str | Path) -> Iterator[Member]:
    """The regular files of a tar in order; links, sparse and hidden files are passed over.

    Raises:
        DamagedTar: after the last sound member, when the archive is damaged or is no uncompressed tar.
        OSError: when it cannot be read.
    """
    return (member for info, _ in entries(path) if (member := member_of(info)))


def member_of(info: tarfile.TarInfo) -> Member | None:
    """The entry as a member of a sample; None for what is passed over."""
    if not info.isreg() or info.issparse() or SKIPPED.match(info.name):
        return None
    return Member(info.name, info.offset_data, info.size)


def entries(path: str | Path) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Every entry of a tar in order, of whatever kind, and the byte behind its data. Raises as `members`."""
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size
        try:
            tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115  # closing `file` is enough
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would otherwise keep every header
                # The size of a sparse file or a hard link is not that of its data.
                plain = info.isreg() and not info.issparse()
                if (info.offset_data + info.size if plain else tar.offset) > length:
                    raise DamagedTar(f"truncated tar (within {info.name})")
                yield info, tar.offset
        except tarfile.TarError as error:
            raise DamagedTar(_explain(file, error)) from None
        file.seek(tar.offset)  # `tarfile` takes a bad header in mid-file for the end
        if (block := file.read(tarfile.BLOCKSIZE)).strip(b"\0"):
            kind = "damaged" if len(block) == tarfile.BLOCKSIZE else "truncated"
            raise DamagedTar(f"{kind} tar (no header at byte {tar.offset})")


def _explain(file: BinaryIO, error: tarfile.TarError) -> str:
    file.seek(0)
    start = file.read(2)
    if start in COMPRESSED:
        return f"compressed tar ({COMPRESSED[start]}: unpack it first)"
    kind = "empty" if not start else "truncated" if "end of data" in str(error) else "damaged"
    return f"{kind} tar ({error})"


def samples(found: Iterable[Member]) -> Iterator[tuple[str, dict[str, Member]]]:
    """`(key, members by suffix)` of each run of members with one key; a suffix that repeats begins another sample.

    DamagedTar is passed on after the samples before the damage.
    """
    current, group, damage = "", dict[str, Member](), None
    try:
        for member in found:
            key, suffix = split_name(member.name)
            if group and (key != current or suffix in group):
                yield current, group
                group = {}
            current, group[suffix] = key, member
    except DamagedTar as error:
        damage = error
    if group:
        yield current, group
    if damage:
        raise damage


def read_range(path: str, offset: int, size: int) -> bytes:
    """`size` bytes at `offset`. Raises OSError, also when the file ends before."""
    state = os.stat(path)
    file = _descriptor(path, state.st_ino, state.st_mtime_ns)  # held, lest another thread's read evict and close it
    data = os.pread(file.fileno(), size, offset)
    if len(data) != size:
        raise OSError("the file is shorter than when it was listed")
    return data


@lru_cache(maxsize=64)
def _descriptor(path: str, *version: int) -> BinaryIO:
    return open(open_regular(Path(path)), "rb")  # closed by reference counting when it leaves the cache


class TarWriter:
    """Writes members with owner 0, time 0 and mode 0644, and hashes what it writes.

    `webdataset.TarWriter` does not tell where the data went, and that is what the index is for.
    """

    def __init__(self, file: BinaryIO):
        self.file, self.bytes, self.sha256 = file, 0, hashlib.sha256()

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
    """The file's SHA-256 in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
