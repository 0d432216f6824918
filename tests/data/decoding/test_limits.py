"""Files that ask for more work than their size lets one think: refused from their header, and
ordinary ones not.
"""

import io
import json
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from seer.data import ledger
from seer.data.crops.device import size_of_plain
from seer.data.crops.multicrop import MultiCrop, View
from seer.data.decoding import decode as decoding
from seer.data.decoding import limits
from seer.data.decoding.decode import DamagedImage, decode, probe
from seer.data.labelled import load_labelled
from seer.data.loader import Loader, LoaderConfig
from seer.data.order import Order
from seer.data.storage.index import Manifest
from seer.errors import InputError
from shards.build import BuildOptions, build
from tests.kit.pictures import coloured_jpeg
from tests.kit.shards import write_shards

FLAT = Image.new("RGB", (64, 48), (90, 130, 200))


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def scans_of(jpeg: bytes) -> list[int]:
    """Where scans begin in a JPEG without comments."""
    return [i for i in range(len(jpeg) - 1) if jpeg[i : i + 2] == b"\xff\xda"]


def with_scans(count: int, between: bytes = b"", size: tuple[int, int] = (64, 48)) -> bytes:
    """A progressive JPEG whose last scan, which refines nothing, comes again until there are
    `count`.
    """
    jpeg = encoded(FLAT.resize(size), "JPEG", progressive=True, quality=90)
    starts = scans_of(jpeg)
    assert len(starts) == 10
    return jpeg[:-2] + (between + jpeg[starts[-1] : -2]) * (count - 10) + jpeg[-2:]


def refused(data: bytes) -> str:
    with pytest.raises(DamagedImage) as raised:
        decode(data)
    return raised.value.reason


def tiff(tags: dict[int, tuple[int, int, int]], body: bytes = b"", order: str = "<") -> bytes:
    """A classic TIFF of one directory; tags as (type, count, value)."""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    rows = b""
    for tag, (kind, count, value) in sorted(tags.items()):
        padded = (
            struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "L", value)
        )
        rows += struct.pack(order + "HHL", tag, kind, count) + padded
    return magic + struct.pack(order + "LH", 8, len(tags)) + rows + bytes(4) + body


def test_scans_are_counted_to_the_limit():
    assert (decode(with_scans(limits.MAX_SCANS)) == decode(with_scans(10))).all()
    for data in (with_scans(limits.MAX_SCANS + 1), with_scans(3000)):
        assert refused(data) == "too many scans (more than 100)"
        with pytest.raises(DamagedImage, match="too many scans"):
            probe(data)
        assert size_of_plain(data) is None
    assert size_of_plain(with_scans(20)) == (48, 64)


def test_large_pictures_have_fewer_scans(monkeypatch):
    monkeypatch.setattr(limits, "MAX_SCANNED_PIXELS", 12 * 64 * 48)
    assert decode(with_scans(12)).shape == (48, 64, 3)
    assert refused(with_scans(13)) == "too many scans (more than 12)"


def test_the_largest_picture_may_have_the_usual_scans():
    assert limits.MAX_SCANNED_PIXELS // limits.MAX_PIXELS >= 10


def test_scans_do_not_hide_behind_other_segments():
    """A comment that holds an end of image; fill bytes and garbage, which libjpeg passes over."""
    comment = b"\xff\xfe" + struct.pack(">H", 6) + b"\xff\xd9\xff\xd9"
    for between in (comment, b"\xff" * 9, bytes(7)):
        data = with_scans(150, between)
        with Image.open(io.BytesIO(data)) as image:
            image.load()  # the scans are there
        assert refused(data).startswith("too many scans")
    header_garbage = with_scans(150).replace(b"\xff\xd8", b"\xff\xd8" + bytes(5), 1)
    assert limits.jpeg_header(header_garbage).several_scans


def test_what_only_looks_like_scans_is_none():
    """In a comment, and in another picture after the first."""
    comment = b"\xff\xfe" + struct.pack(">H", 802) + b"\xff\xda" * 400
    data = with_scans(11, comment)
    assert (decode(data) == decode(with_scans(10))).all()
    appended = with_scans(10) + with_scans(99) + with_scans(99)
    assert (decode(appended) == decode(with_scans(10))).all()


def test_comments_between_scans_have_a_limit():
    assert (
        refused(with_scans(11, b"\xff\xfe\0\4\xff\xda" * 2000)) == "too many segments between scans"
    )


def test_scans_that_follow_a_sequential_one_count_where_that_is_not_the_only_one():
    colour = encoded(FLAT, "JPEG", quality=90)
    whole, partial = limits.jpeg_header(colour), limits.jpeg_header(with_scans(10))
    assert not whole.several_scans
    assert partial.several_scans
    one_of_three = bytearray(colour)
    one_of_three[colour.index(b"\xff\xda") + 4] = 1
    assert limits.jpeg_header(bytes(one_of_three)).several_scans


@given(st.binary(max_size=300), st.integers(0, 300))
def test_any_bytes_have_a_header(noise, cut):
    data = with_scans(12)[:cut] + noise
    header = limits.jpeg_header(data)
    assert header.end >= 0
    with suppress(DamagedImage):
        limits.check_jpeg(data, limits.Header(min(cut, len(data)), True), 10**9)


def test_a_tiff_has_no_more_tiles_than_pictures_have():
    tags = {
        256: (4, 1, 8),
        257: (4, 1, 8),
        258: (3, 1, 8),
        262: (3, 1, 1),
        322: (4, 1, 16),
        323: (4, 1, 16),
    }
    for order in "<>":
        many = tiff({**tags, 324: (4, limits.MAX_TILES + 1, 8)}, order=order)
        assert refused(many) == f"too many tiles ({limits.MAX_TILES + 1})"
        large = tiff(
            {**tags, 322: (4, 1, 20_000), 323: (4, 1, 20_000), 324: (4, 1, 8)}, order=order
        )
        assert refused(large) == "tiles too large (20000x20000)"
    twice = tiff(tags)[:-4] + bytes(4)
    assert "too" not in refused(twice)
    assert refused(b"II*\0" + struct.pack("<LH", 8, 60_000)) == "too many tags (60000)"


def test_the_directory_of_a_big_tiff():
    entry = struct.pack("<HHQQ", 324, 4, 10**6, 0)
    assert (
        refused(b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 1) + entry) == "too many tiles (1000000)"
    )


def test_progressive_jpegs_in_a_tiff(monkeypatch):
    monkeypatch.setattr(limits, "MAX_SCANNED_PIXELS", 100 * 64 * 48 - 1)
    data = encoded(FLAT, "TIFF", compression="jpeg")
    assert decode(data).shape == (48, 64, 3)
    progressive = data.replace(b"\xff\xc0", b"\xff\xc2")
    assert progressive != data
    assert refused(progressive) == "too many pixels for progressive JPEG in TIFF"


def qoi(side: int) -> bytes:
    """All black, in runs of 62."""
    runs, rest = divmod(side * side, 62)
    last = bytes([0xC0 | (rest - 1)]) if rest else b""
    return (
        b"qoif" + struct.pack(">IIBB", side, side, 3, 0) + b"\xfd" * runs + last + bytes(7) + b"\1"
    )


def test_decoders_that_are_loops_in_python_get_smaller_pictures():
    assert not decode(qoi(512)).any()
    assert refused(qoi(2049)) == "too many pixels for this kind of QOI (2049x2049)"
    plain = b"P2 3000 3000 255\n" + b"1 " * 100
    assert refused(plain) == "too many pixels for this kind of PPM (3000x3000)"
    assert decode(b"P5 2100 2100 255\n" + bytes(2100**2)).shape == (2100, 2100, 3)


def test_metadata_that_unpack_to_gigabytes_are_refused():
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    png = encoded(FLAT, "PNG")
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2 * 2**20)))
    profile = chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(2 * 2**20)))
    for bomb in (text, profile):
        assert refused(png[:33] + bomb + png[33:]).startswith("corrupt")


@pytest.mark.parametrize(
    "format", ["ICO", "PSD", "DCX", "FLI", "FITS", "WMF", "HDF5", "EPS", "ICNS"]
)
def test_formats_that_nobody_declared_are_not_opened(format, monkeypatch):
    """Pillow is never let at them: its reader would be called."""
    starts = {
        "ICO": b"\0\0\1\0", "PSD": b"8BPS\0\1", "DCX": b"\xb1\x68\xde\x3a",
        "FLI": bytes(4) + b"\x11\xaf" + bytes(8) + b"\3\0",
        "FITS": b"SIMPLE  =", "WMF": b"\xd7\xcd\xc6\x9a\0\0", "HDF5": b"\x89HDF\r\n\x1a\n", "EPS": b"%!PS-Adobe-3.0",
        "ICNS": b"icns",
    }  # fmt: skip
    Image.init()

    def factory(file, name):
        raise AssertionError(f"{format} was opened")

    monkeypatch.setitem(Image.OPEN, format, (factory, Image.OPEN[format][1]))
    assert refused(starts[format] + bytes(200)) == f"{format} is not read"


def test_every_declared_format_is_one_that_pillow_has():
    Image.init()
    assert set(decoding.FORMATS) <= set(Image.OPEN)


def test_the_loader_replaces_a_bomb_and_enters_it(tmp_path):
    bomb = with_scans(3000)
    manifest = write_shards(
        tmp_path / "shards", [6], lambda i: bomb if i == 2 else coloured_jpeg(i)
    )
    for encoded_batch in (False, True):
        run_dir = tmp_path / f"run{encoded_batch}"
        run_dir.mkdir()
        crops = MultiCrop({"a": View(size=8, count=1)}, 0, finish=False)
        config = LoaderConfig(workers=0, device_augment=True, device_decode=encoded_batch)
        loader = Loader(
            manifest,
            Order(manifest.sizes, 0, 6, 6),
            crops,
            batch_size=6,
            config=config,
            run_dir=run_dir,
        )
        assert len(list(loader.iterate(0, 1))) == 1
        (entry,) = ledger.read(run_dir, 6)
        assert (entry.id, entry.replacement, entry.reason) == (
            2,
            3,
            "too many scans (more than 100)",
        )


def test_a_build_quarantines_a_bomb(tmp_path):
    (tmp_path / "images").mkdir()
    for name, data in {
        "bomb.jpg": with_scans(3000),
        "good.jpg": encoded(FLAT, "JPEG"),
        "old.qoi": qoi(3000),
    }.items():
        (tmp_path / "images" / name).write_bytes(data)
    for check in (True, False):
        out = tmp_path / f"shards{check}"
        build([tmp_path / "images"], out, BuildOptions(workers=1, check=check))
        assert Manifest.load(out).samples == 1
        rows = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
        assert sorted(row["reason"] for row in rows) == [
            "too many pixels for this kind of QOI (3000x3000)",
            "too many scans (more than 100)",
        ]


def test_an_evaluation_names_the_bomb(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "bomb.jpg").write_bytes(with_scans(3000))
    with pytest.raises(InputError, match=r"bomb.jpg cannot be used \(too many scans"):
        load_labelled(tmp_path).image(0)


def test_the_check_does_not_read_the_scan_of_an_ordinary_jpeg(monkeypatch):
    monkeypatch.setattr(limits, "_most_scans_after", None)
    pixels = np.full((48, 64, 3), 7, np.uint8)
    assert decode(simplejpeg.encode_jpeg(pixels)).shape == (48, 64, 3)
