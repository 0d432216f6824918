"""What a loader hands to a learner: the crops of one batch, grouped by resolution, or labelled."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Views:
    """The crops of one batch on one rank.

    Attributes:
        crops: one tensor per resolution, largest first; each `(V, B, 3, S, S)` with V crops of each of B images,
            stored so that `crops.flatten(0, 1)` is a channels-last tensor without a copy.
        index: `(B,)` int64, the global sample id of each image (its place in the manifest's order).
    """

    crops: tuple[Tensor, ...]
    index: Tensor

    def to(self, *args: Any, **kwargs: Any) -> "Views":
        """Move or convert the crops (not the index's dtype)."""
        crops = tuple(c.to(*args, **kwargs) for c in self.crops)
        return replace(self, crops=crops, index=self.index.to(crops[0].device))

    def chunk(self, count: int) -> list["Views"]:
        """Cut along the batch into `count` equal parts."""
        if count == 1:
            return [self]
        crops = zip(*(group.chunk(count, dim=1) for group in self.crops), strict=True)
        indices = self.index.chunk(count)
        return [
            replace(self, crops=own, index=index) for own, index in zip(crops, indices, strict=True)
        ]


@dataclass(frozen=True)
class LabelledImages:
    """One crop of each image of a batch on one rank, with its class.

    Attributes:
        pixels: `(B, 3, S, S)`, normalised, channels last in memory.
        labels: `(B,)` int64; below 0 where there is no image, only its place.
        index: `(B,)` int64 sample ids.
        shares: `(B,)` float32, where images are mixed in pairs: how much of its pixels each place has of its own image;
            the rest is of its neighbour's (`neighbours`).
    """

    pixels: Tensor
    labels: Tensor
    index: Tensor
    shares: Tensor | None = None

    def to(self, *args: Any, **kwargs: Any) -> "LabelledImages":
        """Move or convert the pixels (of all else not the type)."""
        pixels = self.pixels.to(*args, **kwargs)
        return replace(
            self,
            pixels=pixels,
            labels=self.labels.to(pixels.device),
            index=self.index.to(pixels.device),
            shares=None if self.shares is None else self.shares.to(pixels.device),
        )

    def chunk(self, count: int) -> list["LabelledImages"]:
        """Cut along the batch into `count` equal parts."""
        parts = zip(
            self.pixels.chunk(count), self.labels.chunk(count), self.index.chunk(count), strict=True
        )
        shares = [None] * count if self.shares is None else self.shares.chunk(count)
        return [LabelledImages(*part, own) for part, own in zip(parts, shares, strict=True)]


def neighbours(rows: Tensor) -> Tensor:
    """`(B, …)`, B even, with the rows of every pair (0 and 1, 2 and 3, …) in each other's place."""
    return rows.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
