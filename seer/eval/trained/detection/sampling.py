"""Which anchors and proposals a loss compares."""

from typing import Any

import torch
from torch import Tensor


class Sampler:
    """torchvision's sampler of anchors or proposals, drawing from numbers of each image's own.

    Attributes:
        taken: how many have been drawn since `begin`; positive: how many of these are of objects.
    """

    def __init__(self, of: Any):
        self.size = of.batch_size_per_image
        self.share = of.positive_fraction
        self.seeds: list[int] = []
        self.taken = 0
        self.positive = 0

    def begin(self, seeds: Any) -> None:
        """What the next batch's images draw from."""
        self.seeds = (seeds >> 1).tolist()
        self.taken = 0
        self.positive = 0

    def __call__(self, matched: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of each image `(A,)` flags of the drawn positive (1 and above) and negative (0) ones."""
        chosen = [self._of_image(*pair) for pair in zip(matched, self.seeds, strict=True)]
        return [positive for positive, _ in chosen], [negative for _, negative in chosen]

    def _of_image(self, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        positive = torch.where(labels >= 1)[0]
        negative = torch.where(labels == 0)[0]
        most = min(len(positive), int(self.size * self.share))
        others = min(len(negative), self.size - most)
        self.positive += most
        self.taken += most + others
        return (
            _flags(labels, positive, most, generator),
            _flags(labels, negative, others, generator),
        )


def _flags(labels: Tensor, places: Tensor, count: int, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(places), generator=generator)[:count].to(places.device)
    flags = torch.zeros_like(labels, dtype=torch.uint8)
    flags[places[order]] = 1
    return flags
