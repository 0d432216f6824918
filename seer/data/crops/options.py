"""How images are cropped and altered, as recipes say it."""

from dataclasses import dataclass

from seer.errors import InputError
from seer.schema import AREAS, SHARE, Integer, ListOf, Number, check_options, option

MAX_CROPS = 64  # per image, all kinds of view together


@dataclass
class View:
    """One kind of crop: how many per image, from where, and how they are altered. The defaults are
    SEER's.

    Attributes:
        size, count: side in pixels, and number per image.
        scale, ratio: ranges of the crop's share of the image's area (uniform) and of width / height (log-uniform).
        flip, jitter, grey, blur, solarize: probabilities.
        brightness, contrast, saturation: a strength s draws a factor in [max(0, 1 - s), 1 + s].
        hue: largest shift, in turns of the colour circle, at most 0.5.
        blur_sigma: range of the Gaussian's standard deviation, in pixels of the crop.
    """

    size: int = option(224, Integer(1, 4096))
    count: int = option(2, Integer(0, MAX_CROPS))
    scale: list[float] = option([0.14, 1.0], AREAS)
    ratio: list[float] = option([3 / 4, 4 / 3], ListOf(Number(0.01, 100), 2, 2, rising=True))
    flip: float = option(0.5, SHARE)
    jitter: float = option(0.8, SHARE)
    brightness: float = option(0.8, Number(0, 10))
    contrast: float = option(0.8, Number(0, 10))
    saturation: float = option(0.8, Number(0, 10))
    hue: float = option(0.2, Number(0, 0.5))
    grey: float = option(0.2, SHARE)
    blur: float = option(0.5, SHARE)
    blur_sigma: list[float] = option([0.1, 2.0], ListOf(Number(0.01, 100), 2, 2, rising=True))
    solarize: float = option(0.0, SHARE)


# SwAV's and SEER's multi-crop, 2×224 + 4×96.
DEFAULT_VIEWS = {"large": View(), "small": View(size=96, count=4, scale=[0.05, 0.14])}


def check_views(views: dict[str, View]) -> None:
    """Raise `InputError` unless `views` describe at least one crop, and not more than fit."""
    for name, view in views.items():
        check_options(view, f"views.{name}")
    total = sum(view.count for view in views.values())
    if total < 1:
        raise InputError("views: no crops at all; set a count, for instance views.large.count=2")
    if total > MAX_CROPS:
        raise InputError(
            f"views: {total} crops per image, more than the {MAX_CROPS} that fit; lower the counts"
        )
