"""Batches of a detector: whole images with their objects, side by side in one tensor."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class BoxBatch:
    """Images of a batch on one rank, and their objects.

    Attributes:
        pixels: `(B, 3, H, W)`, normalised, each image in its upper left corner and zeros besides, channels last.
        sizes: height and width of each image in there.
        boxes: of each image `(n, 4)` x, y of two corners in these pixels; labels: `(n,)` int64 from 1, 0 being none.
        masks: of each image `(n, h, w)` uint8; None where masks are not asked for.
        index: `(B,)` int64 sample ids.
        digests: what each image's pixels hash to, where features are kept.
    """

    pixels: Tensor
    sizes: tuple[tuple[int, int], ...]
    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    masks: tuple[Tensor, ...] | None
    index: Tensor
    digests: tuple[bytes, ...] = ()

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
                self.digests[part],
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
    digests: tuple[bytes, ...] = ()
    frame: tuple[int, int] = (0, 0)
    crops: tuple[Tensor, ...] = ()

    def pin_memory(self, device: str | None = None) -> Self:
        return replace(self, images=tuple(image.pin_memory() for image in self.images))


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
