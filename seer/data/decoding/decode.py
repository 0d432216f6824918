"""Encoded bytes to RGB pixels: `FORMATS` by Pillow, JPEG by a faster road; damage is one exception
with a reason.
"""

import ctypes
import io
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from seer.data.decoding import deep, limits
from seer.data.decoding.image_formats import FORMATS, image_suffixes, why_not_read
from seer.data.decoding.limits import JPEG_MAGIC, MAX_PIXELS, DamagedImage

__all__ = [
    "FORMATS",
    "JPEG_MAGIC",
    "MAX_PIXELS",
    "DamagedImage",
    "ImageInfo",
    "decode",
    "image_suffixes",
    "probe",
]

EXIF_ORIENTATION = 0x0112

# What undoes each EXIF orientation (Exif 2.32, table 6) on an (H, W, 3) array.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: partial(np.rot90, k=2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: partial(np.rot90, k=-1),
    7: lambda pixels: np.rot90(pixels, k=2).swapaxes(0, 1),
    8: np.rot90,
}

# Of large or odd files; what matters is raised as DamagedImage.
warnings.filterwarnings("ignore", module="PIL")
# Libtiff writes it to stderr besides, if it is a library of its own.
with suppress(AttributeError, OSError):
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)
_pillow_limit = threading.Lock()


class ImageInfo(NamedTuple):
    """Size in pixels as a viewer shows it (after EXIF orientation), and Pillow's name of the
    format.
    """

    width: int
    height: int
    format: str


def decode(data: bytes, max_pixels: int = MAX_PIXELS, reduction: int = 1) -> np.ndarray:
    """Decode to `(H, W, 3)` uint8 RGB, upright.

    A JPEG comes reduced by `reduction` (1, 2, 4 or 8; see `reduced`): fewer coefficients of its
    blocks are used, but all are read, so that damage is noticed all the same. What Pillow has to
    read comes whole.

    Of an animation the first frame; alpha is laid on white; more than 8 bits become 8 as `deep.py`
    says. A picture of more than `max_pixels` is refused from its header (no limit above
    `MAX_PIXELS` is honoured for formats other than JPEG), as is one that asks for more work than
    `limits.py` allows. Raises `DamagedImage`.
    """
    with _errors_as_damage():
        pixels = _decode_jpeg(data, max_pixels, reduction) if data.startswith(JPEG_MAGIC) else None
        return _decode_any(data, max_pixels) if pixels is None else pixels


def probe(data: bytes, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Size and format from the header alone. Raises `DamagedImage`, also for more than
    `max_pixels`.
    """
    with _errors_as_damage():
        if data.startswith(JPEG_MAGIC) and not may_be_turned(
            data, header := limits.jpeg_header(data)
        ):
            size = _size_of_jpeg(data)
            if size is not None and size[0] * size[1] <= max_pixels:
                height, width = size
                limits.check_jpeg(data, header, height * width)
                return ImageInfo(width, height, "JPEG")
        image = _open(data, max_pixels)
        width, height = image.size
        if _orientation(image) >= 5:
            width, height = height, width
        return ImageInfo(width, height, "JPEG" if image.format == "MPO" else str(image.format))


def orientation(data: bytes) -> int:
    """The EXIF orientation that `decode` undoes, 1 to 8. Raises `DamagedImage`."""
    with _errors_as_damage():
        return _orientation(_open(data, MAX_PIXELS))


def shape(data: bytes) -> tuple[int, int]:
    """Height and width that `decode` will give, from the header alone; (1, 1) where that is
    damaged.
    """
    try:
        info = probe(data)
        return info.height, info.width
    except DamagedImage:
        return 1, 1


def _size_of_jpeg(data: bytes) -> tuple[int, int] | None:
    """Height and width; None where Pillow knows a reason why there are none, or reads it all the
    same.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (int(height), int(width)) if height * width > 0 else None


def reduced(shape: tuple[int, int], reduction: int) -> tuple[int, int]:
    """Height and width of a picture of `shape` that is decoded by `reduction`."""
    height, width = shape
    return -(-height // reduction), -(-width // reduction)


def _decode_jpeg(data: bytes, max_pixels: int, reduction: int) -> np.ndarray | None:
    """Pixels, or None where the fast decoder is not sure and Pillow shall decide (CMYK, harmless
    oddities).
    """
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if int(height) * int(width) > max_pixels or colorspace in ("CMYK", "YCCK"):
            return None
        header = limits.jpeg_header(data)
        limits.check_jpeg(data, header, height * width)
        least = reduced((height, width), reduction)
        pixels = simplejpeg.decode_jpeg(
            data, min_height=least[0], min_width=least[1], min_factor=reduction
        )
    except DamagedImage:
        raise
    except ValueError as error:
        text = str(error)
        if text.startswith("Corrupt JPEG data") and "extraneous bytes" not in text:
            raise DamagedImage(f"corrupt ({text})") from error
        return None
    return (
        _upright(pixels, _orientation(_open(data, max_pixels)))
        if may_be_turned(data, header)
        else pixels
    )


def may_be_turned(jpeg: bytes, header: limits.Header) -> bool:
    """Whether the header has metadata in which an orientation may stand; opening the image takes
    longer to tell.
    """
    start = jpeg[: header.end]  # a search through the scan would cost a tenth of decoding it
    return b"Exif\0\0" in start or b"tiff:Orientation" in start


def _decode_any(data: bytes, max_pixels: int) -> np.ndarray:
    image = _open(data, max_pixels)
    orientation = _orientation(image)
    shallow = deep.load(image, data, lambda: _open(data, max_pixels))
    if shallow.width * shallow.height > max_pixels:
        raise DamagedImage(f"too many pixels ({shallow.width}x{shallow.height})")
    return _upright(_to_rgb(shallow), orientation)


def _open(data: bytes, max_pixels: int) -> ImageFile:
    """The image with its header read, its size and the work it takes within the limits."""
    if not data:
        raise DamagedImage("empty file")
    if data.startswith(limits.TIFF_MAGIC):
        limits.check_tiff(data)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        width, height = _size_of_bomb(data)
        raise DamagedImage(f"too many pixels ({width}x{height})") from None
    except UnidentifiedImageError as error:
        raise DamagedImage(why_not_read(data)) from error
    width, height = image.size
    if width * height > max_pixels:
        raise DamagedImage(f"too many pixels ({width}x{height})")
    if width * height == 0:
        raise DamagedImage("no pixels")
    deep.prepare(image)
    _check_work(image, data)
    return image


def _check_work(image: ImageFile, data: bytes) -> None:
    """Refuse what is within the limit of pixels and would yet take minutes."""
    pixels = image.width * image.height
    if data.startswith(JPEG_MAGIC):
        limits.check_jpeg(data, limits.jpeg_header(data), pixels)
    if image.format == "TIFF":
        limits.check_tiff_jpeg(data, pixels)
    slow = any(tile.codec_name in Image.DECODERS for tile in image.tile)
    if slow and pixels > limits.MAX_SLOW_PIXELS:
        raise DamagedImage(
            f"too many pixels for this kind of {image.format} ({image.width}x{image.height})"
        )


def _size_of_bomb(data: bytes) -> tuple[int, int]:
    """Width and height of what Pillow refuses to open, whose message has only their product."""
    with _pillow_limit:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(io.BytesIO(data), formats=FORMATS).size
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _orientation(image: ImageFile) -> int:
    """EXIF orientation, 1 to 8, as far as the header tells."""
    if image.format == "TIFF":  # Pillow turns these itself, size included
        return 1
    try:
        # The base class's method: the one for PNG would decode the whole picture in search of a
        # late chunk.
        orientation = Image.Image.getexif(image).get(EXIF_ORIENTATION, 1)
    except Exception:  # malformed EXIF does not damage the picture
        return 1
    return orientation if orientation in UPRIGHT else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    return np.ascontiguousarray(UPRIGHT[orientation](pixels)) if orientation in UPRIGHT else pixels


def _to_rgb(image: Image.Image) -> np.ndarray:
    """`(H, W, 3)` of an image whose samples have 8 bits."""
    if image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        srgb = ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image
    if image.mode == "La":  # premultiplied; Pillow converts it to this alone
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))  # a copy: arrays that share Pillow's memory are read-only


@contextmanager
def _errors_as_damage() -> Iterator[None]:
    """Pillow's readers raise whatever the broken bytes lead them to."""
    try:
        yield
    except DamagedImage:
        raise
    except Exception as error:
        raise DamagedImage(_reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return "truncated"
    return f"corrupt ({str(error)[:80] or type(error).__name__})"
