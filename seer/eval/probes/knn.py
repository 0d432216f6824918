"""Weighted k-nearest-neighbour classification on frozen features (Wu et al. 2018, arXiv:1805.01978,
section 3.4).
"""

from pathlib import Path

import torch
from torch import Tensor

from seer.data.labelled import Labelled
from seer.errors import InputError
from seer.eval.probes.features import extract
from seer.eval.probes.neighbours import check_picture, try_to_draw
from seer.eval.probes.options import KnnConfig
from seer.eval.probes.search import search_together
from seer.eval.probes.together import goes_on, own_device
from seer.eval.scores import Score, accuracy, chance
from seer.interop.models import Model
from seer.rundir.names import IMAGES, NEIGHBOURS
from seer.schema import check_options


def run(model: Model, train: Labelled, test: Labelled, config: KnnConfig) -> list[Score]:
    """Top-1 accuracy on `test` for every k, with `train` as the memory."""
    check_options(config)
    if max(config.k) > len(train):
        raise InputError(
            f"k={config.k}: each k must be from 1 to {len(train)}, the number of training images"
        )
    if config.neighbours:
        check_picture(Path(config.neighbours))
    bank = extract(model, train, config, "training images")
    queries = extract(model, test, config, "test images")
    labels = torch.from_numpy(train.labels)
    truth = torch.from_numpy(test.labels)
    device = own_device(config.device)
    similarity, nearest = search_together(queries, bank, max(config.k), device, config.metric)
    if not goes_on():
        return []
    path = picture(model, config)
    if path:
        try_to_draw(path, train, test, nearest)

    weighted = config.metric == "cosine"
    scores = []
    for k in config.k:
        votes = similarity[:, :k] if weighted else torch.zeros(len(queries), k)
        predicted = vote(votes, labels[nearest[:, :k]], len(train.classes), config.temperature)
        scores.append(
            accuracy(
                f"top1_k{k}" if weighted else f"top1_euclidean_k{k}",
                f"top-1, k = {k}" if weighted else f"top-1, Euclidean, k = {k}",
                predicted == truth,
                headline=k == config.k[-1],
                by_chance=chance(truth),
            )
        )
    return scores


def picture(model: Model, config: KnnConfig) -> Path | None:
    """Where the picture of neighbours goes, if anywhere."""
    if config.neighbours:
        return Path(config.neighbours)
    if model.run_dir and not model.label.endswith("untrained"):
        return model.run_dir / IMAGES / NEIGHBOURS
    return None


def vote(similarity: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """The class with the most weight among `(Q, k)` neighbours, `(Q,)`."""
    # Only ratios count; taking the nearest as 1 keeps small temperatures from overflowing.
    weights = ((similarity - similarity[:, :1]) / temperature).exp()
    return weights.new_zeros(len(weights), classes).scatter_add_(1, labels, weights).argmax(1)
