"""Whole images resized and mirrored with their boxes and masks, by the loader's workers."""

import hashlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from seer.data.decoding.decode import reduced
from seer.data.hashing import mix
from seer.data.members import Extras
from seer.eval.data.masks import filled, mask_of
from seer.eval.data.objects import Objects
from seer.eval.trained.detection.boxbatches import BoxBatch, BoxParcel, framed

# Domains of the hash.
SIDES = 0x73696465
FLIPS = 0x666C6970


class BoxCutter:
    """Resizes and mirrors each image with its objects; a `Cutter` for `BoxTask`.

    Args:
        objects: of each image by its id; crowds are left out, and with `masks` what has no mask.
        short_sides: of which one is drawn for each image and epoch.
        mean, std: of the channels, on the scale where white is 1.
        multiple: of which the sides of a batch are.
        digests: say what each image's pixels hash to.
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
        digests: bool = False,
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
        self.digests = digests

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
        index = batch.index.to(device)
        return BoxBatch(pixels, sizes, boxes, labels, masks, index, batch.digests)


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
            tuple(map(digest, self.images)) if self.cutter.digests else (),
        )


def resized_size(size: tuple[int, int], short_side: int, long_side: int) -> tuple[int, int]:
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


def reduction(shape: tuple[int, int], size: tuple[int, int]) -> int:
    """By how much an image may be reduced in decoding so that it still has the pixels that it is to
    have.
    """
    fitting = [
        r for r in (8, 4, 2) if all(a >= b for a, b in zip(reduced(shape, r), size, strict=True))
    ]
    return fitting[0] if fitting else 1


def digest(image: Tensor) -> bytes:
    """What an image `(h, w, 3)` uint8 hashes to, its size included."""
    made = hashlib.blake2b(str(tuple(image.shape)).encode(), digest_size=16)
    made.update(image.numpy().data)
    return made.digest()


def _unpacked(bits: Tensor, height: int, width: int) -> Tensor:
    """`(n, h, w)` uint8 masks out of eight pixels a byte."""
    flat = np.unpackbits(bits.numpy(), axis=1, count=height * width)
    return torch.from_numpy(flat.reshape(len(bits), height, width))
