"""Encoded bytes to RGB pixels: all that Pillow reads, JPEG by a faster road; damage is one exception with a reason."""

import io
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageCms, UnidentifiedImageError

MAX_PIXELS = 178_956_970  # Pillow's own limit: half a gigabyte of RGB
JPEG_MAGIC = b"\xff\xd8\xff"
EXIF_ORIENTATION = 0x0112
RECOGNISED_ONLY = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # Pillow opens these but does not decode them

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

warnings.filterwarnings("ignore", module="PIL")  # of large or odd files; what matters is raised as DamagedImage
_pillow_limit = threading.Lock()


class DamagedImage(ValueError):  # noqa: N818  # what was found, not what went wrong here
    """These bytes are no image we can use. `reason` is short and the same for the same kind of damage."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class ImageInfo(NamedTuple):
    """Size in pixels as a viewer shows it (after EXIF orientation), and Pillow's name of the format."""

    width: int
    height: int
    format: str


def decode(data: bytes, max_pixels: int = MAX_PIXELS, reduction: int = 1) -> np.ndarray:
    """Decode to `(H, W, 3)` uint8 RGB, upright.

    A JPEG comes reduced by `reduction` (1, 2, 4 or 8; see `reduced`): fewer coefficients of its blocks are used, but
    all are read, so that damage is noticed all the same. What Pillow has to read comes whole.

    Of an animation the first frame; alpha is laid on white; 16-bit, 32-bit and float greys are scaled to 8 bits.
    A picture of more than `max_pixels` is refused from its header (no limit above `MAX_PIXELS` is honoured for
    formats other than JPEG). Raises `DamagedImage`.
    """
    with _errors_as_damage():
        pixels = _decode_jpeg(data, max_pixels, reduction) if data.startswith(JPEG_MAGIC) else None
        return _decode_any(data, max_pixels) if pixels is None else pixels


def probe(data: bytes, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Size and format from the header alone. Raises `DamagedImage`, also for more than `max_pixels`."""
    with _errors_as_damage():
        if data.startswith(JPEG_MAGIC) and not may_be_turned(data):
            with suppress(ValueError):  # Pillow knows a reason, or reads it all the same
                height, width, _, _ = simplejpeg.decode_jpeg_header(data)
                if 0 < height * width <= max_pixels:
                    return ImageInfo(width, height, "JPEG")
        image = _open(data, max_pixels)
        width, height = image.size
        if _orientation(image) >= 5:
            width, height = height, width
        return ImageInfo(width, height, "JPEG" if image.format == "MPO" else str(image.format))


def shape(data: bytes) -> tuple[int, int]:
    """Height and width that `decode` will give, from the header alone; (1, 1) where that is damaged."""
    try:
        info = probe(data)
        return info.height, info.width
    except DamagedImage:
        return 1, 1


def reduced(shape: tuple[int, int], reduction: int) -> tuple[int, int]:
    """Height and width of a picture of `shape` that is decoded by `reduction`."""
    height, width = shape
    return -(-height // reduction), -(-width // reduction)


@cache
def image_suffixes() -> frozenset[str]:
    """Lower-case file name endings, with the dot, that may hold an image."""
    Image.preinit()  # first, or else Pillow asks the readers of rare formats before those of common ones
    known = Image.registered_extensions().items()
    return frozenset(ext for ext, name in known if name in Image.OPEN and name not in RECOGNISED_ONLY)


def _decode_jpeg(data: bytes, max_pixels: int, reduction: int) -> np.ndarray | None:
    """Pixels, or None where the fast decoder is not sure and Pillow shall decide (CMYK, harmless oddities)."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if int(height) * int(width) > max_pixels or colorspace in ("CMYK", "YCCK"):
            return None
        least = reduced((height, width), reduction)
        pixels = simplejpeg.decode_jpeg(data, min_height=least[0], min_width=least[1], min_factor=reduction)
    except ValueError as error:
        text = str(error)
        if text.startswith("Corrupt JPEG data") and "extraneous bytes" not in text:
            raise DamagedImage(f"corrupt ({text})") from error
        return None
    return _upright(pixels, _orientation(_open(data, max_pixels))) if may_be_turned(data) else pixels


def may_be_turned(jpeg: bytes) -> bool:
    """Whether the header has metadata in which an orientation may stand; opening the image takes longer to tell."""
    end = 2  # of the segments before the first scan; a search through the scan would cost a tenth of decoding it
    while jpeg[end : end + 1] == b"\xff" and jpeg[end + 1 : end + 2] != b"\xda":
        end += 2 + int.from_bytes(jpeg[end + 2 : end + 4]) if jpeg[end + 1 : end + 2] != b"\xff" else 1
    header = jpeg[:end]
    return b"Exif\0\0" in header or b"tiff:Orientation" in header


def _decode_any(data: bytes, max_pixels: int) -> np.ndarray:
    image = _open(data, max_pixels)
    orientation = _orientation(image)
    image.load()
    return _upright(_to_rgb(image), orientation)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """The image with its header read and its size within the limit."""
    if not data:
        raise DamagedImage("empty file")
    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError:
        width, height = _size_of_bomb(data)
        raise DamagedImage(f"too many pixels ({width}x{height})") from None
    width, height = image.size
    if width * height > max_pixels:
        raise DamagedImage(f"too many pixels ({width}x{height})")
    if width * height == 0:
        raise DamagedImage("no pixels")
    if image.format == "EPS":  # a program, which Pillow would hand to Ghostscript
        raise DamagedImage("EPS is not read")
    return image


def _size_of_bomb(data: bytes) -> tuple[int, int]:
    """Width and height of what Pillow refuses to open, whose message has only their product."""
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data)).size
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8, as far as the header tells."""
    if image.format == "TIFF":  # Pillow turns these itself, size included
        return 1
    try:
        # The base class's method: the one for PNG would decode the whole picture in search of a late chunk.
        orientation = Image.Image.getexif(image).get(EXIF_ORIENTATION, 1)
    except Exception:  # malformed EXIF does not damage the picture
        return 1
    return orientation if orientation in UPRIGHT else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    return np.ascontiguousarray(UPRIGHT[orientation](pixels)) if orientation in UPRIGHT else pixels


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        return _deep_grey_to_rgb(np.asarray(image))
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))  # a copy: arrays that share Pillow's memory are read-only


def _deep_grey_to_rgb(grey: np.ndarray) -> np.ndarray:
    """`(H, W)` of more than 8 bits to RGB. White is the smallest usual white level that no pixel exceeds."""
    levels = (1.0, 255.0, 65535.0) if grey.dtype.kind == "f" else (65535.0,)
    grey = np.nan_to_num(grey.astype(np.float32))
    peak = float(grey.max())
    white = next((level for level in levels if peak <= level), peak)
    scaled = np.clip(grey * (255 / white) + 0.5, 0, 255).astype(np.uint8)
    return np.repeat(scaled[:, :, None], 3, axis=2)


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
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return "truncated"
    return f"corrupt ({str(error)[:80] or type(error).__name__})"
