"""Outputs of whole images, or of windows; of several sizes and of mirror images."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from seer.eval.trained.dense.denseheads import enlarged
from seer.eval.trained.dense.densetask import DenseTask
from seer.eval.trained.dense.options import DenseConfig
from seer.eval.trained.detection.boxbatches import framed
from seer.eval.trained.detection.boxcutter import resized
from seer.eval.trained.detection.placement import resized_size
from seer.eval.trained.finite import check_finite

Network = Callable[[Tensor], Tensor]  # `(1, 3, H, W)` → `(1, channels, H, W)`


class Seen(NamedTuple):
    """How the images are to be seen: means and deviations of the channels, the multiple of which sides
    are, and where.
    """

    mean: Sequence[float]
    std: Sequence[float]
    multiple: int
    device: torch.device


def sizes_of(size: Sequence[int], config: DenseConfig) -> list[tuple[int, int]]:
    """The heights and widths at which an image of a size is seen."""
    shorter = config.test_size or min(size)
    longer = config.long_side if config.test_size else max(size)
    own = (size[0], size[1])
    return [resized_size(own, shorter * scale, longer * scale) for scale in config.test_scales]


def windows_of(size: Sequence[int], config: DenseConfig) -> list[tuple[int, int, int, int]]:
    """Top, left, height and width of what is seen at once of an image of a size."""
    if config.inference == "whole":
        return [(0, 0, size[0], size[1])]
    window = config.window or config.crop
    spans = []
    for side, length in zip(size, window, strict=True):
        step = max(1, int(length * config.stride))
        room = max(0, side - length)
        firsts = [min(k * step, room) for k in range(-(-room // step) + 1)]
        spans.append([(first, min(length, side)) for first in firsts])
    return [(top, left, height, width) for top, height in spans[0] for left, width in spans[1]]


def passes(size: Sequence[int], config: DenseConfig) -> int:
    """How often the network runs for an image of a size."""
    windows = sum(len(windows_of(seen, config)) for seen in sizes_of(size, config))
    return windows * (2 if config.test_flip else 1)


def output_of(
    network: Network, image: np.ndarray, task: DenseTask, config: DenseConfig, seen: Seen
) -> Tensor:
    """`(channels, H, W)` at the image's own size: the mean over sizes and mirror images of what the task
    makes of outputs; those of overlapping windows are averaged as they are.

    Raises:
        InputError: they are not finite, so that nothing was predicted.
    """
    own = image.shape[:2]
    sums: list[Tensor] = []
    for height, width in sizes_of(own, config):
        pixels = resized(image, height, width)
        for mirror in (False, True) if config.test_flip else (False,):
            looked = np.ascontiguousarray(pixels[:, ::-1]) if mirror else pixels
            outputs = over_windows(network, torch.from_numpy(looked), config, seen)
            activated = task.activated(enlarged(outputs, own))
            sums.append(task.unmirrored(activated.flip(-1)) if mirror else activated)
    mean = torch.stack(sums).mean(0)[0] if len(sums) > 1 else sums[0][0]
    check_finite([mean], "outputs")
    return mean


def over_windows(network: Network, pixels: Tensor, config: DenseConfig, seen: Seen) -> Tensor:
    """`(1, channels, h, w)` of an image `(h, w, 3)` uint8."""
    size = pixels.shape[:2]
    total: Tensor | None = None
    count = torch.zeros(1, 1, *size, device=seen.device)
    for top, left, height, width in windows_of(size, config):
        part = pixels[top : top + height, left : left + width]
        rows = slice(top, top + height)
        columns = slice(left, left + width)
        outputs = network(_input(part, config, seen))[:, :, :height, :width]
        if total is None:
            total = outputs.new_zeros(1, outputs.shape[1], *size)
        total[:, :, rows, columns] += outputs
        count[:, :, rows, columns] += 1
    assert total is not None
    return total / count.to(total.dtype)


def _input(part: Tensor, config: DenseConfig, seen: Seen) -> Tensor:
    """Normalised pixels, filled up to a window, or to a multiple of the network's strides."""
    least = (config.window or config.crop) if config.inference == "slide" else part.shape[:2]
    sides = [max(own, side) for own, side in zip(part.shape[:2], least, strict=True)]
    height, width = (-(-side // seen.multiple) * seen.multiple for side in sides)
    pixels = framed([part], (height, width), seen.mean, seen.std, seen.device)
    return pixels.double() if config.precision == "fp64" else pixels
