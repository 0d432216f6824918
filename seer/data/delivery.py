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
from seer.data.members import Extras, Sample
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
        samples = self._read(step, ids)
        damaged = list[Damaged]()
        clock.lap("read")
        shapes = [shape(sample.image) for sample in samples]
        plan = self.cutter.plan(shapes, self.order.epoch(positions), ids)
        for i, sample in enumerate(samples):  # a batch of decoded photographs would be gigabytes
            position = int(positions[i])
            image, extras = self._decoded(
                position, int(ids[i]), sample, damaged, plan.reductions[i]
            )
            clock.lap("decode")
            plan.cut(i, image, extras)
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
        samples = self._read(step, ids)
        damaged = list[Damaged]()
        clock.lap("read")
        images: list[bytes | np.ndarray] = []
        extras = []
        for position, id, sample in zip(positions.tolist(), ids.tolist(), samples, strict=True):
            if size_of_plain(sample.image):
                images.append(sample.image)
                extras.append(sample.extras)
                continue
            image, members = self._decoded(position, id, sample, damaged)
            images.append(image)
            extras.append(members)
        clock.lap("decode")
        assert isinstance(self.cutter, MultiCrop)
        batch = encode(images, self.cutter, self.order.epoch(positions), ids, extras)
        return Delivery(batch, damaged, clock.seconds)

    def _read(self, step: int, ids: np.ndarray) -> list[Sample]:
        suffixes = self.cutter.suffixes
        return self.reader.read_step(ids, step, self.ids, self.stride, suffixes)

    def _decoded(
        self, position: int, id: int, sample: Sample, damaged: list[Damaged], reduction: int = 1
    ) -> tuple[np.ndarray, Extras]:
        """Image and other members of the sample, or of the one that replaces it, which is added to
        `damaged`.
        """
        try:
            return decode(sample.image, reduction=reduction), sample.extras
        except DamagedImage as damage:
            instead = self.reader.replacement(id, damage.reason, self.cutter.suffixes)
            damaged.append(Damaged(position, id, instead.id, damage.reason))
            return instead.image, instead.extras
