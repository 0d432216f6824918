"""Images side by side, for reports."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

GAP = 6  # px


def grid(rows: Sequence[Sequence[np.ndarray]], heights: Sequence[int]) -> Image.Image:
    """Rows of `(H, W, 3)` uint8 images, each row scaled to its height in pixels, on a transparent ground."""
    tiles = [[_scaled(image, height) for image in row] for row, height in zip(rows, heights, strict=True)]
    width = max(sum(tile.width + GAP for tile in row) for row in tiles) - GAP
    sheet = Image.new("RGBA", (width, sum(height + GAP for height in heights) - GAP), (0, 0, 0, 0))
    y = 0
    for row, height in zip(tiles, heights, strict=True):
        x = 0
        for tile in row:
            sheet.paste(tile, (x, y))
            x += tile.width + GAP
        y += height + GAP
    return sheet


def _scaled(image: np.ndarray, height: int) -> Image.Image:
    enlarged = height > 2 * image.shape[0]  # then show the pixels as they are
    size = max(1, round(image.shape[1] * height / image.shape[0])), height
    return Image.fromarray(image).resize(size, Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)
