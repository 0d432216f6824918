"""Samples of other than 8 bits, written by other programs or by hand, against the colours that they
stand for.
"""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from seer.data.decoding.decode import DamagedImage, decode
from seer.data.decoding.deep import scaled, significant_bits, white_of_floats, white_of_integers

H, W = 24, 32
GREY = np.linspace(0, 1, H * W).reshape(H, W)
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1] * 0.5], -1)
WHITES = {8: 255, 10: 1023, 12: 4095, 14: 16383, 16: 65535}


def eight(colour: np.ndarray) -> np.ndarray:
    """What a picture of light from 0 to 1 is in 8 bits, with three channels."""
    colour = colour if colour.ndim == 3 else np.repeat(colour[..., None], 3, 2)
    return (colour * 255).round().astype(np.uint8)


def samples(colour: np.ndarray, bits: int, dtype=np.uint16) -> np.ndarray:
    return (colour * (2**bits - 1)).round().astype(dtype)


def png(pixels: np.ndarray, *chunks: tuple[bytes, bytes], bits: int = 16) -> bytes:
    """By hand: `(H, W)` or `(H, W, C)` with 1 to 4 channels of 16 bits, or grey of fewer."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in pixels]
    else:
        spread = (pixels[..., None] >> np.arange(bits)[::-1]) & 1
        rows = [np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in spread]
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bits, kind, 0, 0, 0)
    parts = [
        chunk(b"IHDR", header),
        *(chunk(*c) for c in chunks),
        chunk(b"IDAT", body),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(pixels: np.ndarray, photometric: str, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric=photometric, **options)
    return buffer.getvalue()


def furthest(data: bytes, expected: np.ndarray) -> int:
    pixels = decode(data)
    assert pixels.shape == expected.shape
    return int(np.abs(pixels.astype(int) - expected.astype(int)).max())


@pytest.mark.parametrize("bits", WHITES)
def test_a_png_shows_the_bits_that_it_has(bits):
    assert furthest(png(samples(GREY, bits)), eight(GREY)) <= 1
    assert furthest(png(samples(COLOUR, bits)), eight(COLOUR)) <= 1
    opaque = np.full((H, W, 1), 2**bits - 1)
    assert furthest(png(np.dstack([samples(COLOUR, bits), opaque])), eight(COLOUR)) <= 1
    assert furthest(png(np.dstack([samples(GREY, bits), opaque])), eight(GREY)) <= 1
    assert (
        furthest(png(np.dstack([samples(COLOUR, bits), np.full((H, W, 1), 65535)])), eight(COLOUR))
        <= 1
    )


@pytest.mark.parametrize("bits", WHITES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_shows_the_bits_that_it_has(bits, order, compression):
    options = {"byteorder": order, "compression": compression}
    assert furthest(tiff(samples(GREY, bits), "minisblack", **options), eight(GREY)) <= 1
    assert furthest(tiff(samples(COLOUR, bits), "rgb", **options), eight(COLOUR)) <= 1
    alpha = samples(GREY[..., None] * 0 + 1, bits)
    with_alpha = np.concatenate([samples(COLOUR, bits), alpha], -1)
    for kind in ("unassalpha", "assocalpha"):
        assert furthest(tiff(with_alpha, "rgb", extrasamples=[kind], **options), eight(COLOUR)) <= 1
    ink = np.concatenate(
        [2**bits - 1 - samples(COLOUR, bits).astype(int), 0 * alpha.astype(int)], -1
    )
    assert furthest(tiff(ink.astype(np.uint16), "separated", **options), eight(COLOUR)) <= 1


def test_premultiplied_alpha_is_laid_on_white():
    for bits in (12, 16):
        alpha = np.broadcast_to(np.linspace(0, 1, W), (H, W))[..., None]
        data = tiff(
            samples(np.concatenate([COLOUR * alpha, alpha], -1), bits),
            "rgb",
            extrasamples=["assocalpha"],
        )
        assert furthest(data, eight(COLOUR * alpha + 1 - alpha)) <= 3
    pale = samples(np.concatenate([GREY[..., None] * alpha, alpha], -1), 8, np.uint8)
    data = tiff(pale, "minisblack", extrasamples=["assocalpha"], planarconfig="contig")
    assert furthest(data, eight(GREY * alpha[..., 0] + 1 - alpha[..., 0])) <= 3


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_planes_of_sixteen_bits(bits, order):
    """Pillow takes uncompressed ones for planes of 8 bits, and shows each row's left half, low
    bytes among the high.
    """
    planes = np.ascontiguousarray(samples(COLOUR, bits).transpose(2, 0, 1))
    assert (
        furthest(tiff(planes, "rgb", planarconfig="separate", byteorder=order), eight(COLOUR)) <= 1
    )
    packed = tiff(planes, "rgb", planarconfig="separate", byteorder=order, compression="zlib")
    if bits == 16:
        assert furthest(packed, eight(COLOUR)) <= 1
    else:
        with pytest.raises(DamagedImage, match="dark planes"):
            decode(packed)


@given(st.sampled_from([257, 256]), st.integers(0, 255), st.booleans())
def test_a_picture_of_eight_bits_in_sixteen_stays_as_dark_as_it_is(factor, peak, colour):
    shallow = (COLOUR if colour else GREY) * peak
    data = png(shallow.astype(np.uint8).astype(np.uint16) * factor)
    assert furthest(data, eight(shallow.astype(np.uint8) / 255)) <= 1


@given(arrays(np.uint16, (5, 4), elements=st.integers(0, 65535)))
def test_white_is_never_exceeded_and_never_four_times_the_highest_sample(drawn):
    white = white_of_integers(drawn)
    peak = int(drawn.max())
    assert white in WHITES.values()
    assert peak <= white
    widened = not (drawn % 257).any() or not (drawn % 256).any()
    assert peak > white // 4 - 1 or white == 255 or (widened and white == 65535)
    brightened = scaled(drawn, white)
    assert (brightened == np.floor(drawn * (255 / white) + 0.5)).all()


@pytest.mark.parametrize(
    ("stored", "bits", "expected"),
    [
        (samples(GREY, 12), 12, GREY),  # on the right, against the standard
        (samples(GREY * 0.2, 12), 12, GREY * 0.2),  # dark: fewer bits would hold it
        (samples(GREY, 12) << 4, 12, GREY),  # on the left, as the standard has it
        (samples(GREY * 0.05, 12) << 4, 12, GREY * 0.05),  # so dark that 12 bits would hold it
        (samples(GREY, 12), 16, GREY),  # says nothing
    ],
)
def test_significant_bits_of_a_png(stored, bits, expected):
    assert furthest(png(stored, (b"sBIT", bytes([bits]))), eight(expected)) <= 1
    coloured = np.repeat(stored[..., None], 3, 2)
    assert furthest(png(coloured, (b"sBIT", bytes([bits] * 3))), eight(expected)) <= 1


def test_significant_bits_are_looked_for_before_the_pixels_only():
    data = png(samples(GREY, 16), (b"gAMA", bytes(4)), (b"sBIT", b"\x0c"))
    assert significant_bits(data) == 12
    assert significant_bits(png(samples(GREY, 16))) == 0
    assert significant_bits(data[:8]) == significant_bits(b"") == 0


@pytest.mark.parametrize("tag", [281, 341])
def test_a_tiff_may_say_how_high_its_samples_go(tag):
    """A dark picture of 16 bits is not brightened if it says so."""
    dark = samples(GREY * 0.05, 16)
    said = tiff(dark, "minisblack", extratags=[(tag, 3, 1, 65535, True)])
    assert furthest(said, eight(GREY * 0.05)) <= 1
    assert decode(tiff(dark, "minisblack")).max() > 200
    twelve = tiff(samples(GREY * 0.2, 12), "minisblack", extratags=[(tag, 3, 1, 4095, True)])
    assert furthest(twelve, eight(GREY * 0.2)) <= 1


def test_twelve_packed_bits():
    values = samples(GREY * 0.2, 12).astype(int)
    pairs = values.reshape(-1, 2)
    packed = np.stack(
        [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], -1
    )
    body = packed.astype(np.uint8).tobytes()
    tags = [
        (256, W),
        (257, H),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 8 + 2 + 9 * 12 + 4),
        (277, 1),
        (278, H),
    ]
    tags.append((279, len(body)))
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + bytes(4) + body
    assert furthest(data, eight(GREY * 0.2)) <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_signed_floating_and_long_samples(order, compression):
    options = {"byteorder": order, "compression": compression}
    assert furthest(tiff(samples(GREY, 15, np.int16), "minisblack", **options), eight(GREY)) <= 1
    assert furthest(tiff(samples(GREY, 12, np.int16), "minisblack", **options), eight(GREY)) <= 1
    assert furthest(tiff(samples(GREY, 7, np.int8), "minisblack", **options), eight(GREY)) <= 1
    assert furthest(tiff(samples(GREY, 16, np.int32), "minisblack", **options), eight(GREY)) <= 1
    for white in (1, 1.1, 255, 4095, 65535):
        light = (GREY * white).astype(np.float32)
        assert (
            furthest(
                tiff(light, "minisblack", **options),
                eight(np.minimum(GREY * max(1, white % 1 + 1), 1)),
            )
            <= 1
        )
    if order == "<":
        assert (
            furthest(tiff(samples(GREY, 32, np.uint32), "minisblack", **options), eight(GREY)) <= 1
        )


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_white_is_zero(compression):
    for inverted in (samples(1 - GREY, 16), samples(1 - GREY, 12), (1 - GREY).astype(np.float32)):
        assert furthest(tiff(inverted, "miniswhite", compression=compression), eight(GREY)) <= 1


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.float32])
def test_samples_below_black_have_a_black_that_we_do_not_know(dtype):
    spread = ((GREY - 0.5) * 200).astype(dtype)
    with pytest.raises(DamagedImage, match=r"samples below black \(-100\)"):
        decode(tiff(spread, "minisblack"))


def test_floats():
    assert [white_of_floats(peak) for peak in (0.0, 1.0, 1.2, 3.0, 16.5, 255.0, 256.0, 70_000.0)] == [
        1, 1, 1, 3, 255, 255, 1023, 70_000,
    ]  # fmt: skip
    overshoot = tiff((GREY * 1.04 - 0.02).astype(np.float32), "minisblack")
    assert furthest(overshoot, eight((GREY * 1.04 - 0.02).clip(0, 1))) <= 1
    holes = GREY.astype(np.float32)
    holes[0, :3] = np.nan, np.inf, -np.inf
    assert decode(tiff(holes, "minisblack"))[0, :3, 0].tolist() == [0, 255, 0]
    assert furthest(tiff(np.full((H, W), np.nan, np.float32), "minisblack"), eight(GREY * 0)) == 0


@pytest.mark.parametrize("maximum", [1, 15, 100, 255, 1023, 4095, 65535])
def test_netpbm_declares_its_white(maximum):
    """However dark the picture is."""
    for colour in (GREY, COLOUR):
        for dark in (1.0, 0.03):
            values = (colour * dark * maximum).round().astype(">u2" if maximum > 255 else np.uint8)
            magic = b"P6" if colour.ndim == 3 else b"P5"
            data = magic + b" %d %d %d\n" % (W, H, maximum) + values.tobytes()
            assert furthest(data, eight(values / maximum)) <= 1


@pytest.mark.parametrize("widened", [1, 257])
def test_a_palette_of_eight_bits_in_a_tiff_is_not_black(widened):
    palette = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2]).astype(
        np.uint16
    )
    index = samples(GREY, 8, np.uint8)
    data = tiff(index, "palette", colormap=palette * widened)
    assert furthest(data, palette.astype(np.uint8).T[index]) == 0


@pytest.mark.parametrize("bits", [1, 2, 4, 16])
def test_transparent_grey_is_white(bits):
    top = 2**bits - 1
    pixels = (
        np.arange(H * W).reshape(H, W) * (top if bits == 16 else 1) // (W if bits == 16 else 1)
    ) % (top + 1)
    transparent = int(pixels[H // 2, W // 2])
    expected = np.where(pixels == transparent, 255, (pixels * 255 / top).round()).astype(np.uint8)
    data = png(pixels, (b"tRNS", struct.pack(">H", transparent)), bits=bits)
    assert furthest(data, np.repeat(expected[..., None], 3, 2)) <= 1


def test_a_transparent_colour_of_sixteen_bits_is_white_and_its_neighbour_is_not():
    pixels = np.full((H, W, 3), 300)
    pixels[:, W // 2 :] += 1
    pixels[0, 0] = 65535
    pixels = pixels.astype(np.uint16)
    data = png(pixels, (b"tRNS", struct.pack(">HHH", 300, 300, 300)))
    shown = decode(data)
    assert shown[5, 0].tolist() == [255, 255, 255]
    assert shown[5, -1].tolist() == [1, 1, 1]


def test_ycck_jpeg():
    """Adobe's four-channel JPEGs: inks inverted, the first three turned into luminance and colour
    differences.
    """
    cyan, magenta, yellow, black = (np.full((32, 32), value, float) for value in (40, 90, 160, 30))
    # libjpeg takes the complements of the (inverted) inks for red, green and blue, which are the
    # inks.
    luma = 0.299 * cyan + 0.587 * magenta + 0.114 * yellow
    planes = [luma, 128 + 0.564 * (yellow - luma), 128 + 0.713 * (cyan - luma), 255 - black]
    buffer = io.BytesIO()
    # Pillow inverts what it writes.
    stored = 255 - np.stack(planes, -1).round().astype(np.uint8)
    Image.fromarray(stored, "CMYK").save(buffer, "JPEG", quality=100, subsampling=0)
    data = bytearray(buffer.getvalue())
    data[data.index(b"Adobe") + 11] = 2  # the colour transform
    light = 1 - 30 / 255
    expected = (
        np.broadcast_to(np.array([255 - 40, 255 - 90, 255 - 160]) * light, (32, 32, 3))
        .round()
        .astype(np.uint8)
    )
    assert furthest(bytes(data), expected) <= 4


def lab_of(rgb: tuple[int, int, int]) -> np.ndarray:
    """CIE L*a*b* under D50 of a colour of sRGB (IEC 61966-2-1; the matrix is Lindbloom's, adapted
    by Bradford).
    """
    encoded = np.array(rgb) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ])  # fmt: skip
    ratio = to_xyz @ linear / np.array([0.96422, 1.0, 0.82521])
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


@pytest.mark.parametrize(
    "rgb", [(255, 255, 255), (119, 119, 119), (200, 80, 60), (60, 160, 90), (50, 90, 170)]
)
def test_lab_by_its_definition(rgb):
    """As TIFF 6.0 (section 23) stores it: lightness over the byte, the others as signed bytes."""
    lightness, a, b = lab_of(rgb)
    pixel = np.array([round(lightness * 2.55), round(a) % 256, round(b) % 256], np.uint8)
    data = tiff(np.broadcast_to(pixel, (16, 16, 3)).copy(), "cielab")
    assert furthest(data, np.broadcast_to(np.array(rgb, np.uint8), (16, 16, 3))) <= 4


def test_sgi_of_sixteen_bits_is_refused():
    header = struct.pack(">HBBHHHH", 474, 0, 2, 2, W, H, 1).ljust(512, b"\0")
    with pytest.raises(DamagedImage, match="SGI of 16 bits"):
        decode(header + samples(GREY, 12).astype(">u2").tobytes())
