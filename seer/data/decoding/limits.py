"""How much work one encoded picture may ask for, told from its header, before a decoder sees it.

A few hundred kilobytes can keep a decoder busy for minutes. Work is counted here, and never timed:
whether a picture is taken must not depend on how busy a machine is, or else two ranks would
disagree about a batch. What grows with the bytes of the file alone (metadata, empty chunks, further
frames, which are not read) needs no limit.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

MAX_PIXELS = 178_956_970  # Pillow's own limit: half a gigabyte of RGB

# libjpeg's script for progressive files has 10 scans, the best that searches for scripts find fewer
# than 20. libtiff, too, reads 100 at most.
MAX_SCANS = 100
# Of all scans together: the largest picture in 10 scans. An empty scan costs 2 ns per pixel, so all
# of this 4 s.
MAX_SCANNED_PIXELS = 10 * MAX_PIXELS
# Of formats whose decoders are loops in Python, at 1 to 2 µs per pixel.
MAX_SLOW_PIXELS = 2**22
# Strips and tiles of a TIFF, of which each costs 10 µs, and entries of its directory.
MAX_TILES = 65_536
MAX_TIFF_ENTRIES = 4_096

JPEG_MAGIC = b"\xff\xd8\xff"
START_OF_SCAN = 0xDA
END_OF_IMAGE = 0xD9
PROGRESSIVE = {0xC2, 0xCA}  # frames, by Huffman and by arithmetic coding
FRAMES = {0xC0, 0xC1, 0xC9, *PROGRESSIVE}
NO_MARKER = {0x00, 0xFF}  # after 0xFF: a stuffed byte, a fill byte
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xDA)}

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")
TIFF_COUNTED = {273: MAX_TILES, 324: MAX_TILES}  # StripOffsets, TileOffsets
TILE_WIDTH = 322
TILE_LENGTH = 323
COMPRESSION = 259
TIFF_JPEG = {6, 7}
TIFF_INTEGERS = {1: "B", 3: "H", 4: "L", 16: "Q"}  # field types


class DamagedImage(ValueError):  # noqa: N818  # what was found, not what went wrong here
    """These bytes are no image we can use. `reason` is short and the same for the same kind of
    damage.
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class Header(NamedTuple):
    """Of a JPEG: where its first scan's coded data begin, and whether more scans may follow."""

    end: int
    several_scans: bool


def jpeg_header(jpeg: bytes) -> Header:
    """Walk the segments up to the first scan as libjpeg does: fill bytes and garbage between them
    are passed over.
    """
    position = 2
    components = 0
    progressive = False
    last = len(jpeg) - 10
    while position <= last:
        marker = jpeg[position + 1]
        if jpeg[position] != 0xFF or marker in NO_MARKER:
            position += 1
            continue
        end = _end_of_segment(jpeg, position)
        if marker in FRAMES and not components:
            components = jpeg[position + 9]
            progressive = marker in PROGRESSIVE
        elif marker == START_OF_SCAN:
            # A sequential frame is decoded in one pass, after which libjpeg wants no second scan,
            # if the first has all.
            return Header(end, progressive or jpeg[position + 4] < components)
        elif marker == END_OF_IMAGE:
            return Header(end, False)
        position = end
    return Header(len(jpeg), False)


def _end_of_segment(jpeg: bytes, position: int) -> int:
    """Where the segment ends whose marker is at `position`."""
    if jpeg[position + 1] in WITHOUT_LENGTH:
        return position + 2
    length = jpeg[position + 2] << 8 | jpeg[position + 3]
    return position + 2 + max(2, length)


def check_jpeg(jpeg: bytes, header: Header, pixels: int) -> None:
    """Refuse a JPEG of `pixels` pixels for its number of scans. Of most files only the header is
    looked at.
    """
    if not header.several_scans:
        return
    allowed = min(MAX_SCANS, MAX_SCANNED_PIXELS // max(1, pixels))
    if 1 + _most_scans_after(jpeg, header.end) <= allowed:
        return
    scans = 1
    for segments, position in enumerate(_segments(jpeg, header.end), 1):
        scans += jpeg[position + 1] == START_OF_SCAN
        if scans > allowed:
            raise DamagedImage(f"too many scans (more than {allowed})")
        if segments > 10 * MAX_SCANS:  # tables and comments between the scans
            raise DamagedImage("too many segments between scans")


def _most_scans_after(jpeg: bytes, start: int) -> int:
    """How often the marker's two bytes stand from `start` on, in comments as well; thrice as fast
    as `bytes.count`.
    """
    marker = 0xFF | START_OF_SCAN << 8
    found = 0
    for offset in (start, start + 1):
        pairs = (len(jpeg) - offset) // 2
        if pairs > 0:
            found += int(np.count_nonzero(np.frombuffer(jpeg, "<u2", pairs, offset) == marker))
    return found


def _segments(jpeg: bytes, start: int) -> Iterator[int]:
    """Places of the markers from `start`, which is among coded data, to the end of the image."""
    markers = _markers(jpeg, start)
    following = 0
    while following < len(markers):
        position = int(markers[following])
        if jpeg[position + 1] == END_OF_IMAGE or position + 4 > len(jpeg):
            return
        yield position
        following = int(np.searchsorted(markers, _end_of_segment(jpeg, position)))


def _markers(jpeg: bytes, start: int) -> np.ndarray:
    """Places from `start` on where a marker other than a restart may stand, in order."""
    data = np.frombuffer(jpeg, np.uint8, offset=min(start, len(jpeg)))
    places = np.flatnonzero(data[:-1] == 0xFF)
    codes = data[places + 1]
    restart = (codes >= 0xD0) & (codes <= 0xD7)
    return places[(codes != 0x00) & (codes != 0xFF) & ~restart] + start


def check_tiff(tiff: bytes) -> None:
    """Refuse a TIFF whose directory asks for more tiles, or larger ones, than pictures within the
    limits have.
    """
    width = 0
    length = 0
    for tag, count, value in _tiff_fields(tiff):
        if count > TIFF_COUNTED.get(tag, count):
            raise DamagedImage(f"too many tiles ({count})")
        # Where a tag stands twice, Pillow and libtiff differ in which they take.
        width = max(width, value if tag == TILE_WIDTH else 0)
        length = max(length, value if tag == TILE_LENGTH else 0)
    if width * length > MAX_PIXELS:
        raise DamagedImage(f"tiles too large ({width}x{length})")


def check_tiff_jpeg(tiff: bytes, pixels: int) -> None:
    """Refuse a TIFF of progressive JPEGs of which libtiff, which reads `MAX_SCANS` of each, would
    read too much.
    """
    if pixels * MAX_SCANS <= MAX_SCANNED_PIXELS or not any(
        _is_jpeg(field) for field in _tiff_fields(tiff)
    ):
        return
    if any(bytes((0xFF, marker)) in tiff for marker in PROGRESSIVE):
        raise DamagedImage("too many pixels for progressive JPEG in TIFF")


def _is_jpeg(field: tuple[int, int, int]) -> bool:
    tag, _, value = field
    return tag == COMPRESSION and value in TIFF_JPEG


def _tiff_fields(tiff: bytes) -> Iterator[tuple[int, int, int]]:
    """`(tag, count, value)` of the first directory's entries (TIFF 6.0, section 2; BigTIFF); value
    0 if not inline.
    """
    order = "<" if tiff.startswith(b"II") else ">"
    big = b"+" in tiff[2:4]
    start = struct.Struct(order + ("Q" if big else "L"))
    entries = struct.Struct(order + ("Q" if big else "H"))
    entry = struct.Struct(order + ("HHQ8s" if big else "HHL4s"))
    try:
        (directory,) = start.unpack_from(tiff, 8 if big else 4)
        (number,) = entries.unpack_from(tiff, directory)
        if number > MAX_TIFF_ENTRIES:
            raise DamagedImage(f"too many tags ({number})")
        for i in range(number):
            tag, kind, count, inline = entry.unpack_from(
                tiff, directory + entries.size + i * entry.size
            )
            code = order + TIFF_INTEGERS.get(kind, "0s")
            fits = kind in TIFF_INTEGERS and count == 1 and struct.calcsize(code) <= len(inline)
            yield tag, count, struct.unpack_from(code, inline)[0] if fits else 0
    except (struct.error, OverflowError):  # truncated, as the reader will say
        return
