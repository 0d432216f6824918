"""Logistic regression on frozen features, its penalty chosen among many (Kornblith et al. 2019,
arXiv:1805.08974; Ericsson et al. 2021, arXiv:2011.13377).

λ is chosen on the owners' validation images, or on a held-out part of the training images, and the
regression made once more on all of them; the test images are looked at once, at the end.
"""

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seer.data.labelled import Labelled
from seer.distributed import pick_device
from seer.eval.data.several import MultiLabelled
from seer.eval.probes.features import extract, watch
from seer.eval.probes.holdout import Choosing, choosing
from seer.eval.probes.options import AUTO, LogregConfig
from seer.eval.probes.regression import ROWS, Axes, Loss, Path, Sigmoids, Softmax
from seer.eval.probes.together import goes_on
from seer.eval.ranking import mean_precision
from seer.eval.scores import Score, accuracy, chance, eleven_point, mean_per_class
from seer.interop.models import Model
from seer.schema import check_options

logger = logging.getLogger("seer.eval")


def run(
    model: Model,
    train: Labelled | MultiLabelled,
    test: Labelled | MultiLabelled,
    config: LogregConfig,
) -> list[Score]:
    """Top-1 accuracy and its mean per class on `test`; of images of several classes the 11-point
    mean average precision.

    Raises:
        InputError: an option is wrong, or no class has two training images.
    """
    check_options(config)
    metric = metric_of(train, config)
    by = choosing(train, config.holdout, config.seed)
    features = extract(model, train, config, "training images")
    test_features = extract(model, test, config, "test images")
    if not goes_on():
        return []
    device = pick_device(config.device)
    features = features.to(device)
    test_features = test_features.to(device)
    labels = torch.from_numpy(train.labels).to(device)
    truth = torch.from_numpy(test.labels)
    penalty, heads, details = choose(features, labels, len(train.classes), by, metric, config)
    heads = fit(features, labels, len(train.classes), penalty, heads, config)
    outputs = logits(heads, test_features).cpu()
    if truth.dim() == 2:
        return [
            eleven_point("map11", "mAP, 11 points", outputs, truth, details, headline=True),
        ]
    correct = outputs.argmax(1) == truth
    by_class = metric == "mean_per_class"
    return [
        accuracy("top1", "top-1", correct, details, not by_class, chance(truth)),
        mean_per_class("mean_per_class", "mean per class", correct, truth, details, by_class),
    ]


def metric_of(train: Labelled | MultiLabelled, config: LogregConfig) -> str:
    """What λ is chosen by."""
    if train.labels.ndim == 2:
        return "map11"
    return config.metric if config.metric != AUTO else train.metric or "top1"


def choose(
    features: Tensor,
    labels: Tensor,
    classes: int,
    by: Choosing,
    metric: str,
    config: LogregConfig,
) -> tuple[float, Tensor, dict[str, Any]]:
    """The λ that does best on the images that are kept to choose by, the largest of equals; its
    heads; and what a result says of it.
    """
    kept, held = by.kept, by.held
    axes = Axes.of(features[kept])
    path = Path(axes, loss_of(labels[kept], classes))
    unfinished = []
    best, penalty, heads = -1.0, 0.0, features
    lowest, highest = config.lambdas
    penalties = np.geomspace(highest, lowest, config.count).tolist()
    for candidate in watch(penalties, len(penalties), "logistic regression", "values of λ"):
        solution = path.solve(candidate, config.tolerance, config.iterations)
        if not solution.converged.all():
            unfinished.append(candidate)
        solved = columns(axes.heads(solution.values))
        quality = quality_of(logits(solved, features[held]), labels[held], metric)
        if quality > best:
            best, penalty, heads = quality, candidate, solved
    details: dict[str, Any] = {
        "lambda": penalty,
        "chosen_on": by.rule,
        "chosen_by": metric,
        "holdout": round(best, 4),
    }
    if unfinished:
        named = ", ".join(f"{value:g}" for value in unfinished)
        logger.warning(
            "logreg: not at the optimum after %d iterations at λ = %s; give more iterations",
            config.iterations,
            named,
        )
        details["unfinished"] = unfinished
    return penalty, heads, details


def fit(
    features: Tensor,
    labels: Tensor,
    classes: int,
    penalty: float,
    near: Tensor,
    config: LogregConfig,
) -> Tensor:
    """The heads `(D + 1, C)` at one λ, from those that are `near`."""
    axes = Axes.of(features)
    loss = loss_of(labels, classes)
    start = axes.solution(near).unflatten(1, loss.shape)
    solution = Path(axes, loss, start).solve(penalty, config.tolerance, config.iterations)
    return columns(axes.heads(solution.values))


def loss_of(labels: Tensor, classes: int) -> Loss:
    """One-vs-rest for labels `(N, C)`."""
    return Sigmoids(labels) if labels.dim() == 2 else Softmax(labels, classes)


def columns(heads: Tensor) -> Tensor:
    """`(D + 1, G, K)` → `(D + 1, C)`, a column for each class."""
    return heads.flatten(1)


def logits(heads: Tensor, features: Tensor) -> Tensor:
    """`(N, C)` float64, of features `(N, D)`."""
    parts = [rows.double() @ heads[:-1] + heads[-1] for rows in features.split(ROWS)]
    return torch.cat(parts)


def quality_of(outputs: Tensor, labels: Tensor, metric: str) -> float:
    """What λ is chosen by; more is better."""
    if labels.dim() == 2:
        once = np.ones((1, len(labels)))
        return float(mean_precision(outputs.cpu().numpy(), labels.cpu().numpy(), once)[0])
    correct = outputs.argmax(1) == labels
    if metric == "mean_per_class":
        return mean_per_class(metric, "", correct.cpu(), labels.cpu()).value
    return float(correct.double().mean())
