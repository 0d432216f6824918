"""Samples of other than 8 bits: where white lies among them, and how they become 8.

A file's 16 bits often hold the 10, 12 or 14 of a camera, right-aligned and undeclared; taken as 16,
they are nearly black. So white is what the file declares; else it is the highest value of the
smallest usual number of bits that holds all samples (`white_of_integers`). Black is 0. A picture
with samples far below it has a black that only its author knows, and is refused. Pillow's readers
are also set right where they would give wrong colours without a word.
"""

import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImagePalette
from PIL.ImageFile import ImageFile

from seer.data.decoding.limits import DamagedImage

if TYPE_CHECKING:
    from PIL.ImageFile import _Tile as Tile  # one of the pieces that a decoder is called for

LEVELS = (255, 1023, 4095, 16383, 65535)  # white of 8, 10, 12, 14 and 16 bits
DARKEST_OF_16_BITS = 64  # the high byte of all samples is below it if 14 bits hold them
OVERSHOOT = (
    1.25  # of floats whose white is 1, by resampling; a darker reading would show them nearly black
)
LINEAR = 16.0  # floats up to here are light, without a usual white
UNDERSHOOT = 0.05  # of white, that is clipped to black

# TIFF tags (TIFF 6.0, section 8; the last two in section 19)
BITS_PER_SAMPLE = 258
PHOTOMETRIC = 262
MAX_SAMPLE = 281
COLOUR_MAP = 320
SAMPLE_FORMAT = 339
S_MAX_SAMPLE = 341
WHITE_IS_ZERO = 0
SIGNED = 2

SIXTEEN_BITS = re.compile("^(RGBX?|RGBA|RGBa|CMYK|R|G|B|A);16([BLN])$")
NATIVE = "L" if sys.byteorder == "little" else "B"
OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if NATIVE == "L" else "L"}
# libtiff gives samples in this machine's order, whatever the file's; Pillow forgets that for these.
OF_LIBTIFF = {
    "F;32BF": "F;32NF", "F;32F": "F;32NF",
    "I;16BS": "I;16NS", "I;16S": "I;16NS",
    "I;32BS": "I;32NS", "I;32S": "I;32NS",
}  # fmt: skip


def white_of_integers(samples: np.ndarray, top: int = 65535, used: int = 0) -> int:
    """The sample value that is white: the highest of the fewest bits, of 8, 10, 12, 14 and 16, that
    hold all samples.

    Pictures of 8 bits that were widened to 16 keep 65535 however dark they are: every sample is
    then a multiple of 257 or of 256. Samples above `top`, of 32 bits, have the highest of them as
    white.

    Args:
        samples: integers of any shape, not empty.
        top: white of all bits that there are.
        used: the highest sample that the file says there may be; it counts as one of the samples.
    """
    peak = max(int(samples.max()), used)
    if peak < 256 * DARKEST_OF_16_BITS and not ((samples % 257).any() and (samples % 256).any()):
        return max(top, peak)
    return next((level for level in LEVELS if peak <= level < top), max(top, peak))


def white_of_floats(peak: float) -> float:
    """White is 1, or that of the usual number of bits that holds the highest sample; else the
    highest sample.
    """
    if peak <= OVERSHOOT:
        return 1.0
    if peak <= LINEAR:
        return peak
    return next((float(level) for level in LEVELS if peak <= level), peak)


def scaled(samples: np.ndarray, white: float) -> np.ndarray:
    """Samples to uint8 of the same shape: 0 stays 0, `white` and what is above it become 255."""
    if samples.dtype == np.uint16:
        table = np.clip(np.arange(2**16) * (255 / white) + 0.5, 0, 255).astype(np.uint8)
        return table[samples]
    return np.clip(samples.astype(np.float32) * np.float32(255 / white) + 0.5, 0, 255).astype(
        np.uint8
    )


def prepare(image: ImageFile) -> None:
    """Set right, before an opened image is loaded, what Pillow's readers would get wrong."""
    if image.format == "TIFF":
        _prepare_tiff(image)
    if image.format == "PPM":
        _prepare_ppm(image)
    if image.format == "PNG":
        _prepare_png(image)
    if image.format == "SGI" and _sixteen_bits_of_sgi(image):
        raise DamagedImage("SGI of 16 bits is not read")


def load(image: ImageFile, data: bytes, again: Callable[[], ImageFile]) -> Image.Image:
    """Load a prepared image, its samples in 8 bits.

    Args:
        image: opened, prepared and not loaded.
        data: what it was opened from.
        again: opens and prepares the same image once more.
    """
    if _is_deep_colour(image):
        return _load_colours(image, data, again)
    maximum = image.info.get("maxval")
    image.load()
    if image.mode.startswith(("I", "F")):
        return _grey(image, data)
    if image.format == "TIFF" and image.tag_v2.get(SAMPLE_FORMAT, (1,))[0] == SIGNED:  # type: ignore[attr-defined]
        return _of_signed_bytes(image)
    if maximum is not None and maximum != 255:
        return _rescaled(image, np.asarray(image), maximum)
    return image


def _prepare_tiff(image: ImageFile) -> None:
    tags = image.tag_v2  # type: ignore[attr-defined]
    colours = tags.get(COLOUR_MAP)
    if (
        image.mode in ("P", "PA") and colours and max(colours) < 256
    ):  # of 8 bits, against the standard; as libtiff does
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))
    in_planes = image._planar_configuration == 2  # type: ignore[attr-defined]
    deep = image.mode in ("RGB", "RGBA", "CMYK") and tags.get(BITS_PER_SAMPLE, (8,))[0] == 16
    for number, tile in enumerate(image.tile):
        rawmode = _rawmode(tile)
        if tile.codec_name == "libtiff":
            rawmode = OF_LIBTIFF.get(rawmode, rawmode)
        elif deep and in_planes:  # Pillow would take these for planes of 8 bits
            rawmode = f"{rawmode};16{'L' if tags.prefix == b'II' else 'B'}"
        image.tile[number] = _with_rawmode(tile, rawmode)


def _prepare_ppm(image: ImageFile) -> None:
    """Samples as they are, to be scaled here: Pillow does so in Python, at a microsecond and more
    per sample.
    """
    tile = image.tile[0]
    if tile.codec_name == "raw" and _rawmode(tile) == "I;16B":
        image.info["maxval"] = 65535
    if tile.codec_name != "ppm":
        return
    assert isinstance(tile.args, tuple)
    maximum = int(tile.args[1])
    image.info["maxval"] = maximum
    deep = (
        {"I": "I;16B", "L": "I;16B", "RGB": "RGB;16B"}[image.mode] if maximum > 255 else image.mode
    )
    image.tile[0] = tile._replace(codec_name="raw", args=deep)


def _prepare_png(image: ImageFile) -> None:
    """The transparent grey of 1, 2 or 4 bits in the 8 that its pixels will have."""
    transparent = image.info.get("transparency")
    bits = {"1": 1, "L;2": 2, "L;4": 4}.get(_rawmode(image.tile[0])) if image.tile else None
    if isinstance(transparent, int) and bits:
        image.info["transparency"] = transparent * 255 // (2**bits - 1)


def _sixteen_bits_of_sgi(image: ImageFile) -> bool:
    tile = image.tile[0]
    return tile.codec_name == "SGI16" or (isinstance(tile.args, tuple) and tile.args[-1] == 2)


def _rawmode(tile: "Tile") -> str:
    return str(tile.args[0] if isinstance(tile.args, tuple) else tile.args)


def _with_rawmode(tile: "Tile", rawmode: str) -> "Tile":
    return tile._replace(
        args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode
    )


def _is_deep_colour(image: ImageFile) -> bool:
    rawmodes = {_rawmode(tile) for tile in image.tile}
    return any(SIXTEEN_BITS.match(rawmode) or rawmode == "LA;16B" for rawmode in rawmodes)


def _load_colours(image: ImageFile, data: bytes, again: Callable[[], ImageFile]) -> Image.Image:
    """An image of several samples of 16 bits: their high bytes, if these hold it; else both, from
    two readings.
    """
    if _rawmode(image.tile[0]) == "LA;16B":
        return _load_grey_with_alpha(image, data)
    exact = image.info.get("maxval")
    transparent = image.info.get("transparency")
    in_planes = image.format == "TIFF" and image._planar_configuration == 2  # type: ignore[attr-defined]
    by_libtiff = image.tile[0].codec_name == "libtiff"
    premultiplied = _rawmode(image.tile[0]).startswith("RGBa")
    bands = 3 if image.mode in ("RGB", "RGBA") else 4
    if exact in (None, 65535) and transparent is None and not premultiplied:
        image.load()
        if np.asarray(image)[..., :bands].max() >= DARKEST_OF_16_BITS:
            return image
    if in_planes and by_libtiff:  # which would give the high bytes once more
        raise DamagedImage("dark planes of 16 bits are not read")
    high = np.asarray(_read_bytes(again(), "high")).astype(np.uint16)
    low = np.asarray(_read_bytes(again(), "low"))
    samples = (high << 8) | low
    white = exact or _declared_white(image, data, samples[..., :bands])
    opaque = max(white, white_of_integers(samples[..., 3])) if image.mode == "RGBA" else white
    whites = [white] * bands + [opaque] * (samples.shape[2] - bands)
    eight = np.dstack(
        [scaled(samples[..., band], whites[band]) for band in range(samples.shape[2])]
    )
    if isinstance(transparent, tuple):
        eight[(samples == np.array(transparent)).all(-1)] = 255
    if premultiplied:
        return Image.frombytes("RGBa", eight.shape[1::-1], eight.tobytes()).convert("RGBA")
    return Image.fromarray(eight, image.mode)


def _read_bytes(image: ImageFile, which: str) -> Image.Image:
    """The high or the low byte of every 16-bit sample, as an 8-bit image."""
    for number, tile in enumerate(image.tile):
        match = SIXTEEN_BITS.match(_rawmode(tile))
        assert match
        order = match[2] if which == "high" else OTHER_ORDER[match[2]]
        # As they are: Pillow would divide each byte by alpha.
        colours = match[1].replace("RGBa", "RGBA")
        image.tile[number] = _with_rawmode(tile, f"{colours};16{order}")
    image.load()
    return image


def _load_grey_with_alpha(image: ImageFile, data: bytes) -> Image.Image:
    """PNG's four bytes of a pixel (grey, then alpha, high bytes first) as four bands."""
    image.tile = [_with_rawmode(tile, "RGBA") for tile in image.tile]
    image.load()
    pixels = np.asarray(image).astype(np.uint16)
    grey_high, grey_low, alpha_high, alpha_low = np.moveaxis(pixels, -1, 0)
    grey = (grey_high << 8) | grey_low
    alpha = (alpha_high << 8) | alpha_low
    white = _declared_white(image, data, grey)
    opaque = max(white, white_of_integers(alpha))
    bands = np.dstack([scaled(grey, white), scaled(alpha, opaque)])
    return Image.fromarray(bands, "LA")


def _grey(image: ImageFile, data: bytes) -> Image.Image:
    samples = np.asarray(image)
    if image.format == "TIFF" and _is_unsigned_32(image):
        samples = samples.view(np.uint32)
    if samples.dtype.kind == "f":
        samples, white = _finite(samples)
    else:
        white = image.info.get("maxval") or _declared_white(image, data, samples)
    samples = samples.astype(np.uint16) if samples.dtype == np.dtype(">u2") else samples
    _refuse_below_black(samples, white)
    shallow = _rescaled(image, samples, white)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        shallow.paste(255, mask=Image.fromarray(samples == transparent))
    return shallow


def _rescaled(image: ImageFile, samples: np.ndarray, white: float) -> Image.Image:
    eight = scaled(samples, white)
    tags = image.tag_v2 if image.format == "TIFF" else {}  # type: ignore[attr-defined]
    return Image.fromarray(255 - eight if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else eight)


def _of_signed_bytes(image: ImageFile) -> Image.Image:
    samples = np.asarray(image).view(np.int8).astype(np.int16)
    white = white_of_integers(samples, top=127)
    _refuse_below_black(samples, white)
    return _rescaled(image, samples, white)


def _finite(samples: np.ndarray) -> tuple[np.ndarray, float]:
    """Floats with holes black and infinity white, and their white."""
    peak = float(samples.max(where=np.isfinite(samples), initial=0.0))
    white = white_of_floats(peak)
    return np.nan_to_num(samples, nan=0.0, posinf=white, neginf=0.0), white


def _refuse_below_black(samples: np.ndarray, white: float) -> None:
    lowest = float(samples.min())
    if lowest < -UNDERSHOOT * white:
        raise DamagedImage(f"samples below black ({lowest:g})")


def _is_unsigned_32(image: ImageFile) -> bool:
    tags = image.tag_v2  # type: ignore[attr-defined]
    return tags.get(BITS_PER_SAMPLE, (1,))[0] == 32 and tags.get(SAMPLE_FORMAT, (1,))[0] == 1


def _declared_white(image: ImageFile, data: bytes, samples: np.ndarray) -> int:
    """White as the format or the file says; as `white_of_integers` tells it where they say nothing."""
    if image.format == "JPEG2000":  # Pillow has scaled them by their declared number of bits
        return 65535
    if image.format == "PNG":
        bits = significant_bits(data)
        return _white_of_significant(samples, bits) if 0 < bits < 16 else white_of_integers(samples)
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits = tags.get(BITS_PER_SAMPLE, (1,))[0]
        if bits < 16:
            return 2**bits - 1
        top = 32767 if bits == 16 and tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED else 65535
        return white_of_integers(samples, top, _maximum_used(tags))
    return white_of_integers(samples)


def _maximum_used(tags: Mapping[int, Any]) -> int:
    """The highest sample that a TIFF says there may be; 0 where it says nothing that makes sense."""
    values = [
        value for tag in (MAX_SAMPLE, S_MAX_SAMPLE) for value in np.ravel(tags.get(tag, 0)).tolist()
    ]
    return max(int(value) if 0 <= value <= 65535 else 0 for value in values)


def _white_of_significant(samples: np.ndarray, bits: int) -> int:
    """PNG's standard wants significant bits on the left (section 11.3.2.4); many cameras leave them
    on the right.
    """
    on_the_right = int(samples.max()) < 2**bits and bool((samples % 2 ** (16 - bits)).any())
    return 2**bits - 1 if on_the_right else 65535


def significant_bits(png: bytes) -> int:
    """Of the colours, as the chunk sBIT gives them; 0 if there is none before the pixels."""
    position = 8
    while position + 8 <= len(png):
        length = int.from_bytes(png[position : position + 4])
        kind = png[position + 4 : position + 8]
        if kind == b"sBIT":
            values = png[position + 8 : position + 8 + length]
            colours = values[: 3 if len(values) >= 3 else 1]  # what follows is alpha's
            return max(colours, default=0)
        if kind in (b"IDAT", b"IEND"):
            return 0
        position += 12 + length
    return 0
