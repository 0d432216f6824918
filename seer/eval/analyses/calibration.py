"""Whether a classifier is as sure as it is right: calibration of logistic regression on frozen features
(Guo et al. 2017, arXiv:1706.04599; Ericsson et al. 2021, arXiv:2011.13377, section 4.6).

The expected calibration error is, over 15 bins of equal width of the highest probability, the mean
difference of accuracy and confidence, each bin counting as its images. Beside it: the negative log
likelihood in nats and Brier's score, the squared distance of the probabilities from the truth. Each is
measured as it is, and after the logits were divided by one temperature: that with the least negative log
likelihood of the images that λ was chosen by (`scheme=validation`), on which the regression was not
trained; or, as in the transfer paper's code, of each fifth of the test images in turn, measured on
the other four (`scheme=ericsson`).
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seer.data.labelled import Labelled
from seer.distributed import pick_device
from seer.errors import InputError
from seer.eval.analyses.by_image import mean_over_images, picture_path
from seer.eval.analyses.image_options import CalibrationConfig
from seer.eval.analyses.reliability import try_to_draw_reliability
from seer.eval.probes.features import extract
from seer.eval.probes.holdout import choosing
from seer.eval.probes.logreg import choose, fit, logits, metric_of
from seer.eval.probes.together import goes_on
from seer.eval.ranking import resampled
from seer.eval.scores import Score
from seer.interop.models import Model
from seer.schema import check_options

BINS = 15
FOLDS = 5
SPAN = 7.0  # of ln T, either way
HALVINGS = 100  # golden sections of that span


class Part(NamedTuple):
    """Test images that are measured by one temperature.

    Attributes:
        rows: their numbers among all, `(n,)`. Those of a fold are in the parts of all others.
        outputs: their logits `(n, C)`.
        truth: their labels `(n,)`.
    """

    rows: Tensor
    outputs: Tensor
    truth: Tensor


def run(model: Model, train: Labelled, test: Labelled, config: CalibrationConfig) -> list[Score]:
    """Calibration of the test images' probabilities, before and after a temperature; a reliability
    diagram.

    Raises:
        InputError: an option is wrong, or there are no images to choose by.
    """
    check_options(config)
    path = picture_path("calibration", model, config.picture)
    if config.scheme == "ericsson" and len(test) < 2 * FOLDS:
        raise InputError(
            f"scheme=ericsson: {len(test)} test images make no {FOLDS} parts; use scheme=validation"
        )
    by = choosing(train, config.holdout, config.seed)
    features = extract(model, train, config, "training images")
    test_features = extract(model, test, config, "test images")
    if not goes_on():
        return []
    features = features.to(pick_device(config.device))
    labels = torch.from_numpy(train.labels).to(features.device)
    classes = len(train.classes)
    penalty, near, details = choose(features, labels, classes, by, metric_of(train, config), config)
    held = logits(near, features[by.held]).cpu()
    heads = fit(features, labels, classes, penalty, near, config)
    outputs = logits(heads, test_features.to(features.device)).cpu()
    truth = torch.from_numpy(test.labels)

    if config.scheme == "ericsson":
        scaled, temperature = scaled_by_folds(outputs, truth, config.seed)
    else:
        temperature = temperature_of(held, labels[by.held].cpu())
        scaled = [Part(torch.arange(len(truth)), outputs / temperature, truth)]
    details = {**details, "temperature": round(temperature, 6), "scheme": config.scheme}
    whole = Part(torch.arange(len(truth)), outputs, truth)
    scores = measures([whole], "", "", details)
    scores += measures(scaled, "_scaled", ", after the temperature", details)
    scores[0].headline = True
    try_to_draw_reliability(path, bins_of(outputs, truth), bins_of(*joined(scaled)))
    return scores


def measures(parts: list[Part], suffix: str, words: str, details: dict[str, object]) -> list[Score]:
    """The scores of logits and labels; of several parts, whose errors are averaged, as one.

    Intervals are by images drawn anew. An image that is in several parts is drawn with all of them: it
    is one image, and its values go together.
    """
    images = int(max(part.rows.max() for part in parts)) + 1
    error = float(mean_error(parts, np.ones((1, images)))[0])
    drawn = np.concatenate([mean_error(parts, counts) for counts in resampled(images)])
    drawn = drawn[np.isfinite(drawn)]
    # Errors of images drawn anew are larger by what chance adds once more: a bias that is taken off.
    low, high = (2 * error - np.quantile(drawn, [0.975, 0.025])).tolist()
    ece = Score(
        f"ece{suffix}",
        f"expected calibration error{words}",
        error,
        min(error, max(0.0, low)),
        max(error, high),
        "share",
        "lower",
        details={"images": images, **details},
    )
    rows = torch.cat([part.rows for part in parts])
    outputs, truth = joined(parts)
    likelihoods = F.cross_entropy(outputs, truth, reduction="none")
    onehot = F.one_hot(truth, outputs.shape[1]).to(outputs.dtype)
    brier = (outputs.softmax(1) - onehot).square().sum(1)
    means = (
        ("nll", "negative log likelihood", likelihoods, "nats"),
        ("brier", "Brier score", brier, "of 2"),
    )
    others = [
        mean_over_images(
            f"{name}{suffix}",
            f"{title}{words}",
            mean_of_each(rows, values),
            unit,
            "lower",
            False,
            details,
        )
        for name, title, values, unit in means
    ]
    return [ece, *others]


def mean_error(parts: list[Part], counts: np.ndarray) -> np.ndarray:
    """The mean over parts of their calibration errors `(B,)`, each image there as often as `counts`
    `(B, N)` says; NaN where a part has none.
    """
    errors = []
    for part in parts:
        confidence, right = sure_and_right(part.outputs, part.truth)
        errors.append(calibration_errors(confidence, right, counts[:, part.rows.numpy()]))
    return np.mean(errors, axis=0)


def mean_of_each(rows: Tensor, values: Tensor) -> Tensor:
    """Of each image `(N,)` the mean of its values, which are those of the images `rows`, `(M,)` both."""
    counts = torch.bincount(rows)
    return torch.bincount(rows, values.double(), len(counts)) / counts


def joined(parts: list[Part]) -> tuple[Tensor, Tensor]:
    outputs = torch.cat([part.outputs for part in parts])
    truth = torch.cat([part.truth for part in parts])
    return outputs, truth


def sure_and_right(outputs: Tensor, truth: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Of logits `(N, C)`: the highest probability, and whether it is of the right class, `(N,)` float64."""
    confidence, guess = outputs.double().softmax(1).max(1)
    return confidence.numpy(), (guess == truth).double().numpy()


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """The expected calibration error of `(N,)` probabilities and hits."""
    return float(calibration_errors(confidence, right, np.ones((1, len(right))))[0])


def calibration_errors(confidence: np.ndarray, right: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The same `(B,)`, each image there as often as `counts` `(B, N)` says; NaN where none is."""
    members = np.eye(BINS)[bin_of(confidence)]
    differences = np.abs(counts @ (members * (right - confidence)[:, None])).sum(1)
    images = counts.sum(1)
    unknown = np.full(len(counts), np.nan)
    return np.divide(differences, images, out=unknown, where=images > 0)


def bin_of(confidence: np.ndarray) -> np.ndarray:
    """The bin of each probability: the k-th holds those above k/15, up to (k + 1)/15."""
    return np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)


def bins_of(outputs: Tensor, truth: Tensor) -> list[tuple[int, float, float]]:
    """Of each bin its images, their mean confidence and their accuracy."""
    confidence, right = sure_and_right(outputs, truth)
    bins = bin_of(confidence)
    rows = []
    for number in range(BINS):
        own = bins == number
        count = int(own.sum())
        means = (confidence[own].mean(), right[own].mean()) if count else (0.0, 0.0)
        rows.append((count, float(means[0]), float(means[1])))
    return rows


def temperature_of(outputs: Tensor, truth: Tensor) -> float:
    """The temperature `(N, C)` logits are divided by for the least negative log likelihood of the labels
    `(N,)`, which has one minimum; between e⁻⁷ and e⁷.
    """

    def likelihood(log_temperature: float) -> float:
        return float(F.cross_entropy(outputs.double() / math.exp(log_temperature), truth))

    golden = (math.sqrt(5) - 1) / 2
    low = -SPAN
    high = SPAN
    for _ in range(HALVINGS):
        first = high - golden * (high - low)
        second = low + golden * (high - low)
        if likelihood(first) < likelihood(second):
            high = second
        else:
            low = first
    return math.exp((low + high) / 2)


def scaled_by_folds(outputs: Tensor, truth: Tensor, seed: int) -> tuple[list[Part], float]:
    """For each fifth of the images, the others' logits divided by its temperature, with their labels;
    and the geometric mean of the temperatures.
    """
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(truth)))
    folds = order.tensor_split(FOLDS)
    parts = []
    temperatures = []
    for number, fold in enumerate(folds):
        others = torch.cat([*folds[:number], *folds[number + 1 :]])
        temperature = temperature_of(outputs[fold], truth[fold])
        temperatures.append(math.log(temperature))
        parts.append(Part(others, outputs[others] / temperature, truth[others]))
    return parts, math.exp(float(np.mean(temperatures)))
