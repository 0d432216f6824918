"""What is drawn for every crop of a `View`: numbers that depend on (seed, epoch, sample) alone.

Each crop of a sample owns a row of uniform numbers from the stable hash; a number's place in the
row says what it decides. So a crop depends neither on the worker that cuts it nor on what the other
samples of its batch drew. The distributions are torchvision's (`RandomResizedCrop`, `ColorJitter`,
`RandomApply`, ...), vectorised over the batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from itertools import permutations
from typing import TypeVar

import numpy as np

from seer.data.crops.options import View
from seer.data.hashing import uniform

T = TypeVar("T", "Boxes", "Appearance", "Removals")
# Of one crop, in the order of the fields of `Appearance`.
Look = tuple[np.ndarray, np.ndarray, bool, float, bool]

LUMA = (0.299, 0.587, 0.114)  # what is grey of a colour: ITU-R BT.601, Pillow's "L"
ATTEMPTS = 10  # at a box that fits the image, before falling back to its centre
# The row of uniform numbers of one crop. The box comes first, so that `draw_boxes` stands alone.
AREA = slice(0, ATTEMPTS)
RATIO = slice(ATTEMPTS, 2 * ATTEMPTS)
TOP, LEFT, FLIP = range(2 * ATTEMPTS, 2 * ATTEMPTS + 3)
BOX_UNIFORMS = FLIP + 1
JITTER, ORDER, GREY, BLUR, SIGMA, SOLARIZE = range(BOX_UNIFORMS, BOX_UNIFORMS + 6)
FACTORS = slice(SOLARIZE + 1, SOLARIZE + 5)
UNIFORMS = FACTORS.stop
# What follows is drawn for views whose backgrounds may be removed alone.
REMOVAL = UNIFORMS
FILLING = slice(REMOVAL + 1, REMOVAL + 4)
SLOTS = 64  # places in the row of a crop
NO_NOISE = -1


class Op(IntEnum):
    """The four operations of colour jitter, in the order of the columns of `Appearance.factors`."""

    BRIGHTNESS = 0
    CONTRAST = 1
    SATURATION = 2
    HUE = 3


ORDERS = np.array(list(permutations(Op)))  # (24, 4)
IDENTITY = np.array([1, 1, 1, 0], np.float32)  # the factors that change nothing


@dataclass(frozen=True)
class Boxes:
    """Where N crops are cut: `(N, 4)` int64 of top, left, height, width in pixels, and `(N,)` bool,
    mirrored or not.
    """

    box: np.ndarray
    flip: np.ndarray


@dataclass(frozen=True)
class Appearance:
    """How crops are altered, in the order: jitter, grey, blur, solarize. N crops; what is not drawn
    is the identity.

    Attributes:
        factors: `(N, 4)` float32, one column per `Op`; hue in turns.
        order: `(N, 4)` int64, the jitter's operations in the order of their application.
        grey, solarize: `(N,)` bool.
        sigma: `(N,)` float32, of the Gaussian blur in pixels; 0 is none.
    """

    factors: np.ndarray
    order: np.ndarray
    grey: np.ndarray
    sigma: np.ndarray
    solarize: np.ndarray

    def __len__(self) -> int:
        return len(self.sigma)

    def rows(self) -> Iterator[Look]:
        """Crop by crop."""
        numbers = (self.grey.tolist(), self.sigma.tolist(), self.solarize.tolist())
        return zip(self.factors, self.order, *numbers, strict=True)

    def __getitem__(self, rows: slice) -> "Appearance":
        return Appearance(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True)
class Removals:
    """Of N crops, which lose their background, and by what it is filled.

    Attributes:
        removed: `(N,)` bool.
        colour: `(N, 3)` uint8.
        noise: `(N,)` int64, the seed below 2³² of the noise that fills it in place of the colour, or `NO_NOISE`.
    """

    removed: np.ndarray
    colour: np.ndarray
    noise: np.ndarray


def concatenate(parts: list[T]) -> T:
    """Several `Boxes`, or several `Appearance`s, as one."""
    kind = type(parts[0])
    return kind(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(kind)))


def crop_uniforms(seed: int, epochs: np.ndarray, ids: np.ndarray, crop: int) -> np.ndarray:
    """The `(B, UNIFORMS)` numbers of each sample's crop number `crop` (0 ≤ `crop` < `MAX_CROPS`)."""
    return _numbers(seed, epochs, ids, crop, np.arange(UNIFORMS))


def _numbers(
    seed: int, epochs: np.ndarray, ids: np.ndarray, crop: int, places: np.ndarray
) -> np.ndarray:
    """Some places `(P,)` of the row of each sample's crop, `(B, P)`."""
    slots = crop * SLOTS + places
    return uniform(seed, np.asarray(epochs)[:, None], np.asarray(ids)[:, None], slots)


def draw_boxes(view: View, heights: np.ndarray, widths: np.ndarray, u: np.ndarray) -> Boxes:
    """`RandomResizedCrop` and a flip, for images of `heights` × `widths` `(B,)`, from `u` `(B,
    BOX_UNIFORMS…)`.
    """
    heights = np.asarray(heights)
    widths = np.asarray(widths)
    areas = heights * widths
    area = areas[:, None] * _between(view.scale, u[:, AREA])
    log_ratio = _between(np.log(view.ratio), u[:, RATIO])
    ratio = np.exp(log_ratio)
    # Of all attempts, `(B, ATTEMPTS)`, the first that fits the image counts.
    tried_heights = _rounded(np.sqrt(area / ratio))
    tried_widths = _rounded(np.sqrt(area * ratio))
    fits = _fits(tried_heights, heights) & _fits(tried_widths, widths)
    first = fits.argmax(1)
    height = _of_attempt(first, tried_heights)
    width = _of_attempt(first, tried_widths)
    top = _placed(u[:, TOP], heights - height)
    left = _placed(u[:, LEFT], widths - width)
    drawn = np.stack([top, left, height, width], 1)
    central = _central_boxes(view, heights, widths)
    some_fits = fits.any(1)
    box = np.where(some_fits[:, None], drawn, central)
    flip = u[:, FLIP] < view.flip
    return Boxes(box, flip)


def _rounded(sides: np.ndarray) -> np.ndarray:
    return np.rint(sides).astype(np.int64)


def _fits(sides: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Which of the sides tried, `(B, ATTEMPTS)`, are sides of a box within the image."""
    return (sides > 0) & (sides <= limits[:, None])


def _of_attempt(number: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """`(B,)` of `(B, ATTEMPTS)`: of each image, what the attempt of this number gave."""
    return np.take_along_axis(sides, number[:, None], 1)[:, 0]


def _placed(u: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Uniformly from 0 to `room`, both included."""
    return np.floor(u * (room + 1)).astype(np.int64)


def _central_boxes(view: View, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The whole image, or its centre where the image is narrower or wider than `view.ratio` allows."""
    low, high = view.ratio
    height = np.minimum(heights, np.rint(widths / low)).clip(1).astype(np.int64)
    width = np.minimum(widths, np.rint(heights * high)).clip(1).astype(np.int64)
    return np.stack([(heights - height) // 2, (widths - width) // 2, height, width], 1)


def draw_appearance(view: View, u: np.ndarray) -> Appearance:
    """How each of N crops is altered, from `u` `(N, UNIFORMS)`."""
    strength = np.array([view.brightness, view.contrast, view.saturation, view.hue])
    low = IDENTITY - strength
    high = IDENTITY + strength
    low[: Op.HUE] = low[: Op.HUE].clip(0)  # a shift of hue may be negative, a factor may not
    factors = _between((low, high), u[:, FACTORS])
    is_jittered = u[:, [JITTER]] < view.jitter
    factors = np.where(is_jittered, factors, IDENTITY)
    sigma = _between(view.blur_sigma, u[:, SIGMA])
    is_blurred = u[:, BLUR] < view.blur
    sigma = np.where(is_blurred, sigma, 0)
    order = (u[:, ORDER] * len(ORDERS)).astype(np.int64)
    return Appearance(
        factors=factors.astype(np.float32),
        order=ORDERS[order],
        grey=u[:, GREY] < view.grey,
        sigma=sigma.astype(np.float32),
        solarize=u[:, SOLARIZE] < view.solarize,
    )


def draw_removals(
    view: View, mean: Sequence[float], seed: int, epochs: np.ndarray, ids: np.ndarray, crop: int
) -> Removals:
    """Which samples' crop number `crop` loses its background. `mean` is that of the images' channels,
    on the scale where white is 1.
    """
    u = _numbers(seed, epochs, ids, crop, np.arange(REMOVAL, FILLING.stop))
    removed = u[:, 0] < view.background_removal
    drawn = u[:, 1:]
    noise = np.full(len(u), NO_NOISE, np.int64)
    colour = np.zeros(drawn.shape, np.uint8)
    if view.background_fill == "grey":
        colour[:] = np.rint(255 * np.asarray(mean))
    elif view.background_fill == "colour":
        colour = (drawn * 256).astype(np.uint8)
    elif view.background_fill == "noise":
        noise = (drawn[:, 0] * 2.0**32).astype(np.int64)
    return Removals(removed, colour, noise)


def _between(
    limits: Sequence[float] | tuple[np.ndarray, np.ndarray] | np.ndarray, u: np.ndarray
) -> np.ndarray:
    low, high = limits
    return low + (high - low) * u
