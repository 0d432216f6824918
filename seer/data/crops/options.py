"""How images are cropped and altered, as recipes say it."""

from dataclasses import dataclass

from seer.errors import InputError
from seer.schema import AREAS, SHARE, Choice, Integer, ListOf, Number, check_options, option

MAX_CROPS = 64  # per image, all kinds of view together


@dataclass
class View:
    """One kind of crop: how many per image, from where, and how they are altered. The defaults are
    SEER's.

    Attributes:
        size: side of a crop in pixels.
        count: how many crops of this kind are cut from each image; 0 for none.
        scale: range of a crop's share of the image's area, drawn uniformly.
        ratio: range of a crop's width / height, drawn log-uniformly.
        flip: probability that a crop is mirrored, left to right.
        jitter: probability that a crop's colours are shifted, by brightness, contrast, saturation and hue.
        brightness: strength s of the jitter's factor on brightness, drawn from [max(0, 1 - s), 1 + s].
        contrast: strength s of the jitter's factor on contrast, drawn from [max(0, 1 - s), 1 + s].
        saturation: strength s of the jitter's factor on saturation, drawn from [max(0, 1 - s), 1 + s].
        hue: the jitter's largest shift of hue, in turns of the colour circle, at most 0.5.
        grey: probability that a crop loses its colours.
        blur: probability that a crop is blurred by a Gaussian.
        blur_sigma: range of the Gaussian's standard deviation, in pixels of the crop.
        solarize: probability that a crop's bright pixels are inverted.
        background_removal: probability that of a crop nothing is left but the object, by the masks that
            `seer shards saliency` makes; a crop of which less than a twentieth is object keeps its background.
        background_fill: what stands there then: `grey` (the images' mean), `black`, `colour` (a random one) or `noise`.
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
    background_removal: float = option(0.0, SHARE)
    background_fill: str = option("grey", Choice("grey", "black", "colour", "noise"))


# SwAV's and SEER's multi-crop, 2×224 + 4×96.
DEFAULT_VIEWS = {"large": View(), "small": View(size=96, count=4, scale=[0.05, 0.14])}


def describe(views: dict[str, View]) -> str:
    """What is cut out of an image, in a few words: `crops 2×224 + 4×96 px`."""
    kinds = [f"{view.count}×{view.size}" for view in views.values() if view.count]
    return f"crops {' + '.join(kinds)} px"


def is_fixed(view: View) -> bool:
    """Whether nothing of a crop is drawn: it is the same for an image each time."""
    colours = (view.brightness, view.contrast, view.saturation, view.hue)
    certain = all(share in (0, 1) for share in (view.flip, view.grey, view.solarize))
    whole = view.scale == [1, 1] and view.ratio[0] == view.ratio[1]
    return whole and certain and not view.blur and not (view.jitter and any(colours))


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
