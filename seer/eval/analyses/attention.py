"""Where a network looks: how much its features change when a part of the image is hidden (Ericsson et
al. 2021, arXiv:2011.13377, section 4.9 and appendix A.9).

A square of 10 × 10 pixels is put at every place of the image, over its edges too. Each place has the
root relative squared error of the hidden image's features f′ against the whole one's f,

    RRSE = sqrt(Σ (f′ − f)² / Σ (f − mean f)²),

and each pixel the mean of those places that hide it, as many for every pixel: the attention map.
*Attentive diffusion* is the share of the map that lies above its mean. Higher is wider.

The paper resizes images to 242 px, hides places that lie wholly within, and crops to 224; here the
network sees the 224, and the square slides in from outside: the same 233 × 233 places. What the paper
leaves open is chosen so: the shorter side is resized to 242 and the centre taken; f is what the
backbone gives after pooling, as for every probe; hidden pixels have the mean colour that the model
subtracts, 0 in its input.
"""

import logging

import numpy as np
import torch
from torch import Tensor

from seer.data.labelled import ImageSet
from seer.errors import InputError
from seer.eval.analyses.by_image import (
    ROWS,
    Advance,
    chosen,
    in_turns,
    mean_over_images,
    picture_path,
    try_to_draw,
)
from seer.eval.analyses.image_options import AttentionConfig
from seer.eval.probes.features import CROPS, LARGEST_BATCH, check_finite, frozen, to_input
from seer.eval.probes.together import goes_on, own_device
from seer.eval.scores import Score
from seer.interop.models import Model
from seer.schema import check_options

logger = logging.getLogger("seer.eval")

ROUNDING = 1e-9  # share of the mean that a map may differ from it by arithmetic alone
# Of a heat map, from the lowest value to the highest: blue, white, red.
COLOURS = np.array([[40, 60, 160], [245, 245, 245], [180, 20, 40]], np.float64)


def run(model: Model, train: ImageSet, test: ImageSet, config: AttentionConfig) -> list[Score]:
    """Mean attentive diffusion of some test images, and a picture of their maps.

    Raises:
        InputError: an option is wrong; features are not finite, or all equal, so that no error is relative to
            them.
    """
    check_options(config)
    path = picture_path("attention", model, config.picture)
    places = places_of(model.size, config)
    numbers = chosen(test, config.images, config.seed)
    each = len(places) ** 2
    logger.warning(
        "attention: %d images × %d × %d places of the occluder = %s forwards of %d px; stride=, images= and size= "
        "say how many",
        len(numbers), len(places), len(places), f"{len(numbers) * each:,}", model.size,
    )  # fmt: skip

    for number in numbers:
        test.image(number)  # so that one that is damaged is told before the work

    def compute(turn: int, advance: Advance) -> Tensor:
        image = to_input(model, pixels_of(test, numbers[turn], model, config)[None])[0]
        return map_of(model, image, config, test.source.name(numbers[turn]), advance).flatten()

    rows = in_turns(len(numbers), compute, "attention", "forwards", each)
    if not goes_on():
        return []
    maps = rows.double().unflatten(1, (model.size, model.size))
    originals = [pixels_of(test, number, model, config).numpy() for number in numbers[:ROWS]]
    tiles = [tiles_of(original, each) for original, each in zip(originals, maps, strict=False)]
    try_to_draw(path, tiles, "attention: image, map, and where it is above its mean")
    values = diffusion(maps)
    details = {"forwards": each}
    return [mean_over_images("diffusion", "diffusion", values, headline=True, details=details)]


def places_of(size: int, config: AttentionConfig) -> range:
    """Where the occluder's first pixel lies along one axis of an image, so that it hides every pixel.

    Raises:
        InputError: the occluder is as large as the image, or the stride passes over pixels.
    """
    if config.occluder >= size:
        raise InputError(
            f"occluder={config.occluder}: the images have {size} px, and some of each must be seen; give less, or "
            "a larger size"
        )
    if config.stride > config.occluder:
        raise InputError(
            f"stride={config.stride}: passes over pixels that no place of an occluder of {config.occluder} px hides; "
            "give no more than that"
        )
    return range(1 - config.occluder, size, config.stride)


def pixels_of(images: ImageSet, number: int, model: Model, config: AttentionConfig) -> Tensor:
    """`(S, S, 3)` uint8: the centre of an image that is as much larger as the occluder reaches over
    the edges.
    """
    margin = config.occluder - 1
    larger = CROPS[config.crop](images.image(number), model.size + 2 * margin)
    inner = slice(margin, margin + model.size)
    return torch.from_numpy(larger[inner, inner].copy())


def map_of(
    model: Model, image: Tensor, config: AttentionConfig, name: str, advance: Advance
) -> Tensor:
    """The attention map `(S, S)` float32 of a normalised image `(3, S, S)`, on the CPU.

    Args:
        name: the image's, for an error.
    """
    backbone = frozen(model, config)
    image = image.to(own_device(config.device))
    places = places_of(model.size, config)
    grid = [(top, left) for top in places for left in places]
    batch_size = max(1, min(config.batch_size, LARGEST_BATCH // model.size**2))
    whole = _features(backbone(image[None]), [name], model)
    spread = (whole - whole.mean()).square().sum()
    if spread == 0:
        raise InputError(
            f"{model.label}: its features of {name} are all equal, so that no change of them has a scale; choose "
            "another model or image"
        )
    errors = []
    for start in range(0, len(grid), batch_size):
        part = grid[start : start + batch_size]
        features = _features(backbone(occluded(image, part, config.occluder)), [name], model)
        errors.append(((features - whole).square().sum(1) / spread).sqrt())
        advance(len(part))
    return spread_out(torch.cat(errors), places, model.size, config.occluder).float()


def _features(features: Tensor, name: list[str], model: Model) -> Tensor:
    """Float64 on the CPU, so that the squares of any finite features are."""
    features = features.cpu()
    check_finite(features, [0] * len(features), name.__getitem__, model)
    return features.double()


def occluded(image: Tensor, places: list[tuple[int, int]], side: int) -> Tensor:
    """A copy `(B, 3, S, S)` of an image for each place, a square from there on hidden."""
    copies = image.repeat(len(places), 1, 1, 1)
    for copy, (top, left) in zip(copies, places, strict=True):
        copy[:, max(0, top) : top + side, max(0, left) : left + side] = 0
    return copies


def spread_out(errors: Tensor, places: range, size: int, side: int) -> Tensor:
    """`(S, S)` float64: of each pixel the mean of `(P * P,)` errors at the places that hide it."""
    first = torch.tensor(list(places))
    pixel = torch.arange(size)[:, None]
    hides = ((first <= pixel) & (pixel < first + side)).double()  # (S, P)
    grid = errors.double().view(len(places), len(places))
    times = hides.sum(1)
    return hides @ grid @ hides.T / torch.outer(times, times)


def diffusion(maps: Tensor) -> Tensor:
    """The share `(N,)` of each map `(N, S, S)` that is above its mean."""
    means = maps.mean((1, 2), keepdim=True)
    return (maps > means * (1 + ROUNDING)).double().mean((1, 2))


def tiles_of(original: np.ndarray, attention: Tensor) -> list[np.ndarray]:
    """The image, its heat map above it, and what lies above the map's mean, the rest dimmed."""
    values = attention.numpy()
    spread = max(float(np.ptp(values)), 1e-30)
    heat = coloured((values - values.min()) / spread)
    above = (values > values.mean() * (1 + ROUNDING))[..., None]
    mixed = 0.35 * original + 0.65 * heat
    focus = np.where(above, original, 0.25 * original)
    return [original, mixed.round().astype(np.uint8), focus.round().astype(np.uint8)]


def coloured(shares: np.ndarray) -> np.ndarray:
    """`(H, W)` from 0 to 1 → `(H, W, 3)` colours."""
    stops = np.linspace(0, 1, len(COLOURS))
    return np.stack([np.interp(shares, stops, channel) for channel in COLOURS.T], -1)
