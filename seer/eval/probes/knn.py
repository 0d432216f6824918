"""Weighted k-nearest-neighbour classification on frozen features (Wu et al. 2018, arXiv:1805.01978, section 3.4)."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from seer import files, outputs
from seer.data.crops.multicrop import centre_crop
from seer.data.folders import readable
from seer.data.labelled import Labelled
from seer.distributed import pick_device
from seer.errors import InputError
from seer.eval.probes.features import FeatureConfig, extract, taming
from seer.eval.scores import Score, accuracy
from seer.interop.models import Model
from seer.rundir.names import IMAGES, NEIGHBOURS
from seer.schema import TEMPERATURE, Integer, ListOf, Location, check_options, option

logger = logging.getLogger("seer.eval")

CHUNK = 2**25  # similarities held at once: 128 MB
SIDE, GAP, RADIUS = 96, 6, 8  # px, of the picture of neighbours
FORMATS = {".png": "PNG", ".webp": "WEBP"}  # of the picture, which is transparent
GREEN, RED = "#2da44e", "#cf3f3f"


@dataclass
class KnnConfig(FeatureConfig):
    """Options of `seer eval knn`.

    Attributes:
        k: numbers of neighbours; each gives a score.
        temperature: τ; a neighbour of cosine similarity s votes with weight exp(s / τ).
        neighbours: where to save a picture of some test images and their nearest training images; "" leaves it out
            (a run's own evaluation saves it as RUN/images/neighbours.png).
    """

    k: list[int] = option([10, 20], ListOf(Integer(1, 10**6), 100, 1))
    temperature: float = option(0.07, TEMPERATURE)
    neighbours: str = option("", Location())


def run(model: Model, train: Labelled, test: Labelled, config: KnnConfig) -> list[Score]:
    """Top-1 accuracy on `test` for every k, with `train` as the memory."""
    check_options(config)
    if max(config.k) > len(train):
        raise InputError(f"k={config.k}: each k must be from 1 to {len(train)}, the number of training images")
    if config.neighbours:
        check_picture(Path(config.neighbours))
    bank = extract(model, train, config, "training images")
    queries = extract(model, test, config, "test images")
    labels, truth = torch.from_numpy(train.labels), torch.from_numpy(test.labels)
    similarity, nearest = search(queries, bank, max(config.k), pick_device(config.device))
    path = picture(model, config)
    if path:
        _try_to_draw(path, train, test, nearest)

    def score(k: int) -> Score:
        predicted = vote(similarity[:, :k], labels[nearest[:, :k]], len(train.classes), config.temperature)
        return accuracy(f"top1_k{k}", predicted == truth)

    return [score(k) for k in config.k]


def picture(model: Model, config: KnnConfig) -> Path | None:
    """Where the picture of neighbours goes, if anywhere."""
    if config.neighbours:
        return Path(config.neighbours)
    if model.run_dir and not model.label.endswith("untrained"):
        return model.run_dir / IMAGES / NEIGHBOURS
    return None


def check_picture(path: Path) -> None:
    """Raise `InputError` unless a picture of neighbours can be written there."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"neighbours={path}: expected a name that ends in {' or '.join(FORMATS)}")
    outputs.check_writable(path, "neighbours")


def _try_to_draw(path: Path, train: Labelled, test: Labelled, nearest: Tensor) -> None:
    """Draw the picture; a score that is there already is not lost for it."""
    try:
        draw_neighbours(path, train, test, nearest)
    except OSError as error:
        logger.warning("no picture of neighbours: %s cannot be written (%s)", readable(str(path)), error.strerror)


def search(queries: Tensor, bank: Tensor, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine similarities and places in `bank` of each query's k nearest, nearest first: two `(Q, k)` on the CPU."""
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


def draw_neighbours(
    path: Path, train: Labelled, test: Labelled, nearest: Tensor, rows: int = 6, columns: int = 5
) -> None:
    """Save a grid: in each row a test image, then its nearest training images, framed by whether the class agrees.

    `nearest`: `(Q, k)`, for every test image the numbers of its nearest training images.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(len(test))[:rows])
    columns, step = min(columns, nearest.shape[1]), SIDE + GAP
    sheet = Image.new("RGBA", ((columns + 1) * step + GAP, len(chosen) * step - GAP))  # transparent
    for row, i in enumerate(chosen.tolist()):
        _paste(sheet, test.image(i), 0, row * step)
        for column, j in enumerate(nearest[i, :columns].tolist(), 1):
            agrees = bool(train.labels[j] == test.labels[i])
            _paste(sheet, train.image(j), column * step + GAP, row * step, GREEN if agrees else RED)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as beside:
        sheet.save(beside, FORMATS[path.suffix.lower()])


def _paste(sheet: Image.Image, image: np.ndarray, x: int, y: int, frame: str = "") -> None:
    mask, corners = Image.new("L", (SIDE, SIDE)), (0, 0, SIDE - 1, SIDE - 1)
    ImageDraw.Draw(mask).rounded_rectangle(corners, RADIUS, fill=255)
    thumbnail = Image.fromarray(centre_crop(image, SIDE, SIDE))
    if frame:
        ImageDraw.Draw(thumbnail).rounded_rectangle(corners, RADIUS, outline=frame, width=4)
    sheet.paste(thumbnail, (x, y), mask)
