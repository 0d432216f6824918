"""One crop of each image with its class, as classifiers are trained on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seer.data.crops.multicrop import CropBatch, CropPlan, MultiCrop, View
from seer.data.hashing import mix
from seer.data.members import Extras
from seer.data.views import LabelledImages, neighbours

MIXUP = 0x6D6978  # what is hashed for shares, and for nothing else

Still = Callable[[np.ndarray, int], np.ndarray]  # an image and a side S → `(S, S, 3)` uint8


@dataclass(frozen=True)
class LabelledBatch(CropBatch):
    """What a worker sends: the crops, `(B,)` int64 `labels`, and the `shares` of `LabelledImages`,
    whose pixels are still to be mixed.
    """

    labels: Tensor
    shares: Tensor | None = None

    def pin_memory(self, device: str | None = None) -> "LabelledBatch":
        pinned = super().pin_memory(device)
        return replace(
            self, crops=pinned.crops, index=pinned.index, labels=self.labels.pin_memory()
        )


class LabelledCrop:
    """A random part of each image, resized and mirrored as torchvision's `RandomResizedCrop` and
    flip, or the same part of it always; a `Cutter`.

    Args:
        labels: `(N,)` int64 class of each image by its id.
        size: side in pixels.
        scale: range of the part's share of the image's area.
        mean, std: of the channels, on the scale where white is 1.
        finish: normalise in the worker; otherwise on the device.
        still: cuts each image alike every time, in place of random parts and flips.
        mixup: α of the shares by which neighbours in a batch, of which there must be pairs, are mixed; 0 mixes none.
    """

    suffixes: tuple[str, ...] = ()

    def __init__(
        self,
        labels: np.ndarray,
        size: int,
        seed: int,
        scale: Sequence[float],
        mean: Sequence[float],
        std: Sequence[float],
        finish: bool = True,
        still: Still | None = None,
        mixup: float = 0.0,
    ):
        view = View(size=size, count=1, scale=list(scale), jitter=0.0, grey=0.0, blur=0.0)
        self.labels = labels
        self.crops = MultiCrop({"crop": view}, seed, finish, mean, std)
        self.dtype = self.crops.dtype
        self.still = still
        self.mixup = mixup

    def shapes(self, count: int) -> list[tuple[int, ...]]:
        return self.crops.shapes(count)

    def plan(
        self, shapes: Sequence[tuple[int, int]], epochs: np.ndarray, ids: np.ndarray
    ) -> "LabelledPlan":
        return LabelledPlan(self, shapes, epochs, ids)

    def finish(self, batch: Any, device: torch.device | str) -> LabelledImages:
        views = self.crops.finish(batch, device)
        labels = batch.labels.to(device, non_blocking=True)
        pixels = views.crops[0][0]
        if batch.shares is None:
            return LabelledImages(pixels, labels, views.index)
        shares = batch.shares.to(device, non_blocking=True)
        return LabelledImages(mixed(pixels, shares), labels, views.index, shares)


def mixed(pixels: Tensor, shares: Tensor) -> Tensor:
    """`(B, 3, S, S)` images, each with its neighbour in the share that is not its own."""
    own = shares.view(-1, 1, 1, 1)
    sums = own * pixels + (1 - own) * neighbours(pixels)
    return sums.contiguous(memory_format=torch.channels_last)


def draw_shares(alpha: float, seed: int, epochs: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """`(B,)` float32 shares that images have of their own pixels, drawn from Beta(α, α) once for each
    pair of neighbours.

    They depend on seed, epoch and sample alone, whatever batch a pair stands in. Both of a pair are
    seen, each mostly itself: with λ in place of 1 - λ the two would be the same images in each
    other's place. So the larger of both is taken, and a label is of most of its image.
    """
    keys = mix(seed, MIXUP, epochs[::2], ids[::2]).tolist()
    drawn = np.array([np.random.default_rng(key).beta(alpha, alpha) for key in keys])
    return np.repeat(np.maximum(drawn, 1 - drawn), 2).astype(np.float32)


class LabelledPlan(CropPlan):
    """The crops of B images, their labels, and by how much they will be mixed."""

    def __init__(
        self,
        cutter: LabelledCrop,
        shapes: Sequence[tuple[int, int]],
        epochs: np.ndarray,
        ids: np.ndarray,
    ):
        super().__init__(cutter.crops, shapes, epochs, ids)
        self.cutter = cutter
        if cutter.still:
            self.reductions = [1] * len(shapes)  # it may want every pixel

    def cut(self, b: int, image: np.ndarray, extras: Extras = ()) -> None:
        if self.cutter.still is None:
            super().cut(b, image, extras)
            return
        (work,) = self.work
        size = len(work.out[b])
        square = self.cutter.still(image, size)
        self._make(square, [0, 0, size, size], False, work.looks[b], work.out[b])

    def batch(self) -> LabelledBatch:
        cut = super().batch()
        shares = None
        if self.cutter.mixup:
            drawn = draw_shares(self.cutter.mixup, self.crops.seed, self.epochs, self.ids)
            shares = torch.from_numpy(drawn)
        labels = torch.from_numpy(self.cutter.labels[self.ids])
        return LabelledBatch(cut.crops, cut.looks, cut.index, labels, shares)
