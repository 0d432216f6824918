import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile, ImageOps

from seer.data.decoding.decode import (
    MAX_PIXELS,
    DamagedImage,
    decode,
    image_suffixes,
    probe,
    reduced,
    shape,
)

ROOT = Path(__file__).parents[3]
H, W = 48, 64


def scene() -> np.ndarray:
    """A smooth picture (so that lossy formats keep it) that no turn or mirror maps to itself."""
    y, x = np.mgrid[:H, :W] / [[[H]], [[W]]]
    return (255 * np.stack([x, y, x * y], axis=-1)).astype(np.uint8)


def grey_ramp(peak: int) -> np.ndarray:
    return np.linspace(0, peak, H * W).reshape(H, W).astype(np.uint16)


def encode(image: Image.Image | np.ndarray, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, format, **options)
    return buffer.getvalue()


def oriented(format: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = (
        {"quality": 95} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    )
    return encode(scene(), format, exif=exif, **options)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def jpeg_header(width: int, height: int) -> bytes:
    """A JPEG whose frame header claims a size."""
    data = encode(scene(), "JPEG")
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


def mean_difference(pixels: np.ndarray, expected: np.ndarray) -> float:
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape
    return float(np.abs(pixels.astype(int) - expected.astype(int)).mean())


LOSSLESS = ["PNG", "BMP", "TIFF", "TGA", "PPM", "PCX", "SGI", "IM", "QOI", "DDS"]


@pytest.mark.parametrize("format", LOSSLESS)
def test_lossless_formats(format):
    data = encode(scene(), format)
    pixels = decode(data)
    assert (pixels == scene()).all()
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous
    assert probe(data) == (W, H, format)


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True, "subsampling": 0}),
        ("WEBP", {"quality": 95}),
        ("AVIF", {"quality": 95}),
        ("JPEG2000", {"quality_mode": "rates", "quality_layers": [5]}),
    ],
)
def test_lossy_formats(format, options):
    data = encode(scene(), format, **options)
    assert mean_difference(decode(data), scene()) < 3
    assert probe(data) == (W, H, format)


def test_jpeg_is_what_pillow_makes_of_it():
    data = encode(scene(), "JPEG", quality=80)
    assert mean_difference(decode(data), np.array(Image.open(io.BytesIO(data)))) < 0.5


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(format, orientation):
    data = oriented(format, orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = Image.fromarray(scene())
    plain.getexif().update(exif)
    expected = np.array(ImageOps.exif_transpose(plain))
    assert mean_difference(decode(data), expected) < 2
    assert probe(data)[:2] == expected.shape[1::-1]


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0" + bytes(range(200))]
)
def test_malformed_exif_damages_nothing(exif):
    data = encode(scene(), "JPEG", quality=95, exif=exif)
    assert mean_difference(decode(data), scene()) < 2
    assert probe(data) == (W, H, "JPEG")


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_unknown_orientation_is_upright(orientation):
    assert mean_difference(decode(oriented("JPEG", orientation)), scene()) < 2


@pytest.mark.parametrize(
    ("mode", "format"), [("L", "JPEG"), ("L", "PNG"), ("1", "PNG"), ("1", "TIFF"), ("L", "PPM")]
)
def test_grey_becomes_three_equal_channels(mode, format):
    image = Image.fromarray(scene()).convert(mode)
    pixels = decode(encode(image, format))
    assert mean_difference(pixels, np.array(image.convert("RGB"))) < 1
    assert np.ptp(pixels, axis=2).max() == 0


@pytest.mark.parametrize("format", ["PNG", "GIF", "TIFF", "BMP"])
def test_palette(format):
    image = Image.fromarray(scene()).quantize(64)
    assert (decode(encode(image, format)) == np.array(image.convert("RGB"))).all()


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_cmyk(format):
    """Pillow writes CMYK JPEGs as Adobe does, inverted; a decoder that ignores this gives the
    negative.
    """
    cmyk = Image.fromarray(scene()).convert("CMYK")
    data = encode(cmyk, format, **({"quality": 100, "subsampling": 0} if format == "JPEG" else {}))
    assert b"Adobe" in data or format == "TIFF"
    assert mean_difference(decode(data), scene()) < 2


def test_lab():
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(Image.fromarray(scene()), to_lab)
    assert mean_difference(decode(encode(lab, "TIFF")), scene()) < 6  # LAB in 8 bits clips a little


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("peak", [65535, 30000])
def test_sixteen_bit_grey_is_scaled_not_clipped(format, peak):
    ramp = grey_ramp(peak)
    pixels = decode(encode(Image.fromarray(ramp), format))
    assert (
        mean_difference(
            pixels, np.repeat((ramp / 257)[..., None], 3, axis=2).round().astype(np.uint8)
        )
        <= 0.5
    )


def test_sixteen_bit_colour_is_scaled_not_clipped():
    deep = scene().astype(np.uint16) * 257
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, deep, photometric="rgb")
    assert (decode(buffer.getvalue()) == scene()).all()


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0, 1e9])
def test_float_grey_has_the_usual_white_levels(white):
    grey = np.linspace(0, white, H * W, dtype=np.float32).reshape(H, W)
    pixels = decode(encode(Image.fromarray(grey), "TIFF"))
    assert (
        mean_difference(
            pixels, np.repeat((grey / white * 255)[..., None], 3, 2).round().astype(np.uint8)
        )
        < 0.01
    )


def test_float_grey_with_holes():
    grey = np.full((H, W), np.nan, np.float32)
    grey[:, W // 2 :] = 1
    pixels = decode(encode(Image.fromarray(grey), "TIFF"))
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[0, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "TGA"])
def test_alpha_is_laid_on_white(format):
    alpha = np.repeat(np.linspace(0, 255, W).astype(np.uint8)[None], H, 0)
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    data = encode(np.dstack([scene(), alpha]), format, **options)
    share = alpha[..., None] / 255
    assert (
        mean_difference(
            decode(data), (scene() * share + 255 * (1 - share)).round().astype(np.uint8)
        )
        < 0.6
    )


def test_transparent_colour_and_grey_alpha_are_white():
    palette = Image.new("P", (W, H), 3)
    palette.putpalette([10, 20, 30] * 256)
    assert (decode(encode(palette, "PNG", transparency=3)) == 255).all()
    assert (decode(encode(palette, "GIF", transparency=3)) == 255).all()
    assert (
        decode(encode(Image.new("RGB", (W, H), (1, 2, 3)), "PNG", transparency=(1, 2, 3))) == 255
    ).all()
    assert (decode(encode(Image.new("LA", (W, H), (0, 0)), "PNG")) == 255).all()


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(format):
    first, second = Image.new("RGB", (W, H), (200, 30, 30)), Image.new("RGB", (W, H), (30, 30, 200))
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(first, format, save_all=True, append_images=[second], **options)
    assert mean_difference(decode(data), np.array(first)) < 2


@pytest.mark.parametrize("header", [png_header, jpeg_header])
def test_a_bomb_is_refused_from_its_header(header, monkeypatch):
    def allocate(*args, **kwargs):
        raise AssertionError("pixels were asked for")

    monkeypatch.setattr(ImageFile.ImageFile, "load", allocate)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", allocate)
    data = header(60_000, 60_000)
    for read in (decode, probe):
        with pytest.raises(DamagedImage) as raised:
            read(data)
        assert raised.value.reason == "too many pixels (60000x60000)"


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_the_limit_can_be_lower(format):
    data = encode(scene(), format)
    assert decode(data, max_pixels=H * W).shape == (H, W, 3)
    with pytest.raises(DamagedImage, match="too many pixels"):
        decode(data, max_pixels=H * W - 1)


def test_a_large_picture_is_read_without_a_warning(tmp_path):
    assert MAX_PIXELS > 12_000**2
    path = tmp_path / "large.png"
    path.write_bytes(png_header(12_000, 12_000))
    program = f"import seer.data.decoding.decode as d; print(tuple(d.probe(open({str(path)!r}, 'rb').read())))"
    # In a process of its own, because pytest has filters of its own.
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert (done.stdout, done.stderr) == ("(12000, 12000, 'PNG')\n", "")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (bytes(500), "not an image"),
        (b"<html><body>404</body></html>", "not an image"),
        (b"\xff\xd8\xff" + bytes(500), "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "EPS is not read"),
        (b"\0\0\0\x24ftypheic\0\0\0\0mif1heic", "HEIC is not read; convert it to JPEG"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIC is not read; convert it to JPEG"),
        (b"\xff\x0a" + bytes(20), "JPEG XL is not read; convert it to JPEG"),
    ],
)
def test_reason_of_what_is_no_image(data, reason):
    for read in (decode, probe):
        with pytest.raises(DamagedImage) as raised:
            read(data)
        assert raised.value.reason == reason


@pytest.mark.parametrize(
    "format", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "TGA", "PPM"]
)
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_truncated(format, share):
    noise = np.random.default_rng(0).integers(0, 256, (H, W, 3)).astype(np.uint8)
    data = encode(noise, format)
    with pytest.raises(DamagedImage) as raised:
        decode(data[: int(share * len(data))])
    assert raised.value.reason
    if format == "JPEG":
        assert raised.value.reason == "truncated"


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440"])
@pytest.mark.parametrize("size", [(375, 500), (1001, 667), (17, 33), (7, 9), (1, 1)])
def test_a_reduced_jpeg_is_the_mean_over_its_blocks(size, subsampling, reduction):
    y, x = np.mgrid[: size[0], : size[1]]
    smooth = (
        127 + 60 * np.stack([np.sin(x / 60), np.cos(y / 70), np.sin((x + y) / 80)], -1)
    ).astype(np.uint8)
    data = simplejpeg.encode_jpeg(smooth, quality=95, colorsubsampling=subsampling)
    pixels = decode(data, reduction=reduction)
    assert (
        pixels.shape[:2]
        == reduced(size, reduction)
        == (-(-size[0] // reduction), -(-size[1] // reduction))
    )
    assert mean_difference(pixels, np.array(Image.fromarray(smooth).reduce(reduction))) < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_upright(orientation):
    data = oriented("JPEG", orientation)
    whole = decode(data)
    assert shape(data) == whole.shape[:2]
    assert (
        mean_difference(decode(data, reduction=2), np.array(Image.fromarray(whole).reduce(2))) < 3
    )


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "GIF"])
def test_other_formats_come_whole(format):
    data = encode(scene(), format)
    assert shape(data) == decode(data, reduction=4).shape[:2] == (H, W)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xe1\0\0", bytes(99), b"\x89PNG\r\n\x1a\n"]
)
def test_the_shape_of_what_is_no_image_is_one_pixel(data):
    assert shape(data) == (1, 1)


def test_orientation_is_found_behind_other_segments():
    data = oriented("JPEG", 6)
    comment = b"\xff\xfe" + struct.pack(">H", 30_002) + bytes(30_000)
    padded = data[:2] + comment * 5 + b"\xff\xff" + data[2:]
    assert shape(padded) == (W, H)
    assert (decode(padded) == decode(data)).all()


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_damage_is_noticed_in_a_reduced_jpeg(reduction):
    data = encode(np.random.default_rng(0).integers(0, 256, (H, W, 3)).astype(np.uint8), "JPEG")
    scan = data.index(b"\xff\xda") + 40
    broken = data[:scan] + b"\xff\0" * 200 + data[scan + 400 :]
    for damaged, reason in (
        (data[: len(data) * 4 // 5], "truncated"),
        (data[:-20], "truncated"),
        (broken, "corrupt"),
    ):
        with pytest.raises(DamagedImage, match=reason):
            decode(damaged, reduction=reduction)


def test_corrupt_jpeg_data_are_damage_but_harmless_oddities_are_not():
    data = encode(np.random.default_rng(0).integers(0, 256, (H, W, 3)).astype(np.uint8), "JPEG")
    scan = data.index(b"\xff\xda") + 40
    with pytest.raises(DamagedImage, match="corrupt"):
        decode(data[:scan] + b"\xff\0" * 200 + data[scan + 400 :])
    padded = data[:-2] + bytes(5) + data[-2:]  # libjpeg warns of extraneous bytes
    assert (decode(padded) == decode(data)).all()
    assert (decode(data + b"trailing") == decode(data)).all()


@given(st.data())
def test_broken_bytes_raise_nothing_else(data):
    """Whatever a disk or a download does to a file, the outcome is pixels or `DamagedImage`."""
    format = data.draw(
        st.sampled_from(
            ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "TGA", "PCX", "ICO", "JPEG2000"]
        )
    )
    broken = bytearray(encode(scene(), format))
    changes = st.tuples(st.integers(0, len(broken) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(changes, max_size=20)):
        broken[place] = value
    end = data.draw(st.integers(len(broken) // 4, 2 * len(broken)))
    try:
        pixels = decode(bytes(broken[:end]), max_pixels=10**6)
    except DamagedImage:
        return
    assert pixels.shape[2:] == (3,)


def test_suffixes():
    assert {
        ".jpg",
        ".jpeg",
        ".png",
        ".webp",
        ".gif",
        ".tif",
        ".tiff",
        ".bmp",
        ".avif",
        ".jp2",
    } <= image_suffixes()
    assert not {".txt", ".json", ".tar", ".pdf", ".eps", ".h5", ".mpg", ""} & image_suffixes()
