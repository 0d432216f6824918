"""What a network keeps of colour and content: images made anew from its features (Ericsson et al. 2021,
arXiv:2011.13377, section 4.8 and appendix A.8, after Ulyanov et al. 2018 and Zhao et al. 2021).

For each image I an untrained network g (`deep_image_prior`) learns by Adam to make, out of fixed noise,
an image whose features are those of I,

    min over θ of ‖f(g_θ(z)) − f(I)‖² / ‖f(I)‖²,

f being the last feature map, 2048 × 7 × 7 of a ResNet-50 at 224 px. The denominator, which the paper does
not have, changes nothing that Adam does but for its ε; losses of any network can be compared by it.
What comes out is compared with I: the mean squared error of each channel, from 0 to 255², and, where
weights are given, LPIPS. Lower is better: more was kept. The reconstruction is the last step's.
"""

import logging
import time

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam

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
from seer.eval.analyses.deep_image_prior import Prior
from seer.eval.analyses.feature_maps import FeatureMap, last_map
from seer.eval.analyses.image_options import ColourConfig
from seer.eval.analyses.perceptual import TITLES, Perceptual, read_perceptual
from seer.eval.probes.features import stack, to_input
from seer.eval.probes.together import goes_on, own_device, processes
from seer.eval.scores import Score
from seer.interop.models import Model
from seer.precision import autocast
from seer.schema import check_options
from seer.terminal import minutes

logger = logging.getLogger("seer.eval")

CHANNELS = ("red", "green", "blue")
TIMED = 3  # steps by which it is told how long all take
UNIT = "of 255²"


def run(model: Model, train: ImageSet, test: ImageSet, config: ColourConfig) -> list[Score]:
    """Mean errors of the images made from features of some test images, and a picture of both.

    Raises:
        InputError: an option is wrong; the network has no feature map, or its features are not finite.
    """
    check_options(config)
    path = picture_path("colour", model, config.picture)
    perceptual = read_perceptual(config.lpips) if config.lpips else None
    numbers = chosen(test, config.images, config.seed)
    device = own_device(config.device)
    model.backbone.requires_grad_(False)  # the prior alone learns
    layer, features = last_map(model, device)
    originals = stack([test.image(number) for number in numbers], model.size, config.crop)
    _tell(model, features, originals[:1], config, device, len(numbers))

    def compute(turn: int, advance: Advance) -> Tensor:
        name = test.source.name(numbers[turn])
        prior = Prior(model.size, config.seed + numbers[turn]).to(device)
        target = originals[turn : turn + 1].to(device)
        loss = invert(prior, model, features, target, config, name, advance)
        return torch.cat([prior_pixels(prior).flatten(), torch.tensor([loss])])

    rows = in_turns(len(numbers), compute, "colour", "steps", config.steps)
    if not goes_on():
        return []
    losses = rows[:, -1]
    made = rows[:, :-1].unflatten(1, (3, model.size, model.size))
    drawn = _pictured(originals[:ROWS], made[:ROWS])
    try_to_draw(path, drawn, "colour: images, and what their features tell of them")
    details = {"layer": layer, "feature_loss": round(float(losses.mean()), 6)}
    return scores_of(originals.permute(0, 3, 1, 2) / 255, made, perceptual, details)


def invert(
    prior: Prior,
    model: Model,
    features: FeatureMap,
    image: Tensor,
    config: ColourConfig,
    name: str,
    advance: Advance,
) -> float:
    """Train the prior to make an image of the same features as `(1, S, S, 3)` uint8, all on one device.

    Args:
        name: the image's, for an error.

    Returns:
        The loss at the last step.

    Raises:
        InputError: the features are not finite, or all 0.
    """
    with torch.no_grad(), autocast(config.precision, image.device):
        wanted = features(to_input(model, image)).double()
    size = wanted.square().sum()
    if not torch.isfinite(wanted).all() or size == 0:
        raise InputError(
            f"{model.label}: its features of {name} are {'all 0' if size == 0 else 'NaN or infinite'}, so no image can "
            "be made from them; use another checkpoint"
        )
    optimizer = Adam(prior.parameters(), lr=config.lr)
    loss = torch.zeros(())
    for _ in range(config.steps):
        optimizer.zero_grad()
        loss = loss_of(prior, model, features, wanted, config) / size
        loss.backward()
        optimizer.step()
        advance(1)
    if not torch.isfinite(loss):
        raise InputError(f"colour: making {name} from its features diverged; give a smaller lr")
    return float(loss.detach())


def loss_of(
    prior: Prior, model: Model, features: FeatureMap, wanted: Tensor, config: ColourConfig
) -> Tensor:
    """‖f(g(z)) − f(I)‖², in float64."""
    pixels = prior()
    with autocast(config.precision, pixels.device):
        made = features(normalised(pixels, model))
    return (made.double() - wanted).square().sum()


def normalised(pixels: Tensor, model: Model) -> Tensor:
    """`(B, 3, S, S)` from 0 to 1 as the model wants its input."""
    mean = pixels.new_tensor(model.mean).view(3, 1, 1)
    std = pixels.new_tensor(model.std).view(3, 1, 1)
    return (pixels - mean) / std


@torch.no_grad()
def prior_pixels(prior: Prior) -> Tensor:
    """What a prior makes, `(3, S, S)` from 0 to 1, on the CPU."""
    return prior()[0].float().cpu()


def scores_of(
    originals: Tensor, made: Tensor, perceptual: Perceptual | None, details: dict[str, object]
) -> list[Score]:
    """The errors of images `(N, 3, S, S)` from 0 to 1."""
    errors = (255 * (made - originals).double()).square().mean((2, 3))
    scores = [
        mean_over_images(f"mse_{name}", f"error, {name}", each, UNIT, "lower", details=details)
        for name, each in zip(CHANNELS, errors.T, strict=True)
    ]
    whole = errors.mean(1)
    scores.append(mean_over_images("mse", "error", whole, UNIT, "lower", True, details))
    if perceptual is None:
        logger.warning(
            "colour: LPIPS is not measured: nothing is downloaded; give lpips=FILE, the state_dict of lpips.LPIPS"
        )
        return scores
    with torch.no_grad():
        pairs = zip(made.split(1), originals.split(1), strict=True)
        distances = torch.cat([perceptual(first, second) for first, second in pairs])
    title = f"LPIPS, {TITLES[perceptual.network]}"
    metric = f"lpips_{TITLES[perceptual.network].lower()}"
    scores.append(mean_over_images(metric, title, distances, "LPIPS", "lower", details=details))
    return scores


def _tell(
    model: Model,
    features: FeatureMap,
    image: Tensor,
    config: ColourConfig,
    device: torch.device,
    images: int,
) -> None:
    """Say how long it will take, by a few steps."""
    trial = Prior(model.size, config.seed).to(device)
    few = ColourConfig(**{**vars(config), "steps": 1})
    quiet = lambda more: None  # noqa: E731
    invert(trial, model, features, image.to(device), few, "the first image", quiet)
    began = time.perf_counter()
    few.steps = TIMED
    invert(trial, model, features, image.to(device), few, "the first image", quiet)
    each = (time.perf_counter() - began) / TIMED
    logger.warning(
        "colour: %d images × %s steps at %d px, about %s; images=, steps= and size= say how many",
        images, f"{config.steps:,}", model.size, minutes(each * config.steps * images / processes()),
    )  # fmt: skip


def _pictured(originals: Tensor, made: Tensor) -> list[list[np.ndarray]]:
    """Originals `(N, S, S, 3)` uint8, each beside what was made."""
    anew = (255 * made).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [
        [first.numpy(), second.contiguous().numpy()]
        for first, second in zip(originals, anew, strict=True)
    ]
