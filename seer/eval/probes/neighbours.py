"""A picture of some test images, each beside its nearest training images."""

import logging
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from seer import files, outputs
from seer.data.crops.multicrop import centre_crop
from seer.data.folders import readable
from seer.data.labelled import Labelled
from seer.errors import InputError

logger = logging.getLogger("seer.eval")

# Pixels.
SIDE = 96
GAP = 6
RADIUS = 8
FORMATS = {".png": "PNG", ".webp": "WEBP"}  # that can be transparent
GREEN = "#2da44e"
RED = "#cf3f3f"


def check_picture(path: Path) -> None:
    """Raise `InputError` unless a picture of neighbours can be written there."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"neighbours={path}: expected a name that ends in {' or '.join(FORMATS)}")
    outputs.check_writable(path, "neighbours")


def try_to_draw(path: Path, train: Labelled, test: Labelled, nearest: Tensor) -> None:
    """Draw the picture; a score that is there already is not lost for it."""
    try:
        draw_neighbours(path, train, test, nearest)
    except OSError as error:
        logger.warning(
            "no picture of neighbours: %s cannot be written (%s)",
            readable(str(path)),
            error.strerror,
        )


def draw_neighbours(
    path: Path, train: Labelled, test: Labelled, nearest: Tensor, rows: int = 6, columns: int = 5
) -> None:
    """Save a grid: in each row a test image, then its nearest training images, framed by whether
    the class agrees.

    `nearest`: `(Q, k)`, for every test image the numbers of its nearest training images.
    """
    shuffled = np.random.default_rng(0).permutation(len(test))
    chosen = np.sort(shuffled[:rows])
    columns = min(columns, nearest.shape[1])
    step = SIDE + GAP
    width = (columns + 1) * step + GAP
    height = len(chosen) * step - GAP
    sheet = Image.new("RGBA", (width, height))  # transparent
    for row, tested in enumerate(chosen.tolist()):
        top = row * step
        _paste(sheet, test.image(tested), 0, top)
        neighbours = nearest[tested, :columns].tolist()
        for column, neighbour in enumerate(neighbours, 1):
            left = column * step + GAP
            agrees = bool(train.labels[neighbour] == test.labels[tested])
            frame = GREEN if agrees else RED
            _paste(sheet, train.image(neighbour), left, top, frame)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as beside:
        sheet.save(beside, FORMATS[path.suffix.lower()])


def _paste(sheet: Image.Image, image: np.ndarray, x: int, y: int, frame: str = "") -> None:
    """Put a thumbnail with rounded corners, and a frame of that colour if any, at `(x, y)`."""
    corners = (0, 0, SIDE - 1, SIDE - 1)
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).rounded_rectangle(corners, RADIUS, fill=255)
    thumbnail = Image.fromarray(centre_crop(image, SIDE, SIDE))
    if frame:
        ImageDraw.Draw(thumbnail).rounded_rectangle(corners, RADIUS, outline=frame, width=4)
    sheet.paste(thumbnail, (x, y), mask)
