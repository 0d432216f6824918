"""A picture of test images with their truth and what was predicted, the worst first."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

SIDE = 300  # pixels of a picture's longer side
GAP = 8
COLUMNS = 2  # images beside each other
WHITE = 255
SWATCH = 12  # side of a colour in the legend
LINE = 18
FONT = cv2.FONT_HERSHEY_SIMPLEX


class Shown(NamedTuple):
    """An image beside truth and prediction, as a PNG; the worst are the least."""

    agreement: float
    image: int
    png: bytes


def shown(agreement: float, image: int, pictures: Sequence[np.ndarray]) -> Shown:
    """Pictures `(H, W, 3)` uint8 of one image, side by side, small."""
    small = [_small(pictures[0], cv2.INTER_AREA)]
    small += [_small(picture, cv2.INTER_NEAREST) for picture in pictures[1:]]
    gap = np.full((small[0].shape[0], GAP // 2, 3), WHITE, np.uint8)
    row = [part for picture in small for part in (picture, gap)][:-1]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(row, axis=1)).save(file, "PNG")
    return Shown(agreement, image, file.getvalue())


def _small(picture: np.ndarray, how: int) -> np.ndarray:
    scale = SIDE / max(picture.shape[:2])
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    return cv2.resize(picture, (width, height), interpolation=how)


def sheet(rows: Sequence[Shown], legend: Sequence[tuple[str, Sequence[int]]] = ()) -> bytes:
    """A PNG of these images, each with its truth and its prediction, and the words of colours below."""
    pictures = [np.asarray(Image.open(io.BytesIO(row.png)).convert("RGB")) for row in rows]
    height = max(picture.shape[0] for picture in pictures) + GAP
    width = max(picture.shape[1] for picture in pictures) + 2 * GAP
    lines = -(-len(pictures) // COLUMNS)
    page = np.full((lines * height, min(len(pictures), COLUMNS) * width, 3), WHITE, np.uint8)
    for place, picture in enumerate(pictures):
        top = place // COLUMNS * height
        left = place % COLUMNS * width
        page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    if legend:
        page = np.concatenate([page, _words(legend, page.shape[1])])
    # In 256 colours: photographs as PNG are large, and the report carries this one.
    file = io.BytesIO()
    Image.fromarray(page).quantize(256).save(file, "PNG", optimize=True)
    return file.getvalue()


def _words(legend: Sequence[tuple[str, Sequence[int]]], width: int) -> np.ndarray:
    """Lines of colours with their words, as wide as the page."""
    places: list[tuple[int, int]] = []
    x = 0
    y = 0
    for words, _ in legend:
        (length, _), _ = cv2.getTextSize(_ascii(words), FONT, 0.4, 1)
        needed = SWATCH + 4 + length + 14
        if x and x + needed > width:
            x = 0
            y += LINE
        places.append((x, y))
        x += needed
    strip = np.full((y + LINE, width, 3), WHITE, np.uint8)
    for (words, colour), (left, top) in zip(legend, places, strict=True):
        strip[top + 2 : top + 2 + SWATCH, left : left + SWATCH] = colour
        at = (left + SWATCH + 4, top + 12)
        cv2.putText(strip, _ascii(words), at, FONT, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def _ascii(words: str) -> str:
    return words.encode("ascii", "replace").decode()[:30]
