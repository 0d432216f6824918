"""What a step of a dense task costs, as far as that is known before images are looked at: segmentation and
surface normals.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from seer.eval.trained.dense.denselearner import DenseLearner
from seer.eval.trained.dense.densetask import DenseTask
from seer.eval.trained.dense.normals import DIRECTION, SurfaceNormals
from seer.eval.trained.dense.options import DenseConfig, NormalsConfig, SegmentConfig
from seer.eval.trained.dense.pairbatches import PairBatch
from seer.eval.trained.dense.segment import SEGMENTATION, Segmentation
from seer.eval.trained.detection.placement import resized_size
from seer.planning.footprint import Footprint
from seer.planning.planned_models import levels_in
from seer.planning.trained_config import HERE
from seer.planning.trained_step import (
    PHOTOGRAPH,
    Parts,
    Size,
    blank,
    bytes_loaded,
    framed,
    measure_parts,
)

CLASSES = 150  # ADE20K's; data that are there may have others
CLASS_BYTES = 4  # of a pixel of a mask
NUMBER_BYTES = 4  # of each number of a normal


def measure_dense(
    config: DenseConfig,
    ranks: int,
    sync_batchnorm: bool = True,
    forward_only: bool = False,
    samples: int = 0,
) -> Footprint:
    """The cost of a step on one of `ranks` ranks: memory of the largest images that the options allow,
    arithmetic of a photograph at the median of the sizes; of crops, both are theirs. No row is kept of
    the `samples`. Raises `InputError`.
    """
    task = task_in(config)

    def learner() -> DenseLearner:
        return AssumedDense(levels_in(config.model), task, config).train()

    def batch(share: int, size: Size) -> PairBatch:
        return _batch(config, share, size)

    parts = Parts(learner, batch, largest(config), usual(config))
    # An ordinary BatchNorm, which stands for that of GPUs, refuses a map's mean over one image.
    alone = config.batch_size // ranks // config.accumulate == 1
    return measure_parts(config, ranks, parts, sync_batchnorm or alone, forward_only)


def task_in(config: DenseConfig) -> DenseTask:
    """The task of the configuration; of data that are not given with `CLASSES` classes, where it has not
    its own number. Raises `InputError`.
    """
    if isinstance(config, NormalsConfig):
        clusters = np.eye(config.clusters, DIRECTION, dtype=np.float32)
        return SurfaceNormals(None if config.output == "direct" else clusters)
    assert isinstance(config, SegmentConfig)
    if config.data == HERE:
        count = config.classes or CLASSES
    else:
        count = _classes_of(config.data, config.classes, tuple(config.void), config.colours)
    return Segmentation([str(number) for number in range(count)])


@lru_cache(1)  # all steps of a plan have it in common, and masks of one's own are all read for it
def _classes_of(data: str, classes: int, void: tuple[int, ...], colours: str) -> int:
    config = SegmentConfig(model="", data=data, classes=classes, void=list(void), colours=colours)
    return SEGMENTATION.make(config, *SEGMENTATION.read(data)).channels


def largest(config: DenseConfig) -> Size:
    """Height and width of the largest batch; of images that are taken as they are, a photograph's."""
    if config.crop:
        return config.crop[0], config.crop[1]
    return framed(_scaled(config, max(config.scales), -1, upright=False))


def usual(config: DenseConfig) -> Size:
    """Height and width of a batch of photographs at the median of the sizes."""
    if config.crop:
        return config.crop[0], config.crop[1]
    middle = len(config.short_sides) // 2
    return framed(_scaled(config, sum(config.scales) / 2, middle, upright=True))


def _scaled(config: DenseConfig, factor: float, place: int, upright: bool) -> Size:
    shorter, longer = PHOTOGRAPH
    if config.short_sides:
        shorter, longer = sorted(config.short_sides)[place], config.long_side
    if upright or not config.short_sides:
        return resized_size(PHOTOGRAPH, shorter * factor, longer * factor)
    return round(shorter * factor), round(max(shorter, longer) * factor)


def loader_bytes(config: DenseConfig, ranks: int) -> int:
    """Bytes of the largest images and targets that one rank's loader holds at once."""
    height, width = largest(config)
    is_normals = isinstance(config, NormalsConfig)
    target = DIRECTION * NUMBER_BYTES if is_normals else CLASS_BYTES
    return bytes_loaded(config.loader, config.batch_size // ranks * height * width * (3 + target))


def _batch(config: DenseConfig, share: int, size: Size) -> PairBatch:
    pixels = blank(config, share, size)
    if isinstance(config, NormalsConfig):
        targets = torch.zeros(share, *size, DIRECTION, dtype=pixels.dtype)
    else:
        targets = torch.zeros(share, *size, dtype=torch.int32)
    index = torch.zeros(share, dtype=torch.int64)
    return PairBatch(pixels, targets, index).chunk(config.accumulate)[0]


class AssumedDense(DenseLearner):
    """Draws nothing: there is nothing to draw from. Dropout keeps all channels, which costs the same."""

    def kept(self, step: int, index: Tensor, width: int, head: int) -> Tensor | None:
        if not self.dropout:
            return None
        return torch.ones(len(index), width, dtype=torch.float64, device=index.device)
