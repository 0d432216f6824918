"""Images in zip files: listed by their directory, read one by one."""

import bz2
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from os.path import getmtime
from typing import BinaryIO

from seer.inputs import open_data

Unpacker = bz2.BZ2Decompressor | lzma.LZMADecompressor

ENCRYPTED = 1  # bit of a member's flags
LOCAL_HEADER = struct.Struct("<26xHH")  # the lengths of name and extra field (APPNOTE 4.3.7)
# In bytes.
PACKED_READ = 1 << 16
UNPACKED_AT_ONCE = 1 << 20
MAX_DICTIONARY = 1 << 26  # bytes; LZMA allocates it before it reads anything

# What `zipfile` raises for what it cannot read: damage, encryption (RuntimeError), unknown methods
# of compression.
DAMAGE = (
    *(
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        OSError,
        EOFError,
        RuntimeError,
        NotImplementedError,
    ),
    *(ValueError, OverflowError, struct.error, UnicodeError),
)


def members(path: str) -> list[tuple[int, zipfile.ZipInfo]]:
    """`(number, member)` of what is no folder and not hidden, in the order of their names. Raises
    DAMAGE.
    """
    found = enumerate(_opened(path, getmtime(path)).infolist())
    return sorted(
        ((n, m) for n, m in found if _is_visible(m)),
        key=lambda member: (member[1].filename, member[0]),
    )


def read(path: str, number: int, most: int) -> bytes:
    """Up to `most` bytes of a member, with no more memory than that and what it is packed in.
    Raises DAMAGE.
    """
    archive = _opened(path, getmtime(path))
    member = archive.infolist()[number]
    if member.compress_type in UNPACKERS:
        return _read_bounded(path, member, most)
    with archive.open(member) as file:
        return file.read(most)


def _read_bounded(path: str, member: zipfile.ZipInfo, most: int) -> bytes:
    """As `ZipFile.open`, which for these methods unpacks all that it reads at once: gigabytes from
    a kilobyte.
    """
    if member.flag_bits & ENCRYPTED:
        raise RuntimeError("it is encrypted")
    with open_data(path) as file:
        file.seek(member.header_offset)
        header = file.read(LOCAL_HEADER.size)
        if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
            raise zipfile.BadZipFile("no header where the directory says")
        file.seek(sum(LOCAL_HEADER.unpack(header)), os.SEEK_CUR)
        start = file.tell()
        unpacker = UNPACKERS[member.compress_type](file)
        packed = start + member.compress_size - file.tell()
        data = _unpacked(file, packed, unpacker, min(most, member.file_size))
    if len(data) == member.file_size and zlib.crc32(data) != member.CRC:
        raise zipfile.BadZipFile("its bytes are not what the directory says")
    return data


def _unpacked(file: BinaryIO, packed: int, unpacker: Unpacker, most: int) -> bytes:
    """Up to `most` bytes of what the next `packed` bytes hold. Raises DAMAGE where they end before."""
    parts: list[bytes] = []
    size = 0
    while size < most and not unpacker.eof:
        chunk = b""
        if unpacker.needs_input:
            chunk = file.read(min(PACKED_READ, packed))
            packed -= len(chunk)
            if not chunk:
                raise EOFError("it ends early")
        part = unpacker.decompress(chunk, min(most - size, UNPACKED_AT_ONCE))
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _lzma(file: BinaryIO) -> Unpacker:
    """The stream that begins here: APPNOTE 5.8.8, version and size of properties, then LZMA's own
    five bytes.
    """
    head = file.read(9)
    if len(head) < 9 or head[2:4] != b"\5\0":
        raise zipfile.BadZipFile("no properties of LZMA")
    literal = head[4]
    dictionary = int.from_bytes(head[5:], "little")
    if literal >= 9 * 5 * 5 or dictionary > MAX_DICTIONARY:
        raise zipfile.BadZipFile("properties of LZMA that are out of range")
    properties = {
        "lc": literal % 9,
        "lp": literal // 9 % 5,
        "pb": literal // 45,
        "dict_size": max(dictionary, 4096),
    }
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, **properties}])


# What `zipfile` would unpack without a limit, by the method's number.
UNPACKERS: dict[int, Callable[[BinaryIO], Unpacker]] = {
    zipfile.ZIP_BZIP2: lambda file: bz2.BZ2Decompressor(),
    zipfile.ZIP_LZMA: _lzma,
}


def _is_visible(member: zipfile.ZipInfo) -> bool:
    """`__MACOSX` holds what macOS adds, under the names of the images."""
    parts = [part for part in member.filename.split("/") if part not in ("", ".", "..")]
    return (
        not member.is_dir()
        and "__MACOSX" not in parts[:1]
        and not any(part.startswith(".") for part in parts)
    )


@lru_cache(maxsize=16)
def _opened(path: str, modified: float) -> zipfile.ZipFile:
    return zipfile.ZipFile(open_data(path))
