"""To which alterations of an image features are invariant: those that self-supervised methods train by, one
at a time (Ericsson et al. 2021, "Why do self-supervised models transfer?", arXiv:2111.11398, measures
the like).

Of each image the cosine of its features and of those of the image altered, beside the cosine of two
different images, c₀; the *invariance* to an alteration is (c − c₀) / (1 − c₀): 1 if it changes nothing, 0 if
it changes as much as another image does. Each is applied to every image, at the strength that SwAV and
SEER draw theirs from; `all` are theirs together, with the probabilities that they have, and the
*alignment* of two such crops of an image is the mean of ‖x − y‖² of features of length 1 (Wang & Isola 2020,
arXiv:2005.10242, equation 1).
"""

import logging
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seer.data.crops.multicrop import MultiCrop
from seer.data.crops.options import View
from seer.data.labelled import ImageSet
from seer.errors import InputError
from seer.eval.analyses.by_image import chosen, mean_over_images
from seer.eval.analyses.image_options import InvarianceConfig
from seer.eval.probes.features import check_finite, frozen, stack
from seer.eval.probes.together import own_device
from seer.eval.scores import Score
from seer.interop.models import Model
from seer.schema import check_options
from seer.terminal import progress

logger = logging.getLogger("seer.eval")

WHOLE = {"scale": [1.0, 1.0], "ratio": [1.0, 1.0]}
NOTHING = {"flip": 0.0, "jitter": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0,
           "grey": 0.0, "blur": 0.0, "solarize": 0.0}  # fmt: skip
# What each alteration sets, above nothing; strengths are View's own, which are SEER's.
USUAL = View()
ALTERATIONS: dict[str, dict[str, object]] = {
    "crop": {"scale": USUAL.scale, "ratio": USUAL.ratio},
    "flip": {"flip": 1.0},
    "brightness": {"jitter": 1.0, "brightness": USUAL.brightness},
    "contrast": {"jitter": 1.0, "contrast": USUAL.contrast},
    "saturation": {"jitter": 1.0, "saturation": USUAL.saturation},
    "hue": {"jitter": 1.0, "hue": USUAL.hue},
    "grey": {"grey": 1.0},
    "blur": {"blur": 1.0},
    "solarize": {"solarize": 1.0},
}
ALL = "all"
FEWEST = 2  # images, so that there is another one
SAME = 1e-6  # by how much, in each dimension, features that are alike may differ by rounding


def run(model: Model, train: ImageSet, test: ImageSet, config: InvarianceConfig) -> list[Score]:
    """Invariance of the features of some test images to each alteration, and their mean.

    Raises:
        InputError: an option is wrong, there is a single image, or features are not finite, or all alike.
    """
    check_options(config)
    numbers = chosen(test, config.images, config.seed)
    if len(numbers) < FEWEST:
        raise InputError("invariance: a single image has no other one to be told from")
    features = features_of(model, test, numbers, config)
    own = features["itself"]
    directions = F.normalize(own, dim=1)
    if bool(((directions - directions.roll(1, 0)).abs() < SAME).all()):
        raise InputError(
            f"{model.label}: its features of different images are all alike, so nothing tells what an alteration "
            "changes; choose another model or images"
        )
    different = F.cosine_similarity(own, own.roll(1, 0), dim=1)
    by_chance = float(different.mean())
    details = {"different": round(by_chance, 8)}
    scores = []
    invariances = []
    for name in (*ALTERATIONS, ALL):
        cosines = F.cosine_similarity(own, features[name], dim=1)
        values = (cosines - by_chance) / max(1 - by_chance, 1e-6)
        more = {**details, "cosine": round(float(cosines.mean()), 8)}
        scores.append(mean_over_images(name, f"to {name}", values, "of 1", details=more))
        if name != ALL:
            invariances.append(values)
    mean = torch.stack(invariances).mean(0)
    first = mean_over_images("mean", "mean", mean, "of 1", headline=True, details=details)
    apart = (
        (F.normalize(features[ALL], dim=1) - F.normalize(features["again"], dim=1)).square().sum(1)
    )
    last = mean_over_images("alignment", "alignment", apart, "of 4", "lower", details=details)
    return [first, *scores, last]


def features_of(
    model: Model, images: ImageSet, numbers: list[int], config: InvarianceConfig
) -> dict[str, Tensor]:
    """`(n, D)` float64 on the CPU: of the images `itself`, altered by each alteration, and by all of them
    `again`.
    """
    run_network = frozen(model, config)
    device = own_device(config.device)
    kinds = cutters(model, config.seed)
    parts: dict[str, list[Tensor]] = {name: [] for name in kinds}
    with progress("invariance", "images") as tick:
        for start in range(0, len(numbers), config.batch_size):
            batch = numbers[start : start + config.batch_size]
            pixels = stack([images.image(number) for number in batch], model.size, config.crop)
            for name, crops in altered(pixels.numpy(), kinds, np.array(batch), device):
                features = run_network(crops).cpu()
                check_finite(features, batch, images.source.name, model)
                parts[name].append(features.double())
            tick(start + len(batch), len(numbers))
    return {name: torch.cat(own) for name, own in parts.items()}


def cutters(model: Model, seed: int) -> dict[str, MultiCrop]:
    """What makes each kind of image, by its name."""
    views = {"itself": View(size=model.size, count=1, **WHOLE, **NOTHING)}  # type: ignore[arg-type]
    for name, changed in ALTERATIONS.items():
        options = {**WHOLE, **NOTHING, **changed}
        views[name] = View(size=model.size, count=1, **options)  # type: ignore[arg-type]
    kinds = {
        name: MultiCrop({name: view}, seed, True, model.mean, model.std)
        for name, view in views.items()
    }
    usual = {ALL: View(size=model.size, count=1)}
    kinds[ALL] = MultiCrop(usual, seed, True, model.mean, model.std)
    kinds["again"] = MultiCrop(usual, seed + 1, True, model.mean, model.std)
    return kinds


def altered(
    pixels: np.ndarray,
    kinds: dict[str, MultiCrop],
    ids: np.ndarray,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[str, Tensor]]:
    """Of images `(n, S, S, 3)` uint8, each kind's as the network's input `(n, 3, S, S)` on a
    device.
    """
    for name, cut in kinds.items():
        batch = cut(list(pixels), np.zeros(len(ids), np.int64), ids)
        yield name, cut.finish(batch, device).crops[0][0]
