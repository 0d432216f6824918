"""Maps of frozen stages, which are the same each time that an image comes in the same form: computed once,
as far as there is memory for them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from seer.eval.trained.detection.boxbatches import BoxBatch

GIB = 2**30

Key = tuple[bytes, int, int]  # what an image's pixels hash to, and the frame in which it lies


class KeptFeatures:
    """What frozen stages made of images, by their pixels: whatever alters these (a flip, another size)
    makes another image.

    What came first stays until the memory is full: of images that come once an epoch, each in turn, those that came
    last would be the last to come again.

    Args:
        memory: in GiB, of the host's.
    """

    def __init__(self, memory: float):
        self.room = int(memory * GIB)
        self._maps: dict[Key, list[Tensor]] = {}

    def of(self, batch: BoxBatch, compute: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
        """The maps `(B, C, H, W)` of a batch, each image's by itself: so they are the same bits whatever it
        is beside, and whether they were kept or are computed again.

        Args:
            compute: the maps of images `(B, 3, H, W)`.
        """
        frame = (batch.pixels.shape[2], batch.pixels.shape[3])
        images = batch.pixels.split(1)
        each = [
            self._of_image((digest, *frame), image, compute)
            for digest, image in zip(batch.digests, images, strict=True)
        ]
        return [torch.cat(level) for level in zip(*each, strict=True)]

    @torch.no_grad()
    def _of_image(
        self, key: Key, image: Tensor, compute: Callable[[Tensor], list[Tensor]]
    ) -> list[Tensor]:
        if key in self._maps:
            return [kept.to(image.device, non_blocking=True) for kept in self._maps[key]]
        maps = compute(image)
        needed = sum(level.nbytes for level in maps)
        if needed <= self.room:
            self.room -= needed
            self._maps[key] = [level.to("cpu", copy=True) for level in maps]
        return maps

    @property
    def images(self) -> int:
        """How many are kept, each form of one counted by itself."""
        return len(self._maps)
