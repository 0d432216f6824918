"""The headers of a tar: where each entry and its data lie. Whatever the file says, memory and time
are bounded.

Ustar, with GNU's and PAX's long names, numbers and sparse files (POSIX.1-2017, `pax`; GNU tar
manual, "Basic Tar Format"). Not by `tarfile`: that reads extended headers of any length into
memory, calls itself for each of a chain of them, goes backwards at negative sizes, raises whatever
`int` raises, and stops at the first end of an archive.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from seer.inputs import open_data
from shards.records.notes import display

BLOCK = 512
MAX_EXTENDED = 1 << 20  # bytes of one extended header; longer ones hold no name of a file
MAX_SIZE_DIGITS = 19  # of a 64-bit number
ZEROS_READ = 1 << 20  # bytes at a time, between the archives of a file
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}

FILE = "file"
FOLDER = "folder"
LINK = "link"
SPARSE = "sparse"
SPECIAL = "special"
GLOBAL = "global"
KINDS = {
    b"0": FILE,
    b"\0": FILE,  # of tars from before 1988
    b"7": FILE,  # contiguous on disks that know it
    b"1": LINK,
    b"2": LINK,
    b"3": SPECIAL,
    b"4": SPECIAL,
    b"5": FOLDER,
    b"6": SPECIAL,
    b"S": SPARSE,
    b"g": GLOBAL,
}
EXTENDING = b"x", b"X", b"L", b"K"  # what they say is of the entry that follows
WITHOUT_DATA = b"1", b"2", b"3", b"4", b"5", b"6"  # whatever their headers claim as size


class DamagedTar(ValueError):  # noqa: N818  # as DamagedImage: what was found, not what went wrong here
    """The archive ends early or holds something that is not a header; what came before is sound."""


class Entry(NamedTuple):
    """One entry of a tar. Places are in bytes from the start of the file.

    `kind` is `file`, `folder`, `link` (to `link`), `sparse`, `special` or `global`. `start` is
    where its first header begins, `offset` and `size` say where its data lie, and `end` is where
    the next entry may begin.
    """

    name: str
    kind: str
    link: str
    start: int
    offset: int
    size: int
    end: int


@dataclass
class _Extended:
    """What extended headers say about the entry that follows them."""

    start: int
    name: str | None = None
    link: str | None = None
    size: int | None = None
    sparse: bool = False


def entries(path: str | Path) -> Iterator[Entry]:
    """Every entry of a tar in order, also of several archives that were put together with `cat`.

    Raises:
        DamagedTar: after the last sound entry, when the archive is damaged or is no uncompressed tar.
        OSError: when it cannot be read.
    """
    with open_data(path) as file:
        length = os.fstat(file.fileno()).st_size
        if not length:
            raise DamagedTar("empty tar (no bytes)")
        position = 0
        extended = None
        while block := _block_at(file, position):
            if not block.strip(b"\0"):
                _refuse_dangling(extended)
                position = _behind_zeros(file, position)
                continue
            kind, size, entry = _parsed(file, block, position)
            if kind in EXTENDING:
                extended = extended or _Extended(position)
                _extend(extended, kind, _payload(file, entry.offset, size, position))
                position = entry.offset + _padded(size)
                continue
            entry = _completed(file, entry, kind, extended)
            if entry.offset + entry.size > length:
                raise DamagedTar(f"truncated tar (within {display(entry.name)})")
            yield entry
            position = entry.end
            extended = None
        _refuse_dangling(extended)
        if position > length:
            raise DamagedTar("truncated tar (right behind the data of its last entry)")


def _block_at(file: BinaryIO, position: int) -> bytes:
    file.seek(position)
    return file.read(BLOCK)


def _refuse_dangling(extended: _Extended | None) -> None:
    """Raise DamagedTar when the archive ends where the entry of extended headers should be."""
    if extended:
        raise DamagedTar(
            f"truncated tar (no entry behind the extended header at byte {extended.start})"
        )


def _behind_zeros(file: BinaryIO, position: int) -> int:
    """The place of the next block that is not all zeros, or the end of the file."""
    file.seek(position)
    while chunk := file.read(ZEROS_READ):
        zeros = len(chunk) - len(chunk.lstrip(b"\0"))
        if zeros < len(chunk):
            return position + zeros // BLOCK * BLOCK
        position += len(chunk)
    return position


def _parsed(file: BinaryIO, block: bytes, position: int) -> tuple[bytes, int, Entry]:
    """Type flag, size and the entry as this header alone has it. Raises DamagedTar."""
    if len(block) < BLOCK:
        raise DamagedTar(_no_header(file, position, "truncated" if position else "damaged"))
    try:
        _check_sum(block)
        size = _number(block[124:136])
    except ValueError:
        raise DamagedTar(_no_header(file, position, "damaged")) from None
    if size < 0:
        raise DamagedTar(f"damaged tar (a negative size at byte {position})")
    kind = block[156:157]
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        name = f"{prefix}/{name}"
    entry = Entry(
        name, KINDS.get(kind, SPECIAL), _text(block[157:257]), position, position + BLOCK, size, 0
    )
    return kind, size, entry


def _no_header(file: BinaryIO, position: int, damage: str) -> str:
    """Why there is no header."""
    file.seek(0)
    first = file.read(2)
    if position == 0 and first in COMPRESSED:
        return f"compressed tar ({COMPRESSED[first]}: unpack it first)"
    return f"{damage} tar (no header at byte {position})"


def _check_sum(block: bytes) -> None:
    """Raise ValueError unless the sum of a header's bytes, its own field as blanks, is what it
    says.
    """
    others = block[:148] + block[156:]
    claimed = _number(block[148:156])
    unsigned = sum(others) + 8 * ord(" ")
    if claimed == unsigned:
        return
    signed = unsigned - 256 * sum(byte > 127 for byte in others)  # as some old tars have it
    if claimed != signed:
        raise ValueError("the sum is another")


def _number(field: bytes) -> int:
    """A number in octal digits, or in base 256 (GNU). Raises ValueError."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        return int.from_bytes(field, "big", signed=True)
    digits = field.split(b"\0", 1)[0].strip()
    if digits and not digits.isdigit():  # int() would also take signs and underscores
        raise ValueError("no number")
    return int(digits or b"0", 8)


def _text(field: bytes) -> str:
    """A name as the operating system would give it: bytes that are no UTF-8 become lone surrogates."""
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return size + -size % BLOCK


def _payload(file: BinaryIO, offset: int, size: int, position: int) -> bytes:
    """What an extended header says. Raises DamagedTar for one that is too long, or cut short."""
    if size > MAX_EXTENDED:
        raise DamagedTar(f"damaged tar (an extended header of {size:,} bytes at byte {position})")
    file.seek(offset)
    payload = file.read(size)
    if len(payload) < size:
        raise DamagedTar(f"truncated tar (within the extended header at byte {position})")
    return payload


def _extend(extended: _Extended, kind: bytes, payload: bytes) -> None:
    """Enter what an extended header says; a later one overrules an earlier one."""
    if kind == b"L":
        extended.name = _text(payload)
    elif kind == b"K":
        extended.link = _text(payload)
    else:
        _enter_records(extended, payload)


def _enter_records(extended: _Extended, payload: bytes) -> None:
    """Enter PAX records, each `"LENGTH KEY=VALUE\\n"`. Raises DamagedTar."""
    place = 0
    while place < len(payload) and payload[place]:
        beginning = payload[place : place + MAX_SIZE_DIGITS + 1]
        digits, _, _ = beginning.partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = payload[place : place + length]
        text = record[len(digits) + 1 :]
        key, equals, value = text.partition(b"=")
        if not equals or len(record) < length or not value.endswith(b"\n"):
            raise DamagedTar(f"damaged tar (a bad extended header at byte {extended.start})")
        _enter(extended, key, value[:-1])
        place += length


def _enter(extended: _Extended, key: bytes, value: bytes) -> None:
    if key in (b"path", b"GNU.sparse.name"):
        extended.name = value.decode("utf-8", "surrogateescape")
    elif key == b"linkpath":
        extended.link = value.decode("utf-8", "surrogateescape")
    elif key == b"size":
        if not value.isdigit() or len(value) > MAX_SIZE_DIGITS:
            raise DamagedTar(
                f"damaged tar (a bad size in the extended header at byte {extended.start})"
            )
        extended.size = int(value)
    extended.sparse = extended.sparse or key.startswith(b"GNU.sparse.")


def _completed(file: BinaryIO, entry: Entry, kind: bytes, extended: _Extended | None) -> Entry:
    """The entry with what extended headers say, and with the places of its data."""
    if extended:
        entry = entry._replace(
            name=entry.name if extended.name is None else extended.name,
            link=entry.link if extended.link is None else extended.link,
            size=entry.size if extended.size is None else extended.size,
            kind=SPARSE if extended.sparse and entry.kind == FILE else entry.kind,
            start=extended.start,
        )
    if kind in WITHOUT_DATA:
        return entry._replace(size=0, end=entry.offset)
    if kind == b"S":
        entry = entry._replace(offset=_behind_sparse_map(file, entry.offset))
    if entry.kind == FILE and entry.name.endswith("/"):
        entry = entry._replace(kind=FOLDER)
    return entry._replace(end=entry.offset + _padded(entry.size))


def _behind_sparse_map(file: BinaryIO, offset: int) -> int:
    """Where the data of GNU's sparse format begin: blocks with more of the map follow while each
    says so.
    """
    more = _block_at(file, offset - BLOCK)[482:483]
    while more not in (b"\0", b""):
        more = _block_at(file, offset)[504:505]
        offset += BLOCK
    return offset
