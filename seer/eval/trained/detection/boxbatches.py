"""Batches of a detector: whole images of about one aspect ratio, resized and mirrored with their boxes
and masks, side by side in one tensor.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

import cv2
import numpy as np
import torch
from torch import Tensor

from seer.data.decoding.decode import reduced
from seer.data.delivery import Delivery, StepTask
from seer.data.hashing import mix
from seer.data.members import Extras
from seer.data.order import Order
from seer.eval.data.masks import filled, mask_of
from seer.eval.data.objects import Objects

# Domains of the hash.
SIDES = 0x73696465
FLIPS = 0x666C6970


@dataclass(frozen=True)
class BoxBatch:
    """Images of a batch on one rank, and their objects.

    Attributes:
        pixels: `(B, 3, H, W)`, normalised, each image in its upper left corner and zeros besides, channels last.
        sizes: height and width of each image in there.
        boxes: of each image `(n, 4)` x, y of two corners in these pixels; labels: `(n,)` int64 from 1, 0 being none.
        masks: of each image `(n, h, w)` uint8; None where masks are not asked for.
        index: `(B,)` int64 sample ids.
    """

    pixels: Tensor
    sizes: tuple[tuple[int, int], ...]
    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    masks: tuple[Tensor, ...] | None
    index: Tensor

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or convert pixels and boxes (of all else not the type)."""
        pixels = self.pixels.to(*args, **kwargs)
        device = pixels.device
        return replace(
            self,
            pixels=pixels,
            boxes=tuple(boxes.to(*args, **kwargs) for boxes in self.boxes),
            labels=tuple(labels.to(device) for labels in self.labels),
            masks=None if self.masks is None else tuple(masks.to(device) for masks in self.masks),
            index=self.index.to(device),
        )

    def chunk(self, count: int) -> list["BoxBatch"]:
        """Cut along the batch into `count` equal parts."""
        if count == 1:
            return [self]
        size = len(self.index) // count
        parts = [slice(start, start + size) for start in range(0, size * count, size)]
        return [
            BoxBatch(
                self.pixels[part],
                self.sizes[part],
                self.boxes[part],
                self.labels[part],
                None if self.masks is None else self.masks[part],
                self.index[part],
            )
            for part in parts
        ]


@dataclass(frozen=True)
class BoxParcel:
    """What a worker sends: images `(h, w, 3)` uint8, their boxes, labels and masks (eight pixels a byte),
    and the height and width of the whole batch, of which this may be one rank's share.
    """

    images: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    masks: tuple[Tensor, ...] | None
    index: Tensor
    frame: tuple[int, int] = (0, 0)
    crops: tuple[Tensor, ...] = ()

    def pin_memory(self, device: str | None = None) -> Self:
        return replace(self, images=tuple(image.pin_memory() for image in self.images))


class BoxCutter:
    """Resizes and mirrors each image with its objects; a `Cutter` for `BoxTask`.

    Args:
        objects: of each image by its id; crowds are left out, and with `masks` what has no mask.
        short_sides: of which one is drawn for each image and epoch.
        mean, std: of the channels, on the scale where white is 1.
        multiple: of which the sides of a batch are.
    """

    suffixes: tuple[str, ...] = ()
    dtype: type = np.uint8

    def __init__(
        self,
        objects: Objects,
        short_sides: Sequence[int],
        long_side: int,
        flip: bool,
        masks: bool,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        multiple: int = 32,
    ):
        self.objects = objects
        self.short_sides = np.array(short_sides)
        self.long_side = long_side
        self.flip = flip
        self.masks = masks
        self.seed = seed
        self.mean = list(mean)
        self.std = list(std)
        self.multiple = multiple

    def shapes(self, count: int) -> list[tuple[int, ...]]:
        """None: images of all sizes are no arrays of one."""
        return []

    def sizes(self, epochs: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """`(B, 2)` heights and widths that images get."""
        drawn = mix(self.seed, SIDES, epochs, ids) % np.uint64(len(self.short_sides))
        short = self.short_sides[drawn.astype(np.int64)]
        return np.stack(
            [
                resized_size(tuple(size), side, self.long_side)
                for size, side in zip(self.objects.sizes[ids].tolist(), short.tolist(), strict=True)
            ]
        )

    def frame(self, epochs: np.ndarray, ids: np.ndarray) -> tuple[int, int]:
        """Height and width into which these images fit."""
        height, width = -(-self.sizes(epochs, ids).max(0) // self.multiple) * self.multiple
        return int(height), int(width)

    def plan(
        self, shapes: Sequence[tuple[int, int]], epochs: np.ndarray, ids: np.ndarray
    ) -> "BoxPlan":
        return BoxPlan(self, shapes, epochs, ids)

    def finish(self, batch: Any, device: torch.device | str) -> BoxBatch:
        pixels = framed(batch.images, batch.frame, self.mean, self.std, device)
        sizes = tuple((image.shape[0], image.shape[1]) for image in batch.images)
        masks = None
        if batch.masks is not None:
            masks = tuple(
                _unpacked(bits, height, width).to(device)
                for bits, (height, width) in zip(batch.masks, sizes, strict=True)
            )
        boxes = tuple(boxes.to(device) for boxes in batch.boxes)
        labels = tuple(labels.to(device) for labels in batch.labels)
        return BoxBatch(pixels, sizes, boxes, labels, masks, batch.index.to(device))


def resized_size(size: tuple[int, int], short_side: float, long_side: float) -> tuple[int, int]:
    """Height and width of an image whose shorter side becomes `short_side`, unless its longer one would
    be above `long_side`.
    """
    scale = min(short_side / min(size), long_side / max(size))
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    return height, width


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image of another size: bilinear where it grows, by the mean of areas where it shrinks."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=how)


def framed(
    images: Sequence[Tensor],
    frame: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
) -> Tensor:
    """`(B, 3, H, W)` normalised images in the upper left corners of frames, zeros besides."""
    pixels = torch.zeros(len(images), *frame, 3, device=device)
    levels = torch.tensor([mean, std], device=device) * 255
    for place, image in zip(pixels, images, strict=True):
        height, width = image.shape[:2]
        moved = image.to(device, non_blocking=True)
        place[:height, :width] = (moved - levels[0]) / levels[1]
    return pixels.permute(0, 3, 1, 2)


def _unpacked(bits: Tensor, height: int, width: int) -> Tensor:
    """`(n, h, w)` uint8 masks out of eight pixels a byte."""
    flat = np.unpackbits(bits.numpy(), axis=1, count=height * width)
    return torch.from_numpy(flat.reshape(len(bits), height, width))


class BoxPlan:
    """What becomes of B images."""

    def __init__(
        self,
        cutter: BoxCutter,
        shapes: Sequence[tuple[int, int]],
        epochs: np.ndarray,
        ids: np.ndarray,
    ):
        self.cutter = cutter
        self.ids = ids
        self.sizes: list[tuple[int, int]] = cutter.sizes(epochs, ids).tolist()
        self.flips = (mix(cutter.seed, FLIPS, epochs, ids) & np.uint64(1)).astype(bool)
        self.reductions = [
            reduction(shape, size) for shape, size in zip(shapes, self.sizes, strict=True)
        ]
        self.augment_seconds = 0.0
        self.images: list[Tensor] = []
        self.boxes: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.masks: list[Tensor] = []

    def cut(self, b: int, image: np.ndarray, extras: Extras = ()) -> None:
        height, width = self.sizes[b]
        flip = self.cutter.flip and bool(self.flips[b])
        pixels = resized(image, height, width)
        pixels = pixels[:, ::-1] if flip else pixels
        self.images.append(torch.from_numpy(np.ascontiguousarray(pixels)))
        table = self.cutter.objects
        id = int(self.ids[b])
        scale = np.array([width, height], np.float32) / table.sizes[id][::-1].astype(np.float32)
        numbers = [i for i in table.of(id) if not table.crowd[i]]
        if self.cutter.masks:
            numbers = [i for i in numbers if table.masked[i]]
        boxes = table.boxes[numbers].reshape(-1, 4) * np.tile(scale, 2)
        if flip:
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        self.boxes.append(torch.from_numpy(boxes.astype(np.float32)))
        self.labels.append(torch.from_numpy(table.labels[numbers] + 1))
        if self.cutter.masks:
            masks = np.zeros((len(numbers), height, width), np.uint8)
            for mask, number in zip(masks, numbers, strict=True):
                mask[:] = self._mask(number, id, scale, height, width)
            masks = masks[:, :, ::-1] if flip else masks
            bits = np.packbits(masks.reshape(len(numbers), -1), axis=1)
            self.masks.append(torch.from_numpy(bits))

    def _mask(self, number: int, id: int, scale: np.ndarray, height: int, width: int) -> np.ndarray:
        table = self.cutter.objects
        runs = table.run_lengths(number)
        if len(runs):
            whole = np.ascontiguousarray(mask_of(runs, *table.sizes[id].tolist()))
            return cv2.resize(whole, (width, height), interpolation=cv2.INTER_NEAREST)
        return filled([polygon * scale for polygon in table.polygons(number)], height, width)

    def batch(self) -> BoxParcel:
        return BoxParcel(
            tuple(self.images),
            tuple(self.boxes),
            tuple(self.labels),
            tuple(self.masks) if self.cutter.masks else None,
            torch.from_numpy(self.ids),
        )


def reduction(shape: tuple[int, int], size: tuple[int, int]) -> int:
    """By how much an image may be reduced in decoding so that it still has the pixels that it is to
    have.
    """
    fitting = [
        r for r in (8, 4, 2) if all(a >= b for a, b in zip(reduced(shape, r), size, strict=True))
    ]
    return fitting[0] if fitting else 1


@dataclass(frozen=True)
class BoxTask(StepTask):
    """Step number → `Delivery` of this rank's images, in a frame for those of all ranks: what an image
    is beside does not depend on how many processes there are.
    """

    encoded: bool = True  # nothing of it goes through shared memory that is laid out beforehand

    def __call__(self, step: int) -> Delivery:
        delivery = self.cut(step)
        batch = self.share * self.world_size
        positions = step * batch + np.arange(batch)
        ids = self.order.ids(step * batch, batch)
        cutter: Any = self.cutter  # one that frames its batches
        frame = cutter.frame(np.asarray(self.order.epoch(positions)), ids)
        parcel: Any = delivery.batch
        return delivery._replace(batch=replace(parcel, frame=frame))


class ByAspect:
    """An order of images in which those of a batch are all wide or all tall, as far as their numbers
    allow; each comes once in an epoch.

    The images of each kind are taken in the order of the plain stream, and batches in the order in which they become
    full; what fills none stands at the ends of the epoch.

    Args:
        wide: `(N,)` bool.
        batch: of all processes.
    """

    def __init__(self, order: Order, wide: np.ndarray, batch: int):
        self.order = order
        self.wide = wide
        self.batch = batch
        self.samples = order.samples
        self._epoch = lru_cache(maxsize=2)(self._arranged)

    def __reduce__(self) -> tuple[type[Self], tuple[Order, np.ndarray, int]]:
        return type(self), (self.order, self.wide, self.batch)

    def epoch(self, position: Any) -> Any:
        """The epoch of a position of the stream, or of an array of them."""
        return position // self.samples

    def ids(self, start: int, count: int) -> np.ndarray:
        """`(count,)` int64 sample ids at positions start … start + count - 1."""
        pieces = [np.empty(0, np.int64)]
        while count > 0:
            epoch, first = divmod(start, self.samples)
            length = min(count, self.samples - first)
            pieces.append(self._epoch(epoch)[first : first + length])
            start += length
            count -= length
        return np.concatenate(pieces)

    def _arranged(self, epoch: int) -> np.ndarray:
        """The ids of one epoch. Its first `head` places complete the batch that the epoch before began."""
        ids = self.order.ids(epoch * self.samples, self.samples)
        head = min(-epoch * self.samples % self.batch, self.samples)
        full = (self.samples - head) // self.batch
        batches: list[np.ndarray] = []
        left: list[np.ndarray] = []
        for kind in (True, False):
            places = np.flatnonzero(self.wide[ids] == kind)
            whole = len(places) // self.batch * self.batch
            batches += list(places[:whole].reshape(-1, self.batch))
            left.append(places[whole:])
        batches.sort(key=lambda places: int(places[-1]))
        # Of more batches than there is room for, the last ones fill the ends, and the reverse.
        rest = np.concatenate([*batches[full:], *left]).astype(np.int64)
        middle = np.concatenate([np.empty(0, np.int64), *batches[:full]]).astype(np.int64)
        arranged = np.concatenate([rest[:head], middle, rest[head:]])
        return ids[arranged]
