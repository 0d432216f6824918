"""Images side by side, for reports."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

GAP = 6  # px


def grid(rows: Sequence[Sequence[np.ndarray]], largest: int = 160) -> Image.Image:
    """Rows of `(H, W, 3)` uint8 images on a transparent ground, in proportion; the tallest is `largest` px high."""
    scale = largest / max(image.shape[0] for row in rows for image in row)
    tiles = [[_scaled(image, scale) for image in row] for row in rows]
    width = max(sum(tile.width + GAP for tile in row) for row in tiles) - GAP
    height = sum(max(tile.height for tile in row) + GAP for row in tiles) - GAP
    sheet = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    y = 0
    for row in tiles:
        x = 0
        for tile in row:
            sheet.paste(tile, (x, y))
            x += tile.width + GAP
        y += max(tile.height for tile in row) + GAP
    return sheet


def _scaled(image: np.ndarray, scale: float) -> Image.Image:
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return Image.fromarray(image).resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)
