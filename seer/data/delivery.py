"""One step's batch of one rank: read, decode, crop. It is a pure function of the manifest, the
order and the step.
"""

import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from seer.data.crops.device import Encoded, encode, size_of_plain
from seer.data.crops.multicrop import MultiCrop
from seer.data.cutter import Cutter, Parcel, Samples
from seer.data.decoding.decode import DamagedImage, decode, shape
from seer.data.ledger import Damaged
from seer.data.order import OnePass, Order


class Clock:
    """Seconds by part of the work; each `lap` counts what has passed since the one before."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = now


class Delivery(NamedTuple):
    """One batch as a worker gives it, its damaged samples, and the seconds that each part of making
    it took.
    """

    batch: Parcel | Encoded
    damaged: list[Damaged]
    seconds: dict[str, float]


@dataclass(frozen=True)
class StepTask:
    """Step number → `Delivery` of this rank's batch. Picklable: it is what workers are sent."""

    reader: Samples
    order: Order | OnePass
    cutter: Cutter
    share: int
    rank: int
    world_size: int
    stride: int = 1  # between the steps of one worker
    encoded: bool = False  # JPEGs are sent as they are

    def positions(self, step: int) -> np.ndarray:
        """In the stream of samples."""
        return (step * self.world_size + self.rank) * self.share + np.arange(self.share)

    def ids(self, step: int) -> np.ndarray:
        return self.order.ids(int(self.positions(step)[0]), self.share)

    def __call__(self, step: int) -> Delivery:
        return self.send(step) if self.encoded else self.cut(step)

    def cut(self, step: int) -> Delivery:
        """The batch with its crops cut here."""
        clock = Clock()
        positions = self.positions(step)
        ids = self.ids(step)
        found = self.reader.read_step(ids, step, self.ids, self.stride)
        damaged = list[Damaged]()
        clock.lap("read")
        plan = self.cutter.plan([shape(data) for data in found], self.order.epoch(positions), ids)
        for i, data in enumerate(found):  # a batch of decoded photographs would be gigabytes
            image = self._decoded(int(positions[i]), int(ids[i]), data, damaged, plan.reductions[i])
            clock.lap("decode")
            plan.cut(i, image)
            clock.lap("crop")
        augmenting = {
            "augment": plan.augment_seconds,
            "crop": clock.seconds["crop"] - plan.augment_seconds,
        }
        return Delivery(plan.batch(), damaged, clock.seconds | augmenting)

    def send(self, step: int) -> Delivery:
        """The batch with its JPEGs as they are."""
        clock = Clock()
        positions = self.positions(step)
        ids = self.ids(step)
        found = self.reader.read_step(ids, step, self.ids, self.stride)
        damaged = list[Damaged]()
        clock.lap("read")
        images = [
            data if size_of_plain(data) else self._decoded(int(position), int(id), data, damaged)
            for position, id, data in zip(positions, ids, found, strict=True)
        ]
        clock.lap("decode")
        assert isinstance(self.cutter, MultiCrop)
        return Delivery(
            encode(images, self.cutter, self.order.epoch(positions), ids), damaged, clock.seconds
        )

    def _decoded(
        self, position: int, id: int, data: bytes, damaged: list[Damaged], reduction: int = 1
    ) -> np.ndarray:
        """The image, or the one that replaces it, which is added to `damaged`."""
        try:
            return decode(data, reduction=reduction)
        except DamagedImage as damage:
            image, replacement = self.reader.replacement(id, damage.reason)
            damaged.append(Damaged(position, id, replacement, damage.reason))
            return image
