"""A picture in a terminal: each character shows two pixels, one above the other."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

WIDTH = 78  # characters
COLOURS = ("truecolor", "256")
OPAQUE = 128  # of 255

Pixel = tuple[int, ...]  # red, green, blue, opacity


def show(path: Path, bands: Sequence[tuple[int, int]]) -> bool:
    """Print parts of a picture where the terminal has the colours for it, elsewhere nothing.

    Args:
        bands: the parts, below one another, as `(top, bottom)` in pixels.

    Returns:
        Whether anything was printed.
    """
    console = Console(highlight=False)
    can_print = (sys.stdout.encoding or "").lower().startswith("utf")
    if console.color_system not in COLOURS or console.width < WIDTH or not can_print:
        return False
    if not path.is_file():
        return False
    for band in bands:
        console.print(*lines(path.read_bytes(), WIDTH, band), "", sep="\n")
    return True


def lines(png: bytes, width: int, band: tuple[int, int]) -> list[Text]:
    """A band of a picture, `width` characters wide."""
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    top, bottom = band
    height = round((bottom - top) * width / picture.width / 2)
    box = (0, top, picture.width, bottom)
    pixels = picture.resize((width, 2 * height), Image.Resampling.BOX, box)
    return [line(pixels, row) for row in range(height)]


def line(pixels: Image.Image, row: int) -> Text:
    """The characters of one line: rows `2 · row` and `2 · row + 1` of the pixels."""
    text = Text()
    for column in range(pixels.width):
        upper = pixels.getpixel((column, 2 * row))
        lower = pixels.getpixel((column, 2 * row + 1))
        text.append(*character(upper, lower))  # type: ignore[arg-type]
    return text


def character(upper: Pixel, lower: Pixel) -> tuple[str, str]:
    """A character and its style; what is transparent is left to the terminal."""
    if upper[3] < OPAQUE and lower[3] < OPAQUE:
        return " ", ""
    if lower[3] < OPAQUE:
        return "▀", colour(upper)
    if upper[3] < OPAQUE:
        return "▄", colour(lower)
    return "▀", f"{colour(upper)} on {colour(lower)}"


def colour(pixel: Pixel) -> str:
    red, green, blue = pixel[:3]
    return f"#{red:02x}{green:02x}{blue:02x}"
