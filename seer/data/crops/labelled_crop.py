"""One crop of each image with its class, as classifiers are trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seer.data.crops.multicrop import CropBatch, CropPlan, MultiCrop, View
from seer.data.views import LabelledImages


@dataclass(frozen=True)
class LabelledBatch(CropBatch):
    """What a worker sends: the crops, and `(B,)` int64 `labels`."""

    labels: Tensor

    def pin_memory(self, device: str | None = None) -> "LabelledBatch":
        pinned = super().pin_memory(device)
        return replace(
            self, crops=pinned.crops, index=pinned.index, labels=self.labels.pin_memory()
        )


class LabelledCrop:
    """A random part of each image, resized and mirrored as torchvision's `RandomResizedCrop` and
    flip; a `Cutter`.

    Args:
        labels: `(N,)` int64 class of each image by its id.
        size: side in pixels.
        scale: range of the part's share of the image's area.
        mean, std: of the channels, on the scale where white is 1.
        finish: normalise in the worker; otherwise on the device.
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
    ):
        view = View(size=size, count=1, scale=list(scale), jitter=0.0, grey=0.0, blur=0.0)
        self.labels = labels
        self.crops = MultiCrop({"crop": view}, seed, finish, mean, std)
        self.dtype = self.crops.dtype

    def shapes(self, count: int) -> list[tuple[int, ...]]:
        return self.crops.shapes(count)

    def plan(
        self, shapes: Sequence[tuple[int, int]], epochs: np.ndarray, ids: np.ndarray
    ) -> "LabelledPlan":
        return LabelledPlan(self.crops, shapes, epochs, ids, self.labels[ids])

    def finish(self, batch: Any, device: torch.device | str) -> LabelledImages:
        views = self.crops.finish(batch, device)
        return LabelledImages(
            views.crops[0][0], batch.labels.to(device, non_blocking=True), views.index
        )


class LabelledPlan(CropPlan):
    """The crops of B images, and their `(B,)` int64 labels."""

    def __init__(
        self,
        crops: MultiCrop,
        shapes: Sequence[tuple[int, int]],
        epochs: np.ndarray,
        ids: np.ndarray,
        labels: np.ndarray,
    ):
        super().__init__(crops, shapes, epochs, ids)
        self.labels = labels

    def batch(self) -> LabelledBatch:
        cut = super().batch()
        return LabelledBatch(cut.crops, cut.looks, cut.index, torch.from_numpy(self.labels))
