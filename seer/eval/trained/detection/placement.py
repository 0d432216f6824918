"""Where images come to lie in a batch: their size, what is cut of them, whether they are mirrored; drawn by
seed, epoch and image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seer.data.decoding.decode import reduced
from seer.data.hashing import mix, uniform

# Domains of the hash.
SIDES = 0x73696465
FLIPS = 0x666C6970
SCALES = 0x7363616C
ROWS = 0x726F7773
COLUMNS = 0x636F6C73
PASTED = 0x70617374  # of images of which objects are pasted


@dataclass(frozen=True)
class Placement:
    """What becomes of an image: resized, cut, mirrored.

    Attributes:
        resized: height and width of the whole image.
        corner: y and x in there where what is cut begins.
        shape: its height and width.
    """

    resized: tuple[int, int]
    corner: tuple[int, int]
    shape: tuple[int, int]
    flip: bool


@dataclass(frozen=True)
class Placing:
    """How images are placed.

    Attributes:
        short_sides: of which one is drawn for each image and epoch, in pixels, without `scales`.
        long_side: no side becomes larger than that.
        flip: mirror half of them.
        scales: large-scale jitter (Ghiasi et al. 2021, arXiv:2012.07177): images fit the square times a factor
            between these two; what is beyond the square is cut off, at a place that is drawn.
        square: its side in pixels.
    """

    short_sides: tuple[int, ...]
    long_side: int
    flip: bool
    seed: int
    scales: tuple[float, float] | None = None
    square: int = 0

    def shapes(self, sizes: np.ndarray, epochs: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """`(B, 2)` heights and widths that images of `sizes` `(B, 2)` get at most."""
        if self.scales:
            return np.full((len(ids), 2), self.square)
        drawn = mix(self.seed, SIDES, epochs, ids) % np.uint64(len(self.short_sides))
        short = np.array(self.short_sides)[drawn.astype(np.int64)]
        return np.stack(
            [
                resized_size(tuple(size), side, self.long_side)
                for size, side in zip(sizes.tolist(), short.tolist(), strict=True)
            ]
        )

    def of(
        self, sizes: np.ndarray, epochs: np.ndarray, ids: np.ndarray, domain: int = 0
    ) -> list[Placement]:
        """Of images of `sizes` `(B, 2)`; another `domain` draws anew."""
        seed = self.seed ^ domain
        flips = (mix(seed, FLIPS, epochs, ids) & np.uint64(1)).astype(bool) & self.flip
        if not self.scales:
            shapes = [(h, w) for h, w in self.shapes(sizes, epochs, ids).tolist()]
            return [Placement(s, (0, 0), s, f) for s, f in zip(shapes, flips.tolist(), strict=True)]
        low, high = self.scales
        scales = low + (high - low) * uniform(seed, SCALES, epochs, ids)
        rows = uniform(seed, ROWS, epochs, ids)
        columns = uniform(seed, COLUMNS, epochs, ids)
        drawn = zip(sizes.tolist(), scales, rows, columns, flips.tolist(), strict=True)
        return [
            jittered(size, scale, self.square, (row, column), flip)
            for size, scale, row, column, flip in drawn
        ]


def jittered(
    size: Sequence[int], scale: float, square: int, corner: tuple[float, float], flip: bool
) -> Placement:
    """An image of that size which fits the square times a scale; the corner of what is cut is a share,
    in [0, 1), of what is beyond the square.
    """
    factor = scale * square / max(size)
    height, width = (max(1, int(side * factor + 0.5)) for side in size)
    shape = (min(height, square), min(width, square))
    top = int(corner[0] * (height - shape[0] + 1))
    left = int(corner[1] * (width - shape[1] + 1))
    return Placement((height, width), (top, left), shape, flip)


def resized_size(size: tuple[int, int], short_side: float, long_side: float) -> tuple[int, int]:
    """Height and width of an image whose shorter side becomes `short_side`, unless its longer one would
    be above `long_side`.
    """
    scale = min(short_side / min(size), long_side / max(size))
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    return height, width


def reduction(shape: tuple[int, int], size: tuple[int, int]) -> int:
    """By how much an image may be reduced in decoding so that it still has the pixels that it is to
    have.
    """
    fitting = [
        r for r in (8, 4, 2) if all(a >= b for a, b in zip(reduced(shape, r), size, strict=True))
    ]
    return fitting[0] if fitting else 1
