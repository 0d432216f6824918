"""Surface normals: a direction for each pixel, learned as classes or as it is.

As classes (Wang et al. 2015, arXiv:1411.4958; Goyal et al. 2019, arXiv:1905.01235, and their code): each
normal is that of its nearest cluster, learned by cross entropy; what is guessed is the mean of the
clusters by their probabilities. Directly: three numbers, whose direction is the normal, learned by one
minus the cosine.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seer.errors import InputError
from seer.eval.data.imagepairs import DenseImages
from seer.eval.data.mapfiles import absent
from seer.eval.data.surfacemaps import SurfaceImages
from seer.eval.data.surfaces import train_and_test
from seer.eval.dense.codebook import assigned, clusters, expected, sample
from seer.eval.dense.surface_errors import Angles, angles_between, normal_scores
from seer.eval.scores import Score
from seer.eval.trained.dense import training
from seer.eval.trained.dense.densetask import Total
from seer.eval.trained.dense.options import NormalsConfig
from seer.eval.trained.dense.training import Recipe

DIRECTION = 3  # numbers
MIRROR = np.array([-1, 1, 1], np.float32)  # what a mirror does to x, y, z
CLUSTERED_IMAGES = 64
CLUSTERED_PIXELS = 50_000
WHITE = 255
PUBLISHED = "those that came with the data"
OWN = "k-means of training images"


class Measured(NamedTuple):
    """A test image's errors, and how many of its pixels have no normal, by why."""

    angles: Angles
    absent: dict[str, int]


class SurfaceNormals:
    """A `DenseTask`.

    Args:
        codebook: `(K, 3)` unit clusters that are the classes; None learns directions themselves.
        origin: where the codebook is from.
    """

    void: float = float("nan")

    def __init__(self, codebook: np.ndarray | None, origin: str = ""):
        self.codebook = codebook
        self.origin = origin
        self.channels = DIRECTION if codebook is None else len(codebook)
        self.words = "normals" if codebook is None else f"normals as {self.channels:,} classes"

    def target(self, images: SurfaceImages, i: int) -> np.ndarray:
        return images.normals(i)

    def mirrored(self, target: np.ndarray) -> np.ndarray:
        return target * MIRROR

    def losses(self, outputs: Tensor, targets: Tensor) -> Total:
        normals = targets.movedim(-1, 1).to(outputs.dtype)
        if self.codebook is None:
            return _regressed(outputs, normals)
        classes = assigned(normals, self._codebook(outputs))
        loss = F.cross_entropy(outputs, classes, ignore_index=-1, reduction="sum")
        return Total(loss, (classes >= 0).sum())

    def activated(self, outputs: Tensor) -> Tensor:
        if self.codebook is None:
            return F.normalize(outputs, dim=1)
        return expected(outputs, self._codebook(outputs))

    def unmirrored(self, activated: Tensor) -> Tensor:
        return activated * torch.from_numpy(MIRROR).to(activated)[:, None, None]

    def decided(self, activated: Tensor) -> np.ndarray:
        return F.normalize(activated, dim=0).movedim(0, -1).float().cpu().numpy()

    def measured(self, decision: np.ndarray, target: np.ndarray) -> Measured:
        return Measured(Angles.of(angles_between(target, decision)), absent(target))

    def agreement(self, measured: Measured) -> float:
        angles = measured.angles
        return -angles.sum / angles.pixels if angles.pixels else 0.0

    def painted(self, target: np.ndarray) -> np.ndarray:
        known = np.isfinite(target).all(-1, keepdims=True)
        levels = np.round((np.where(known, target, 0) + 1) * (WHITE / 2))
        return np.where(known, levels, WHITE).astype(np.uint8)

    def legend(self) -> Sequence[tuple[str, Sequence[int]]]:
        axes = {
            "x": [1, 0, 0],
            "-x": [-1, 0, 0],
            "y": [0, 1, 0],
            "-y": [0, -1, 0],
            "-z": [0, 0, -1],
        }
        return [(name, self.painted(np.array(axis)).tolist()) for name, axis in axes.items()]

    def scores(
        self, measured: Sequence[Measured], test: DenseImages, details: dict[str, Any]
    ) -> list[Score]:
        assert isinstance(test, SurfaceImages)
        pixels = sum(each.angles.pixels for each in measured)
        reasons = sorted({reason for each in measured for reason in each.absent})
        counts = {
            reason: sum(each.absent.get(reason, 0) for each in measured) for reason in reasons
        }
        details |= {"normals": test.origin, "pixels": pixels, "not_scored": counts}
        if self.origin:
            details["clusters"] = self.origin
        return normal_scores([each.angles for each in measured], details)

    def _codebook(self, like: Tensor) -> Tensor:
        return torch.from_numpy(self.codebook).to(like)


def _regressed(outputs: Tensor, normals: Tensor) -> Total:
    """One minus the cosine between `(B, 3, H, W)` and unit normals of the same shape, not finite where there
    is none.
    """
    known = normals.isfinite().all(1)
    # Holes are put to 0 first: the gradient of what is NaN would be, too.
    truth = torch.where(known[:, None], normals, 0)
    cosine = F.cosine_similarity(outputs, truth, dim=1, eps=1e-6)
    return Total(((1 - cosine) * known).sum(), known.sum())


def surface_normals(
    config: NormalsConfig, train: SurfaceImages, test: SurfaceImages
) -> SurfaceNormals:
    """The task of some images. Raises `InputError` where they have no normals, or too few for the clusters."""
    for name, images in (("training", train), ("test", test)):
        images.check_normals()
        if not any(np.isfinite(images.normals(i)).any() for i in range(len(images))):
            raise InputError(f"{images.folder}: no {name} image has a normal")
    if config.output == "direct":
        return SurfaceNormals(None)
    if train.codebook is not None and len(train.codebook) == config.clusters:
        return SurfaceNormals(train.codebook, PUBLISHED)
    return SurfaceNormals(_clusters_of(train, config.clusters, config.seed), OWN)


@lru_cache(2)
def _clusters_of(train: SurfaceImages, count: int, seed: int) -> np.ndarray:
    """Clusters of images' normals, kept for the run that follows its configuration."""
    numbers = np.linspace(0, len(train) - 1, min(len(train), CLUSTERED_IMAGES)).round()
    points = sample([train.normals(int(i)) for i in numbers], CLUSTERED_PIXELS)
    try:
        return clusters(points, count, seed)
    except ValueError as error:
        raise InputError(f"{train.folder}: {error}; use fewer clusters, or output=direct") from None


NORMALS = Recipe(train_and_test, surface_normals)


def configure(task: str, model: str, data: str, overrides: list[str]) -> Any:
    """The configuration of a training. Raises `InputError`: in one line, what is wrong."""
    return training.configure(NORMALS, task, model, data, overrides)


check = training.check


def run(config: NormalsConfig) -> list[Score]:
    """Train, or go on training, and score: angular errors, and shares below 11.25, 22.5 and 30 degrees."""
    return training.run(NORMALS, config)
