"""Crops: images in, one batch of views out.

`MultiCrop(images, epochs, ids)` runs in the loader's workers: it cuts and resizes every crop, and
with `finish=True` alters and normalises it there too. `MultiCrop.plan` does the same image by
image, and says beforehand how much smaller each may be decoded. `MultiCrop.finish(batch, device)`
runs in the consumer and gives `Views`; with `finish=False` it does the altering, in batch on the
device.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from seer.data.crops import arena
from seer.data.crops.augment import Normalise, augment_batch, augment_crop
from seer.data.crops.backdrops import (
    MASK,
    Backdrop,
    any_removed,
    backdrop_of,
    lay_behind,
    mask_of,
    together,
)
from seer.data.crops.draws import (
    BOX_UNIFORMS,
    Appearance,
    Boxes,
    Look,
    Removals,
    concatenate,
    crop_uniforms,
    draw_appearance,
    draw_boxes,
    draw_removals,
)
from seer.data.crops.options import DEFAULT_VIEWS, View, check_views
from seer.data.decoding.decode import reduced
from seer.data.members import Extras
from seer.data.views import Views
from seer.errors import InputError

__all__ = [
    "BOX_UNIFORMS",
    "DEFAULT_VIEWS",
    "CropBatch",
    "CropPlan",
    "MultiCrop",
    "View",
    "centre_crop",
    "train_crop",
    "without_far_ends",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
REDUCTIONS = (1, 2, 4, 8)  # of a picture, that decoders know

# Samples are what runs in parallel. OpenCV's own threads would compete with the loader's, and do
# not survive a fork.
cv2.setNumThreads(0)


@dataclass(frozen=True)
class CropBatch:
    """What a worker sends to the consumer; picklable.

    Attributes:
        crops: one `(V, B, S, S, 3)` tensor per resolution, largest first; uint8, or float32 when finished.
        looks: one `Appearance` of V·B crops per resolution; none when finished.
        index: `(B,)` int64 sample ids.
    """

    crops: tuple[Tensor, ...]
    looks: tuple[Appearance, ...]
    index: Tensor

    def pin_memory(self, device: str | None = None) -> "CropBatch":
        """The same in page-locked memory; torch's DataLoader calls this by name."""
        return replace(
            self,
            crops=tuple(crops.pin_memory() for crops in self.crops),
            index=self.index.pin_memory(),
        )


@dataclass(frozen=True)
class _Resolution:
    """The V crops of one size: each one's number (which picks its uniforms) and its description."""

    size: int
    crops: list[tuple[int, View]]

    def draw(
        self,
        seed: int,
        epochs: np.ndarray,
        ids: np.ndarray,
        heights: np.ndarray,
        widths: np.ndarray,
    ) -> tuple[Boxes, Appearance]:
        """What V·B crops drew; row v·B + b is crop v of sample b."""
        boxes = []
        looks = []
        for number, view in self.crops:
            u = crop_uniforms(seed, epochs, ids, number)
            boxes.append(draw_boxes(view, heights, widths, u))
            looks.append(draw_appearance(view, u))
        return concatenate(boxes), concatenate(looks)

    def draw_removals(
        self, seed: int, mean: Sequence[float], epochs: np.ndarray, ids: np.ndarray
    ) -> Removals | None:
        """Which of the V·B crops lose their background; None where none of these views ever does."""
        if not any(view.background_removal for _, view in self.crops):
            return None
        drawn = [draw_removals(view, mean, seed, epochs, ids, n) for n, view in self.crops]
        return concatenate(drawn)


class MultiCrop:
    """Cuts the same crops of a sample at the same epoch wherever it runs; see the module's
    docstring.

    Args:
        views: descriptions by name. Those of equal size are merged, in this order; a count of 0 leaves one out.
        finish: alter and normalise in the worker; otherwise on the device.
        mean, std: of the channels, on the scale where white is 1.

    Raises `InputError` for views that make no sense.
    """

    suffixes: tuple[str, ...] = ()

    def __init__(
        self,
        views: dict[str, View],
        seed: int,
        finish: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ):
        check_views(views)
        self.seed = seed
        self.finished = finish
        self.dtype: type = np.float32 if finish else np.uint8
        self.normalise = Normalise(tuple(mean), tuple(std))
        flat = [view for view in views.values() for _ in range(view.count)]
        sizes = sorted({view.size for view in flat}, reverse=True)
        self.resolutions = [
            _Resolution(size, [(n, v) for n, v in enumerate(flat) if v.size == size])
            for size in sizes
        ]
        if any(view.background_removal for view in flat):
            self.suffixes = (MASK,)

    def __call__(
        self,
        images: Sequence[np.ndarray],
        epochs: np.ndarray,
        ids: np.ndarray,
        extras: Sequence[Extras] = (),
    ) -> CropBatch:
        """Crops of B images, `(H, W, 3)` uint8 each, as sample `ids` `(B,)` in `epochs` `(B,)`; `extras`
        are these samples' members by `suffixes`.
        """
        plan = self.plan([image.shape[:2] for image in images], epochs, ids)
        for b, image in enumerate(images):
            plan.cut(b, image, extras[b] if extras else ())
        return plan.batch()

    def draw_removals(self, epochs: np.ndarray, ids: np.ndarray) -> list[Removals | None]:
        """Of each resolution, which crops of these samples lose their background."""
        mean = self.normalise.mean
        return [r.draw_removals(self.seed, mean, epochs, ids) for r in self.resolutions]

    def plan(
        self, shapes: Sequence[tuple[int, int]], epochs: np.ndarray, ids: np.ndarray
    ) -> "CropPlan":
        """The same for images still to be decoded, of which heights and widths are known."""
        return CropPlan(self, shapes, epochs, ids)

    def shapes(self, count: int) -> list[tuple[int, ...]]:
        """Of the arrays, one per resolution, that the crops of `count` images fill."""
        return [(len(r.crops) * count, r.size, r.size, 3) for r in self.resolutions]

    def finish(self, batch: CropBatch, device: torch.device | str) -> Views:
        """The batch on `device` as `Views`: fp32, normalised, channels last."""
        crops = [crops.to(device, non_blocking=True) for crops in batch.crops]
        if batch.looks:
            crops = [
                augment_batch(pixels.flatten(0, 1), looks, self.normalise).unflatten(
                    0, pixels.shape[:2]
                )
                for pixels, looks in zip(crops, batch.looks, strict=True)
            ]
        index = batch.index.to(device, non_blocking=True)
        return Views(tuple(pixels.permute(0, 1, 4, 2, 3) for pixels in crops), index)


class _Work(NamedTuple):
    """The crops of one resolution of a plan; row v·B + b is crop v of image b."""

    boxes: list[list[int]]
    flips: list[bool]
    looks: list[Look]
    removals: Removals | None
    out: np.ndarray


class CropPlan:
    """The crops of B images: drawn before the images are decoded, and cut one image after the
    other.

    Attributes:
        reductions: by how much each image may be reduced when it is decoded (1, 2, 4 or 8): the most that leaves every
            one of its crops something to shrink. It depends on the image's shape and its draws alone.
        augment_seconds: of the time that cutting took, what went into the crops' looks.
    """

    def __init__(
        self,
        crops: MultiCrop,
        shapes: Sequence[tuple[int, int]],
        epochs: np.ndarray,
        ids: np.ndarray,
    ):
        self.crops = crops
        self.shapes = list(shapes)
        self.epochs = epochs
        self.ids = ids
        self.augment_seconds = 0.0
        count = len(self.shapes)
        heights, widths = np.array(self.shapes).T
        self.out = arena.arrays(crops.shapes(count), crops.dtype)
        self.work: list[_Work] = []
        every_look = []
        ratios = []
        self.removals = crops.draw_removals(epochs, ids)
        # A cutter that cuts more than crops has further arrays.
        for resolution, removals, out in zip(
            crops.resolutions, self.removals, self.out, strict=False
        ):
            boxes, looks = resolution.draw(crops.seed, epochs, ids, heights, widths)
            flips = boxes.flip.tolist()
            work = _Work(boxes.box.tolist(), flips, list(looks.rows()), removals, out)
            self.work.append(work)
            every_look.append(looks)
            sides = boxes.box[:, 2:].reshape(-1, count, 2)
            ratios.append(sides.min((0, 2)) // resolution.size)
        self.looks = tuple(every_look)
        self.reductions = [_reduction(ratio) for ratio in np.min(ratios, 0)]

    def cut(self, b: int, image: np.ndarray, extras: Extras = ()) -> None:
        """Cut image b's crops from `image`: itself, itself reduced, or another (of any shape) that
        replaces it.
        """
        shape = image.shape[:2]
        count = len(self.shapes)
        factor = 1 if shape == self.shapes[b] else self.reductions[b]
        if shape != reduced(self.shapes[b], factor):
            self._draw_again(b, shape)
            factor = 1
        mask = None
        if any_removed(self.removals, b, count):
            whole = shape if factor == 1 else self.shapes[b]
            mask = mask_of(extras, whole, int(self.ids[b]))
        for work in self.work:
            for row in range(b, len(work.out), count):
                box = _reduced_box(work.boxes[row], factor)
                backdrop = _backdrop(work, row, mask)
                self._make(image, box, work.flips[row], work.looks[row], work.out[row], backdrop)

    def _draw_again(self, b: int, shape: tuple[int, int]) -> None:
        """Boxes for an image of another shape; how crops look does not depend on it."""
        heights = np.array(shape[:1])
        widths = np.array(shape[1:])
        epochs = self.epochs[b : b + 1]
        ids = self.ids[b : b + 1]
        seed = self.crops.seed
        count = len(self.shapes)
        resolutions = self.crops.resolutions
        for resolution, work in zip(resolutions, self.work, strict=True):
            boxes, _ = resolution.draw(seed, epochs, ids, heights, widths)
            work.boxes[b::count] = boxes.box.tolist()

    def _make(
        self,
        image: np.ndarray,
        box: list[int],
        flip: bool,
        look: Look,
        out: np.ndarray,
        backdrop: Backdrop | None = None,
    ) -> None:
        """One crop into `out`, finished or not; in front of `backdrop`, if there is one."""
        crop = np.empty(out.shape, np.uint8) if self.crops.finished else out
        resized_crop(image, box, flip, crop)
        if backdrop:
            lay_behind(torch.from_numpy(crop)[None], together([0], [backdrop], len(crop)))
        if not self.crops.finished:
            return
        began = time.perf_counter()
        augment_crop(crop, look, self.crops.normalise, out)
        self.augment_seconds += time.perf_counter() - began

    def batch(self) -> CropBatch:
        """What has been cut."""
        tensors = tuple(
            torch.from_numpy(out).unflatten(0, (-1, len(self.shapes))) for out in self.out
        )
        return CropBatch(
            tensors,
            () if self.crops.finished else self.looks,
            torch.from_numpy(np.array(self.ids, np.int64)),
        )


def _backdrop(work: _Work, row: int, mask: np.ndarray | None) -> Backdrop | None:
    """What stands behind the object of a crop that loses its background."""
    if mask is None or work.removals is None or not work.removals.removed[row]:
        return None
    return backdrop_of(
        mask, work.boxes[row], work.flips[row], work.out.shape[1], work.removals, row
    )


def _reduction(ratio: int) -> int:
    """By how much a picture may be reduced when its smallest crop is `ratio` times as large as
    needed.
    """
    return max(factor for factor in REDUCTIONS if factor <= max(1, ratio))


def _reduced_box(box: list[int], factor: int) -> list[int]:
    """The box on the picture reduced by `factor`; its edges move by half a pixel there at most."""
    top, left, height, width = box
    edges = [(edge + factor // 2) // factor for edge in (top, left, top + height, left + width)]
    return [edges[0], edges[1], edges[2] - edges[0], edges[3] - edges[1]]


def resized_crop(image: np.ndarray, box: Sequence[int], flip: bool, out: np.ndarray) -> None:
    """Fill `out` `(h, w, 3)` with the box (top, left, height, width) of an `(H, W, 3)` image,
    mirrored if `flip`.

    All uint8; bilinear as Pillow's, antialiased where it shrinks. Raises ValueError for a box that
    leaves the image.
    """
    from seer.data.crops.resize import resize  # compiles, or loads what it compiled before

    top, left, height, width = box
    if not (
        0 <= top < top + height <= image.shape[0] and 0 <= left < left + width <= image.shape[1]
    ):
        raise ValueError(
            f"box {list(box)} leaves the image of {image.shape[0]}x{image.shape[1]} pixels"
        )
    resize(np.ascontiguousarray(image), top, left, height, width, flip, out)


def centre_crop(image: np.ndarray, size: int, resize: int) -> np.ndarray:
    """The usual test-time crop: the shorter side resized to `resize` pixels, then the central
    square.

    Returns `(size, size, 3)` uint8. Raises `InputError` if `size` is larger than `resize`.
    """
    if not 1 <= size <= resize:
        raise InputError(
            f"crop size {size}: should be from 1 to {resize}, to which the shorter side is resized"
        )
    image = without_far_ends(image)
    shape = image.shape[:2]
    height, width = (int(resize * side / min(shape)) for side in shape)
    resized = np.empty((height, width, 3), np.uint8)
    resized_crop(image, (0, 0, *shape), False, resized)
    top = round((height - size) / 2)
    left = round((width - size) / 2)
    square = resized[top : top + size, left : left + size]
    return square.copy()


def without_far_ends(image: np.ndarray, longest: int = 16) -> np.ndarray:
    """The middle of an image whose sides are over `longest` to one, so that resizing it cannot
    exhaust the memory.
    """
    limit = longest * min(image.shape[:2])
    top, left = (max(0, side - limit) // 2 for side in image.shape[:2])
    return image[top : top + limit, left : left + limit]


def train_crop(
    image: np.ndarray, size: int, uniforms: np.ndarray, scale: tuple[float, float] = (0.08, 1.0)
) -> np.ndarray:
    """`RandomResizedCrop` and a flip, decided by `BOX_UNIFORMS` numbers in [0, 1). Returns `(size,
    size, 3)` uint8.
    """
    out = np.empty((size, size, 3), np.uint8)
    height, width = np.array(image.shape[:2])[:, None]
    boxes = draw_boxes(View(size=size, scale=list(scale)), height, width, uniforms[None])
    resized_crop(image, boxes.box[0].tolist(), bool(boxes.flip[0]), out)
    return out
