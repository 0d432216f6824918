"""Weighted k-nearest-neighbour classification on frozen features (Wu et al. 2018, arXiv:1805.01978,
section 3.4).
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from seer.data.labelled import Labelled
from seer.distributed import pick_device
from seer.errors import InputError
from seer.eval.probes.features import extract, taming
from seer.eval.probes.neighbours import check_picture, try_to_draw
from seer.eval.probes.options import KnnConfig
from seer.eval.scores import Score, accuracy, chance
from seer.interop.models import Model
from seer.rundir.names import IMAGES, NEIGHBOURS
from seer.schema import check_options

CHUNK = 2**25  # similarities held at once: 128 MB


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
    similarity, nearest = search(queries, bank, max(config.k), pick_device(config.device))
    path = picture(model, config)
    if path:
        try_to_draw(path, train, test, nearest)

    scores = []
    for k in config.k:
        predicted = vote(
            similarity[:, :k], labels[nearest[:, :k]], len(train.classes), config.temperature
        )
        scores.append(
            accuracy(
                f"top1_k{k}",
                f"top-1, k = {k}",
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


def search(queries: Tensor, bank: Tensor, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine similarities and places in `bank` of each query's k nearest, nearest first: two `(Q,
    k)` on the CPU.
    """
    bank = directions(bank.to(device)).T.contiguous()
    chunks = directions(queries).split(max(1, CHUNK // bank.shape[1]))
    found = [tuple(part.cpu() for part in (chunk.to(device) @ bank).topk(k)) for chunk in chunks]
    return torch.cat([s for s, _ in found]), torch.cat([i for _, i in found])


def directions(features: Tensor) -> Tensor:
    """Features `(N, D)` as vectors of length 1."""
    return F.normalize(features * taming(features.abs().amax(1, keepdim=True)), dim=1)


def vote(similarity: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """The class with the most weight among `(Q, k)` neighbours, `(Q,)`."""
    # Only ratios count; taking the nearest as 1 keeps small temperatures from overflowing.
    weights = ((similarity - similarity[:, :1]) / temperature).exp()
    return weights.new_zeros(len(weights), classes).scatter_add_(1, labels, weights).argmax(1)
