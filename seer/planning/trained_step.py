"""What a step of a training on labels costs: a learner and a batch without contents, at the size of the
largest images for memory, and at the usual one for arithmetic.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from seer.data.options import LoaderConfig
from seer.data.workers import memory_needed
from seer.engine.learner import Learner
from seer.eval.trained.options import TrainedConfig
from seer.planning.footprint import Footprint, measured

PHOTOGRAPH = (480, 640)  # height and width of most of COCO's images
MULTIPLE = 32  # of which the sides of whole images' batches are

Size = tuple[int, int]  # height and width in pixels


@dataclass(frozen=True)
class Parts:
    """What a step is made of.

    Attributes:
        learner: makes what is trained, on `meta`.
        batch: the first micro-batch of a rank's images, so many in all, of one size.
        largest, usual: sizes of images.
    """

    learner: Callable[[], Learner[Any]]
    batch: Callable[[int, Size], Any]
    largest: Size
    usual: Size


def measure_parts(
    config: TrainedConfig,
    ranks: int,
    parts: Parts,
    sync_batchnorm: bool = True,
    forward_only: bool = False,
) -> Footprint:
    """The cost of a step on one of `ranks` ranks: memory of the largest images, arithmetic of the usual
    ones. Raises `InputError`.
    """

    def at(size: Size, forward: bool = False) -> Footprint:
        share = config.batch_size // ranks
        return measured(
            config, ranks, parts.learner, lambda: parts.batch(share, size), sync_batchnorm, forward
        )

    worst = at(parts.largest, forward_only)
    if forward_only or framed(parts.usual) == framed(parts.largest):
        return worst
    return replace(at(parts.usual), memory=worst.memory, kept=worst.kept)


def framed(size: Size) -> Size:
    """Height and width of a batch of whole images."""
    height, width = (-(-side // MULTIPLE) * MULTIPLE for side in size)
    return height, width


def blank(config: TrainedConfig, count: int, size: Size) -> torch.Tensor:
    """`(count, 3, H, W)` images, channels last in memory."""
    dtype = torch.float64 if config.precision == "fp64" else torch.float32
    return torch.zeros(count, *size, 3, dtype=dtype).permute(0, 3, 1, 2)


def bytes_loaded(loader: LoaderConfig, batch_bytes: int) -> int:
    """Bytes that one rank's loader holds at once, of batches of so many."""
    need = memory_needed(loader.mode, loader.workers, loader.prefetch, [], np.uint8, batch_bytes)
    return need.total
