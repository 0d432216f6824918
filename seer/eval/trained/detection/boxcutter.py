"""Whole images resized, cut and mirrored with their boxes and masks, by the loader's workers."""

import hashlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from seer.data.decoding.decode import DamagedImage
from seer.data.hashing import mix
from seer.data.labelled import ImageSet
from seer.data.members import Extras
from seer.eval.data.masks import filled, mask_of
from seer.eval.data.objects import Objects
from seer.eval.trained.detection.boxbatches import BoxBatch, BoxParcel, framed
from seer.eval.trained.detection.copypaste import Scene, on_canvas, pasted
from seer.eval.trained.detection.placement import PASTED, Placement, Placing, reduction

LEAST_SIDE = 1.0  # pixels of a box that an edge has cut; less of an object is none

# Domains of the hash.
SOURCES = 0x736F7572
CHOSEN = 0x63686F73


class BoxCutter:
    """Places each image with its objects; a `Cutter` for `BoxTask`.

    Args:
        objects: of each image by its id; crowds are left out, and with `masks` what has no mask.
        mean, std: of the channels, on the scale where white is 1.
        multiple: of which the sides of a batch are.
        digests: say what each image's pixels hash to.
        sources: the images, for copy-paste: half of the objects of another one are pasted on each.
    """

    suffixes: tuple[str, ...] = ()
    dtype: type = np.uint8

    def __init__(
        self,
        objects: Objects,
        placing: Placing,
        masks: bool,
        mean: Sequence[float],
        std: Sequence[float],
        multiple: int = 32,
        digests: bool = False,
        sources: ImageSet | None = None,
    ):
        self.objects = objects
        self.placing = placing
        self.masks = masks
        self.mean = list(mean)
        self.std = list(std)
        self.multiple = multiple
        self.digests = digests
        self.sources = sources

    def shapes(self, count: int) -> list[tuple[int, ...]]:
        """None: images of all sizes are no arrays of one."""
        return []

    def frame(self, epochs: np.ndarray, ids: np.ndarray) -> tuple[int, int]:
        """Height and width into which these images fit."""
        shapes = self.placing.shapes(self.objects.sizes[ids], epochs, ids)
        height, width = -(-shapes.max(0) // self.multiple) * self.multiple
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

    def scene(self, id: int, image: np.ndarray, place: Placement) -> Scene:
        """An image and its objects where they come to lie."""
        height, width = place.shape
        top, left = place.corner
        pixels = resized(image, *place.resized)[top : top + height, left : left + width]
        table = self.objects
        numbers = [i for i in table.of(id) if not table.crowd[i]]
        if self.masks:
            numbers = [i for i in numbers if table.masked[i]]
        scale = np.array(place.resized[::-1], np.float32) / table.sizes[id][::-1].astype(np.float32)
        boxes = table.boxes[numbers].reshape(-1, 4) * np.tile(scale, 2)
        masks = np.zeros((len(numbers), height, width), np.uint8) if self.masks else None
        if masks is not None:
            for mask, number in zip(masks, numbers, strict=True):
                mask[:] = self._mask(number, id, scale, place)
        if place.flip:
            pixels = pixels[:, ::-1]
            masks = None if masks is None else masks[:, :, ::-1]
        boxes = boxes - np.array([left, top, left, top], np.float32)
        if place.flip:
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        scene = Scene(pixels, boxes.astype(np.float32), table.labels[numbers] + 1, masks)
        return within(scene) if self.placing.scales else scene

    def _mask(self, number: int, id: int, scale: np.ndarray, place: Placement) -> np.ndarray:
        """`(h, w)` of an object, not mirrored."""
        table = self.objects
        height, width = place.shape
        top, left = place.corner
        runs = table.run_lengths(number)
        if len(runs):
            whole = np.ascontiguousarray(mask_of(runs, *table.sizes[id].tolist()))
            whole = cv2.resize(whole, place.resized[::-1], interpolation=cv2.INTER_NEAREST)
            return whole[top : top + height, left : left + width]
        corner = np.array([left, top], np.float32)
        return filled([part * scale - corner for part in table.polygons(number)], height, width)

    def pasted_on(self, scene: Scene, epoch: int, id: int) -> Scene:
        """With objects of another image, if that can be decoded: a function of seed, epoch and image."""
        assert self.sources is not None
        square = self.placing.square
        colour = np.round(np.array(self.mean) * 255)
        canvas = on_canvas(scene, square, colour)
        drawn = int(mix(self.placing.seed, SOURCES, epoch, id) % np.uint64(len(self.sources) - 1))
        source = (id + 1 + drawn) % len(self.sources)
        try:
            image = self.sources.image(source)
        except DamagedImage:
            return canvas
        sizes = self.objects.sizes[[source]]
        (place,) = self.placing.of(sizes, np.array([epoch]), np.array([id]), PASTED)
        other = self.scene(source, image, place)
        bits = mix(self.placing.seed, CHOSEN, epoch, id, np.arange(len(other.labels)))
        chosen = other.some((bits & np.uint64(1)).astype(bool))
        return pasted(canvas, on_canvas(chosen, square, colour))


def within(scene: Scene) -> Scene:
    """Boxes of an image that was cut end at its edges; of what is beyond them nothing is left."""
    height, width = scene.pixels.shape[:2]
    boxes = scene.boxes.clip(0, np.array([width, height, width, height], np.float32))
    there = ((boxes[:, 2:] - boxes[:, :2]) >= LEAST_SIDE).all(1)
    if scene.masks is not None:
        there &= scene.masks.any((1, 2))
    return Scene(scene.pixels, boxes, scene.labels, scene.masks).some(there)


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
        self.epochs = epochs
        self.places = cutter.placing.of(cutter.objects.sizes[ids], epochs, ids)
        self.reductions = [
            reduction(shape, place.resized)
            for shape, place in zip(shapes, self.places, strict=True)
        ]
        self.augment_seconds = 0.0
        self.scenes: list[Scene] = []

    def cut(self, b: int, image: np.ndarray, extras: Extras = ()) -> None:
        id = int(self.ids[b])
        scene = self.cutter.scene(id, image, self.places[b])
        if self.cutter.sources is not None:
            scene = self.cutter.pasted_on(scene, int(self.epochs[b]), id)
        self.scenes.append(scene)

    def batch(self) -> BoxParcel:
        images = tuple(torch.from_numpy(np.ascontiguousarray(s.pixels)) for s in self.scenes)
        return BoxParcel(
            images,
            tuple(torch.from_numpy(scene.boxes) for scene in self.scenes),
            tuple(torch.from_numpy(scene.labels) for scene in self.scenes),
            tuple(map(_packed, self.scenes)) if self.cutter.masks else None,
            torch.from_numpy(self.ids),
            tuple(map(digest, images)) if self.cutter.digests else (),
        )


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image of another size: bilinear where it grows, by the mean of areas where it shrinks."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=how)


def _packed(scene: Scene) -> Tensor:
    """The masks `(n, h, w)`, eight pixels a byte."""
    assert scene.masks is not None
    height, width = scene.pixels.shape[:2]
    flat = scene.masks.reshape(len(scene.masks), height * width)  # of none, too
    return torch.from_numpy(np.packbits(flat, axis=1))


def digest(image: Tensor) -> bytes:
    """What an image `(h, w, 3)` uint8 hashes to, its size included."""
    made = hashlib.blake2b(str(tuple(image.shape)).encode(), digest_size=16)
    made.update(image.numpy().data)
    return made.digest()


def _unpacked(bits: Tensor, height: int, width: int) -> Tensor:
    """`(n, h, w)` uint8 masks out of eight pixels a byte."""
    flat = np.unpackbits(bits.numpy(), axis=1, count=height * width)
    return torch.from_numpy(flat.reshape(len(bits), height, width))
