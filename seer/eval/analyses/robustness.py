"""How well a classifier that ImageNet taught on frozen features recognises the same classes elsewhere:
newer photographs (V2), renditions (R), sketches, adversarial ones (A), objects in unusual places
(ObjectNet), and fifteen corruptions at five severities (C).

The classifier is that of `seer eval linear`. On a variant it chooses among the variant's own classes,
of which ObjectNet's may be several of ImageNet's: any of them is right. On ImageNet-C, which is ImageNet's
own test images, it chooses among all.

The mean corruption error of ImageNet-C is the mean over corruptions of

    CE = Σ over severities of the error / the same sum of AlexNet's,

in per cent (Hendrycks and Dietterich 2019, arXiv:1903.12261, section 4.2). It is told where all fifteen
and their five severities are there, for those have the same 50,000 images; its interval resamples these.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seer.data.labelled import Labelled, load_labelled
from seer.errors import InputError
from seer.eval.analyses.by_image import mean_over_images
from seer.eval.analyses.image_options import RobustnessConfig
from seer.eval.data.corruptions import CORRUPTIONS, SEVERITIES, missing_of, places_of
from seer.eval.data.recognition import Located
from seer.eval.data.variants import CORRUPTED, Variant, by_names, located_in, open_variant
from seer.eval.probes.features import extract
from seer.eval.probes.linear import Classifier, check_settings, scaling, settings_of, trained
from seer.eval.scores import Score, accuracy, chance
from seer.interop.models import Model
from seer.schema import check_options

logger = logging.getLogger("seer.eval")

# AlexNet's errors, means over the five severities, to the digits that go round; the paper rounds
# them to 88.6, 89.4, 92.3, …
ALEXNET = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640,
    "defocus_blur": 0.819880, "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.798360,
    "snow": 0.866816, "frost": 0.826572, "fog": 0.819324, "brightness": 0.564592,
    "contrast": 0.853204, "elastic_transform": 0.646056, "pixelate": 0.717840, "jpeg_compression": 0.606500,
}  # fmt: skip
UNIT = "% of AlexNet"


@dataclass
class Corrupted:
    """The images of ImageNet-C that a score is of, as far as scores are compared by them."""

    fingerprint: str
    names: str

    def listing(self) -> str:
        return self.names


def run(model: Model, train: Labelled, test: Labelled, config: RobustnessConfig) -> list[Score]:
    """Top-1 on the test images and on every variant that is there; corruption errors.

    Raises:
        InputError: an option is wrong, no variant is there, or one is of other classes.
    """
    check_options(config)
    check_settings(settings_of(config), len(train), config)
    variants, corrupted = _open(config.variants, train.classes)
    features = extract(model, train, config, "training images")
    scale = scaling(features, config)
    features = scale(features)
    classifier = trained(model, train, features, scale, config)
    del features

    truth = torch.from_numpy(test.labels)
    outputs = classifier.outputs(extract(model, test, config, "test images"))
    hits = outputs.argmax(1) == truth
    details = classifier.details
    scores = [accuracy("top1", "top-1", hits, details, by_chance=chance(truth))]
    scores += [_score(model, variant, classifier, config) for variant in variants]
    if corrupted:
        scores += _corruptions(model, corrupted, train.classes, classifier, config)
    if len(scores) > 1:
        scores[-1 if scores[-1].metric == "mce" else 1].headline = True
    return scores


def _open(root: str, classes: Sequence[str]) -> tuple[list[Variant], Located | None]:
    """The variants of one class an image that are there, and where ImageNet-C is; what is missing is
    said.
    """
    if not root:
        raise InputError(
            "variants: say in which folder the variants of ImageNet lie, variants=DIR; seer data check DIR lists them"
        )
    if not Path(root).is_dir():
        raise InputError(f"variants={root}: no such folder")
    there, lines = located_in(Path(root))
    if not there:
        raise InputError(f"variants={root}: holds none of them; {lines[0]}")
    for line in lines:
        logger.warning("robustness: %s", line)
    variants = [open_variant(each, classes) for each in there if each.entry.name != CORRUPTED]
    corrupted = [each for each in there if each.entry.name == CORRUPTED]
    return variants, corrupted[0] if corrupted else None


def _score(
    model: Model, variant: Variant, classifier: Classifier, config: RobustnessConfig
) -> Score:
    features = extract(model, variant.images, config, variant.title)
    truth = torch.from_numpy(variant.images.labels)
    hits = right(classifier.outputs(features), truth, variant.numbers)
    name = variant.name.replace("-", "_")
    details = {**classifier.details, "classes": len(variant.numbers)}
    title = f"top-1, {variant.title}"
    score = accuracy(f"top1_{name}", title, hits, details, by_chance=chance(truth))
    score.test = variant.images
    return score


def right(outputs: Tensor, labels: Tensor, numbers: Sequence[Sequence[int]]) -> Tensor:
    """Whether the largest of the outputs `(N, C)` that stand for any of the variant's classes stands for the
    one that an image has, `(N,)` bool.

    Args:
        labels: of the images, `(N,)`, into the variant's classes.
        numbers: of each of these, which outputs stand for it.
    """
    among = torch.tensor(sorted({number for each in numbers for number in each}))
    predicted = among[outputs[:, among].argmax(1)]
    is_of = torch.zeros(len(numbers), outputs.shape[1], dtype=torch.bool)
    for row, each in zip(is_of, numbers, strict=True):
        row[list(each)] = True
    return is_of[labels, predicted]


def _corruptions(
    model: Model,
    located: Located,
    classes: Sequence[str],
    classifier: Classifier,
    config: RobustnessConfig,
) -> list[Score]:
    """The error of each corruption that is whole, as a share of AlexNet's, and the mean of all fifteen."""
    folder = located.folder
    missing = missing_of(folder)
    if missing:
        more = f", and {len(missing) - 5} more" if len(missing) > 5 else ""
        logger.warning(
            "robustness: %s: %s%s not there, so there is no mean corruption error",
            folder, ", ".join(missing[:5]), more,
        )  # fmt: skip
    whole = {
        name: place
        for name, place in places_of(folder).items()
        if all((place / severity).is_dir() for severity in SEVERITIES)
    }
    scores = []
    relative: list[Tensor] = []
    names: list[str] = []
    digests: list[str] = []
    for name in CORRUPTIONS:
        if name not in whole:
            continue
        errors = []
        prints = []
        for images, wrong in _wrong(model, whole[name], classes, classifier, config):
            keys = [images.source.key(i) for i in range(len(images))]
            names = names or keys
            if keys != names:
                raise InputError(
                    f"{folder}: {name} has other images at one severity than those before, {len(keys):,} and "
                    f"{len(names):,}; unpack it anew"
                )
            errors.append(wrong)
            prints.append(images.fingerprint)
        each = torch.stack(errors).double().mean(0) / ALEXNET[name]
        relative.append(each)
        digests += prints
        score = _relative(
            f"ce_{name}", f"corruption error, {name.replace('_', ' ')}", each, classifier.details
        )
        score.test = _measured(prints, names)
        scores.append(score)
    if not missing:
        mean = torch.stack(relative).mean(0)
        score = _relative("mce", "mean corruption error", mean, classifier.details)
        score.test = _measured(digests, names)
        scores.append(score)
    return scores


def _wrong(
    model: Model,
    place: Path,
    classes: Sequence[str],
    classifier: Classifier,
    config: RobustnessConfig,
) -> Iterator[tuple[Labelled, Tensor]]:
    """The images of a corruption, one severity after the other, and whether the classifier errs.

    Their features are not kept: all of ImageNet-C have 30 GB at 2,048 dimensions.
    """
    once = replace(config, cache=False)
    for severity in SEVERITIES:
        images = load_labelled(place / severity)
        numbers = by_names(images.classes, classes, place / severity)
        features = extract(model, images, once, f"{place.name} {severity}")
        truth = torch.tensor(numbers)[torch.from_numpy(images.labels), 0]
        yield images, classifier.outputs(features).argmax(1) != truth


def _relative(metric: str, title: str, each: Tensor, details: dict[str, Any]) -> Score:
    return mean_over_images(metric, title, 100 * each, UNIT, "lower", details=details)


def _measured(fingerprints: Sequence[str], names: Sequence[str]) -> Corrupted:
    content = "\0".join(fingerprints)
    listed = "\0".join(names)
    digests = [hashlib.sha256(text.encode(errors="surrogateescape")) for text in (content, listed)]
    return Corrupted(*(digest.hexdigest()[:16] for digest in digests))
