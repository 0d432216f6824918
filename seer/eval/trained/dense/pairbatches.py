"""Batches of a dense task: images and their maps scaled, cut and mirrored together; the looks of the image
alone are altered.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from seer.data.hashing import mix, uniform
from seer.data.members import Extras
from seer.eval.data.imagepairs import DenseImages
from seer.eval.trained.dense.densetask import DenseTask
from seer.eval.trained.dense.options import DenseConfig
from seer.eval.trained.detection.boxbatches import framed
from seer.eval.trained.detection.boxcutter import resized
from seer.eval.trained.detection.placement import reduction, resized_size

# Domains of the hash.
SIDES = 0x64736964
SCALES = 0x64736361
PLACES = 0x64706C61
FLIPS = 0x64666C69
LOOKS = 0x646C6F6F
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class PairBatch:
    """Images of a batch on one rank, and their targets.

    Attributes:
        pixels: `(B, 3, H, W)`, normalised, zeros outside the images, channels last.
        targets: `(B, H, W)` or `(B, H, W, C)`, void outside the images.
        index: `(B,)` int64 sample ids.
    """

    pixels: Tensor
    targets: Tensor
    index: Tensor

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or convert pixels, and targets that are floating-point numbers (of all else not the type)."""
        pixels = self.pixels.to(*args, **kwargs)
        if self.targets.is_floating_point():
            targets = self.targets.to(*args, **kwargs)
        else:
            targets = self.targets.to(pixels.device)
        return replace(self, pixels=pixels, targets=targets, index=self.index.to(pixels.device))

    def chunk(self, count: int) -> list["PairBatch"]:
        """Cut along the batch into `count` equal parts."""
        size = len(self.index) // count
        starts = range(0, size * count, size)
        return [
            PairBatch(
                self.pixels[start : start + size],
                self.targets[start : start + size],
                self.index[start : start + size],
            )
            for start in starts
        ]


@dataclass(frozen=True)
class PairParcel:
    """What a worker sends: images `(h, w, 3)` uint8, their targets `(h, w, …)`, and the height and width of
    the whole batch, of which this may be one rank's share.
    """

    images: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]
    index: Tensor
    frame: tuple[int, int] = (0, 0)
    crops: tuple[Tensor, ...] = ()

    def pin_memory(self, device: str | None = None) -> Self:
        return replace(self, images=tuple(image.pin_memory() for image in self.images))


class PairCutter:
    """Scales, cuts and mirrors each image with its target; a `Cutter` for `BoxTask`.

    Args:
        images: of whose ids batches are.
        task: what the targets are.
        config: how images are scaled and cut.
        mean, std: of the channels, on the scale where white is 1.
        multiple: of which the sides of a batch of whole images are.
    """

    suffixes: tuple[str, ...] = ()
    dtype: type = np.uint8

    def __init__(
        self,
        images: DenseImages,
        task: DenseTask,
        config: DenseConfig,
        mean: Sequence[float],
        std: Sequence[float],
        multiple: int = 32,
    ):
        self.images = images
        self.task = task
        self.seed = config.seed
        self.short_sides = np.array(config.short_sides, np.int64)
        self.long_side = config.long_side
        self.scales = config.scales
        self.crop = config.crop
        self.flip = config.flip
        self.colour = config.colour
        self.mean = list(mean)
        self.std = list(std)
        self.multiple = multiple

    def shapes(self, count: int) -> list[tuple[int, ...]]:
        """None: images of all sizes are no arrays of one."""
        return []

    def sizes(self, epochs: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """`(B, 2)` heights and widths to which images are resized before they are cut."""
        low, high = self.scales
        factors = low + (high - low) * uniform(self.seed, SCALES, epochs, ids)
        drawn = mix(self.seed, SIDES, epochs, ids)
        rows = zip(self.images.sizes[ids].tolist(), factors.tolist(), drawn.tolist(), strict=True)
        return np.array([self._size(size, factor, draw) for size, factor, draw in rows], np.int64)

    def _size(self, size: list[int], factor: float, draw: int) -> tuple[int, int]:
        shorter, longer = min(size), max(size)
        if len(self.short_sides):
            shorter = int(self.short_sides[draw % len(self.short_sides)])
            longer = self.long_side
        return resized_size((size[0], size[1]), shorter * factor, longer * factor)

    def frame(self, epochs: np.ndarray, ids: np.ndarray) -> tuple[int, int]:
        """Height and width of a batch of these images."""
        if self.crop:
            return self.crop[0], self.crop[1]
        height, width = -(-self.sizes(epochs, ids).max(0) // self.multiple) * self.multiple
        return int(height), int(width)

    def plan(
        self, shapes: Sequence[tuple[int, int]], epochs: np.ndarray, ids: np.ndarray
    ) -> "PairPlan":
        return PairPlan(self, shapes, epochs, ids)

    def finish(self, batch: Any, device: torch.device | str) -> PairBatch:
        pixels = framed(batch.images, batch.frame, self.mean, self.std, device)
        first = batch.targets[0]
        shape = (len(batch.targets), *batch.frame, *first.shape[2:])
        targets = torch.full(shape, self.task.void, dtype=first.dtype, device=device)
        for place, target in zip(targets, batch.targets, strict=True):
            place[: target.shape[0], : target.shape[1]] = target.to(device, non_blocking=True)
        return PairBatch(pixels, targets, batch.index.to(device))


class PairPlan:
    """What becomes of B images."""

    def __init__(
        self,
        cutter: PairCutter,
        shapes: Sequence[tuple[int, int]],
        epochs: np.ndarray,
        ids: np.ndarray,
    ):
        self.cutter = cutter
        self.ids = ids
        seed = cutter.seed
        self.sizes = [(size[0], size[1]) for size in cutter.sizes(epochs, ids).tolist()]
        self.flips = (mix(seed, FLIPS, epochs, ids) & np.uint64(1)).astype(bool)
        self.places = np.stack([uniform(seed, PLACES, epochs, ids, axis) for axis in range(2)], 1)
        self.looks = np.stack([uniform(seed, LOOKS, epochs, ids, kind) for kind in range(3)], 1)
        self.reductions = [
            reduction(shape, size) for shape, size in zip(shapes, self.sizes, strict=True)
        ]
        self.augment_seconds = 0.0
        self.images: list[Tensor] = []
        self.targets: list[Tensor] = []

    def cut(self, b: int, image: np.ndarray, extras: Extras = ()) -> None:
        cutter = self.cutter
        height, width = self.sizes[b]
        rows, columns = self._window(b)
        target = cutter.task.target(cutter.images, int(self.ids[b]))
        target = nearest(target, (height, width), rows, columns)
        pixels = resized(image, height, width)[rows, columns]
        if cutter.flip and self.flips[b]:
            pixels = pixels[:, ::-1]
            target = cutter.task.mirrored(target[:, ::-1])
        if cutter.colour:
            pixels = altered(pixels, 1 + cutter.colour * (2 * self.looks[b] - 1))
        self.images.append(torch.from_numpy(np.ascontiguousarray(pixels)))
        self.targets.append(torch.from_numpy(np.ascontiguousarray(target)))

    def _window(self, b: int) -> tuple[slice, slice]:
        """Which rows and columns of the resized image are taken."""
        if not self.cutter.crop:
            return slice(0, self.sizes[b][0]), slice(0, self.sizes[b][1])
        spans = []
        for side, most, share in zip(self.sizes[b], self.cutter.crop, self.places[b], strict=True):
            length = min(side, most)
            first = int(share * (side - length + 1))
            spans.append(slice(first, first + length))
        return spans[0], spans[1]

    def batch(self) -> PairParcel:
        return PairParcel(tuple(self.images), tuple(self.targets), torch.from_numpy(self.ids))


def nearest(values: np.ndarray, size: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    """These rows and columns of a map that is resized: each pixel has the value below its centre."""
    below = [
        (2 * np.arange(part.start, part.stop) + 1) * full // (2 * side)
        for part, full, side in zip((rows, columns), values.shape, size, strict=False)
    ]
    return values[below[0][:, None], below[1][None, :]]


def altered(pixels: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """An image `(h, w, 3)` uint8 with other brightness, contrast and saturation: factors, in this order."""
    brightness, contrast, saturation = factors.astype(np.float32)
    values = pixels.astype(np.float32) * brightness
    grey = (values @ GREY)[..., None]
    mean = grey.mean()
    values = grey + (values - grey) * saturation
    values = mean + (values - mean) * contrast
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)
