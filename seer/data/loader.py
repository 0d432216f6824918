"""From stream positions to finished batches: a rank's share of every batch, made ahead by workers.

The batch of a step is a pure function of the manifest, the order and the step. Workers only decide
how soon it is there, so a run continues at any step, with any number of workers and any world size
that divides the global batch.
"""

import time
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Generic, NamedTuple

import numpy as np
import torch

from seer.data import ledger
from seer.data.ahead import LANES, one_ahead
from seer.data.crops.device import Encoded, cut
from seer.data.crops.multicrop import MultiCrop
from seer.data.cutter import Cutter, Made, Parcel, Samples
from seer.data.delivery import Clock, Delivery, StepTask
from seer.data.ledger import Damaged
from seer.data.options import LoaderConfig
from seer.data.order import OnePass, Order
from seer.data.storage.index import Manifest
from seer.data.storage.reader import Reader
from seer.data.workers import MODES, inline
from seer.errors import InputError
from seer.schema import check_options


class Awaited(NamedTuple):
    """A delivery, and the seconds that passed until it was there."""

    step: int
    delivery: Delivery
    seconds: float


class Prepared(NamedTuple, Generic[Made]):
    """A batch on the device, its `(B,)` ids, what was damaged, and what `Loader` says of it when it
    is handed out.
    """

    made: Made
    ids: np.ndarray
    damaged: list[Damaged]
    delivery_wait: float
    seconds: dict[str, float]


class Loader(Generic[Made]):
    """One rank's share of every global batch.

    Attributes:
        name, identity, samples: of the data: where they lie, what they hash to, how many images they are.
        wait_seconds: how long the consumer waited for the latest batch.
        work_seconds: how long its parts took: `read`, `decode`, `crop`, `augment` in a worker, and `finish`, what was
            left for the device.
        seen: fingerprint of all samples that this rank has delivered so far (`ledger.fingerprint`).
        replaced: how many damaged samples have been replaced so far by the next good one of their shard. A
            replacement keeps the id of the sample it stands for.
    """

    def __init__(
        self,
        source: Samples | Manifest,
        order: Order,
        cutter: Cutter[Made],
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        config: LoaderConfig | None = None,
        device: torch.device | str = "cpu",
        run_dir: Path | None = None,
    ):
        self.config = config or LoaderConfig()
        if batch_size % world_size:
            raise InputError(
                f"batch_size={batch_size} is no multiple of the {world_size} processes; change either"
            )
        check_options(self.config, "loader")
        if self.config.device_decode and not (
            isinstance(cutter, MultiCrop) and not cutter.finished
        ):
            raise InputError(
                "loader.device_decode=true needs loader.device_augment=true; change either"
            )
        self.reader = Reader(source) if isinstance(source, Manifest) else source
        self.name = self.reader.name
        self.identity = self.reader.identity
        self.samples = len(self.reader)
        self.order, self.cutter, self.device = order, cutter, torch.device(device)
        self.task = StepTask(
            self.reader,
            order,
            cutter,
            share=batch_size // world_size,
            rank=rank,
            world_size=world_size,
            stride=max(1, self.config.workers),
            encoded=self.config.device_decode,
        )
        make_lane = LANES.get(self.device.type)
        self._lane = make_lane(self.device) if make_lane else None
        self.rank, self.run_dir = rank, run_dir
        self.wait_seconds = 0.0
        self.work_seconds: dict[str, float] = {}
        self.replaced = 0
        self.seen = 0

    def iterate(
        self, start_step: int, stop_step: int, skipped: Collection[int] = ()
    ) -> Iterator[Made]:
        """The batches of steps start_step … stop_step - 1, on the device. Closing the iterator ends
        the workers.

        Steps in `skipped` are passed over. Damaged samples are entered in the ledger of `run_dir`,
        if there is one.
        """
        # No list of them: there may be a hundred million.
        steps: Sequence[int] = range(start_step, stop_step)
        if skipped:
            steps = [step for step in steps if step not in skipped]
        results = self._deliveries(self.task, steps)
        batches = one_ahead(_awaited(results, steps), self._prepared, self._lane)
        try:
            for step, (batch, waited) in zip(steps, batches, strict=True):
                self.wait_seconds = batch.delivery_wait + waited
                self.work_seconds = batch.seconds
                self.replaced += len(batch.damaged)
                if batch.damaged and self.run_dir:
                    ledger.write(self.run_dir, self.rank, batch.damaged)
                self.seen = (
                    self.seen + int(ledger.fingerprint(step, batch.ids).sum())
                ) % ledger.MODULUS
                yield batch.made
        finally:
            batches.close()
            results.close()

    def survey(self, epoch: int) -> Iterator[Made]:
        """Every sample once, cut and in the order as in this epoch; of which no count and no ledger
        knows.

        All ranks have equally many batches, and these are full: the first samples of the pass come
        once more at its end, where there are too few. While it lasts it takes the memory of a
        loader of its own.
        """
        task = replace(self.task, order=OnePass(self.order, epoch))
        steps = range(-(-self.samples // (task.share * task.world_size)))
        results = self._deliveries(task, steps)
        try:
            for step in steps:
                batch, _ = self._decoded(task, step, next(results))
                yield self.cutter.finish(batch, self.device)
        finally:
            results.close()

    def _deliveries(self, task: StepTask, steps: Sequence[int]) -> Generator[Delivery]:
        make = MODES[self.config.mode] if self.config.workers else inline
        return make(task, steps, self.config.workers, self.config.prefetch, self.device)

    def _prepared(self, awaited: "Awaited") -> "Prepared[Made]":
        """The batch on the device, with what is to be counted when it is handed out."""
        step, delivery, wait = awaited
        clock = Clock()
        batch, damaged = self._decoded(self.task, step, delivery)
        ids = batch.index.numpy()
        made = self.cutter.finish(batch, self.device)
        clock.lap("finish")
        return Prepared(made, ids, damaged, wait, delivery.seconds | clock.seconds)

    def _decoded(
        self, task: StepTask, step: int, delivery: Delivery
    ) -> tuple[Parcel, list[Damaged]]:
        """What was sent encoded is decoded on the device; if something there is damaged, all of it
        once more, here.
        """
        if isinstance(delivery.batch, Encoded):
            try:
                assert isinstance(self.cutter, MultiCrop)
                return cut(delivery.batch, self.cutter, self.device), delivery.damaged
            except RuntimeError:
                delivery = task.cut(step)
        assert not isinstance(delivery.batch, Encoded)
        return delivery.batch, delivery.damaged


def _awaited(results: Iterator[Delivery], steps: Sequence[int]) -> Iterator[Awaited]:
    for step in steps:
        began = time.perf_counter()
        delivery = next(results)
        yield Awaited(step, delivery, time.perf_counter() - began)
