"""From stream positions to finished views: read, decode, crop in workers; one step is one task.

The batch of a step is a pure function of the manifest, the order and the step. Workers only decide how soon it is
there, so a run continues at any step, with any number of workers and any world size that divides the global batch.
"""

import atexit
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from multiprocessing.util import Finalize
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from seer import forkserver
from seer.data import ledger
from seer.data.crops import Batch, MultiCrop
from seer.data.decode import DamagedImage, decode, shape
from seer.data.device import Encoded, cut, encode, size_of_plain
from seer.data.index import Manifest
from seer.data.ledger import Damaged
from seer.data.memory import Arena, Lease
from seer.data.order import Order
from seer.data.reader import Reader
from seer.data.remote import FetchConfig
from seer.data.views import Views
from seer.errors import InputError, nearest


@dataclass
class LoaderConfig(FetchConfig):
    """How batches are made ready. Only `lanes` and `window` decide what is in them.

    Attributes (and those of `FetchConfig`):
        workers: processes or threads per rank; 0 makes each batch when it is asked for.
        mode: `processes`, or `threads` (they share the trainer's interpreter: only for images that decode slowly).
        prefetch: batches made ahead per worker.
        device_augment: colour, blur and normalisation on the accelerator instead of in the workers.
        device_decode: JPEGs decoded and cropped on the accelerator as well (`device_augment` must be on).
        lanes: places of the data read side by side; 0 is the global batch.
        window: how many successive samples of a lane are mixed.
    """

    workers: int = 2
    mode: str = "processes"
    prefetch: int = 2
    device_augment: bool = False
    device_decode: bool = False
    lanes: int = 0
    window: int = 256


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
    """One batch as a worker gives it, its damaged samples, and the seconds that each part of making it took."""

    batch: "Batch | Encoded | Leased"
    damaged: list[Damaged]
    seconds: dict[str, float]


class Loader:
    """One rank's share of every global batch.

    Attributes:
        wait_seconds: how long the consumer waited for the latest batch.
        work_seconds: how long its parts took: `read`, `decode`, `crop`, `augment` in a worker, and `finish`, what was
            left for the device.
        seen: fingerprint of all samples that this rank has delivered so far (`ledger.fingerprint`).
        replaced: how many damaged samples have been replaced so far by the next good one of their shard. A
            replacement keeps the id of the sample it stands for.
    """

    def __init__(
        self,
        source: Reader | Manifest,
        order: Order,
        crops: MultiCrop,
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
            raise InputError(f"batch_size={batch_size} is no multiple of the {world_size} processes; change either")
        if self.config.mode not in MODES:
            raise InputError(f"loader mode '{self.config.mode}' is unknown{nearest(self.config.mode, MODES)}")
        if self.config.workers < 0 or self.config.prefetch < 1:
            raise InputError("the loader needs workers >= 0 and prefetch >= 1; change the config")
        if self.config.device_decode and crops.finished:
            raise InputError("loader.device_decode=true needs loader.device_augment=true; change either")
        self.reader = source if isinstance(source, Reader) else Reader(source)
        self.order, self.crops, self.device = order, crops, torch.device(device)
        stride = max(1, self.config.workers)
        share, encoded = batch_size // world_size, self.config.device_decode
        self.task = StepTask(self.reader, order, crops, share, rank, world_size, stride, encoded)
        self.rank, self.run_dir = rank, run_dir
        self.wait_seconds = 0.0
        self.work_seconds: dict[str, float] = {}
        self.replaced = 0
        self.seen = 0

    def iterate(self, start_step: int, stop_step: int, skipped: Collection[int] = ()) -> Iterator[Views]:
        """The views of steps start_step … stop_step - 1, on the device. Closing the iterator ends the workers.

        Steps in `skipped` are passed over. Damaged samples are entered in the ledger of `run_dir`, if there is one.
        """
        make = MODES[self.config.mode] if self.config.workers else inline
        steps = [step for step in range(start_step, stop_step) if step not in skipped]
        results = make(self.task, steps, self.config, self.device)
        try:
            for step in steps:
                began = time.perf_counter()
                delivery = next(results)
                clock = Clock()
                self.wait_seconds = time.perf_counter() - began
                batch, damaged = self._decoded(step, delivery)
                self.replaced += len(damaged)
                if damaged and self.run_dir:
                    ledger.write(self.run_dir, self.rank, damaged)
                self.seen = (self.seen + int(ledger.fingerprint(step, batch.index.numpy()).sum())) % ledger.MODULUS
                views = self.crops.finish(batch, self.device)
                clock.lap("finish")
                self.work_seconds = delivery.seconds | clock.seconds
                yield views
        finally:
            results.close()

    def _decoded(self, step: int, delivery: Delivery) -> tuple[Batch, list[Damaged]]:
        """What was sent encoded is decoded on the device; if something there is damaged, all of it once more, here."""
        if isinstance(delivery.batch, Encoded):
            try:
                return cut(delivery.batch, self.crops, self.device), delivery.damaged
            except RuntimeError:
                delivery = self.task.cut(step)
        assert isinstance(delivery.batch, Batch)
        return delivery.batch, delivery.damaged


@dataclass(frozen=True)
class StepTask:
    """Step number → `Delivery` of this rank's batch. Picklable: it is what workers are sent."""

    reader: Reader
    order: Order
    crops: MultiCrop
    share: int
    rank: int
    world_size: int
    stride: int = 1  # between the steps of one worker
    encoded: bool = False  # JPEGs are sent as they are

    def positions(self, step: int) -> np.ndarray:
        return (step * self.world_size + self.rank) * self.share + np.arange(self.share)

    def ids(self, step: int) -> np.ndarray:
        return self.order.ids(int(self.positions(step)[0]), self.share)

    def __call__(self, step: int) -> Delivery:
        return self.send(step) if self.encoded else self.cut(step)

    def cut(self, step: int) -> Delivery:
        """The batch with its crops cut here."""
        clock = Clock()
        positions, ids = self.positions(step), self.ids(step)
        found, damaged = self.reader.read_step(ids, step, self.ids, self.stride), list[Damaged]()
        clock.lap("read")
        plan = self.crops.plan([shape(data) for data in found], self.order.epoch(positions), ids)
        for i, data in enumerate(found):  # a batch of decoded photographs would be gigabytes
            image = self._decoded(int(positions[i]), int(ids[i]), data, damaged, plan.reductions[i])
            clock.lap("decode")
            plan.cut(i, image)
            clock.lap("crop")
        augmenting = {"augment": plan.augment_seconds, "crop": clock.seconds["crop"] - plan.augment_seconds}
        return Delivery(plan.batch(), damaged, clock.seconds | augmenting)

    def send(self, step: int) -> Delivery:
        """The batch with its JPEGs as they are."""
        clock = Clock()
        positions, ids = self.positions(step), self.ids(step)
        found, damaged = self.reader.read_step(ids, step, self.ids, self.stride), list[Damaged]()
        clock.lap("read")
        images = [
            data if size_of_plain(data) else self._decoded(int(position), int(id), data, damaged)
            for position, id, data in zip(positions, ids, found, strict=True)
        ]
        clock.lap("decode")
        return Delivery(encode(images, self.crops, self.order.epoch(positions), ids), damaged, clock.seconds)

    def _decoded(self, position: int, id: int, data: bytes, damaged: list[Damaged], reduction: int = 1) -> np.ndarray:
        """The image, or the one that replaces it, which is added to `damaged`."""
        try:
            return decode(data, reduction=reduction)
        except DamagedImage as damage:
            image, replacement = self._replacement(id)
            damaged.append(Damaged(position, id, replacement, damage.reason))
            return image

    def _replacement(self, damaged: int) -> tuple[np.ndarray, int]:
        """The next good sample of the shard, and its id: the same one in every run, on every rank."""
        sample = self.reader.next_in_shard(damaged)
        while sample != damaged:
            try:
                return decode(self.reader.read(np.array([sample]))[0]), sample
            except DamagedImage:
                sample = self.reader.next_in_shard(sample)
        shard = self.reader.manifest.shards[int(self.reader.locate(np.array([damaged]))[0][0])]
        raise InputError(
            f"{self.reader.manifest.directory / shard} has no readable image left; "
            f"run: seer shards verify {self.reader.manifest.directory}"
        )


def inline(task: StepTask, steps: Sequence[int], config: LoaderConfig, device: torch.device) -> Generator[Any]:
    """Make each batch when it is asked for."""
    for step in steps:
        yield task(step)


def threads(task: StepTask, steps: Sequence[int], config: LoaderConfig, device: torch.device) -> Generator[Any]:
    """Make batches in threads of this process, `prefetch` per thread ahead."""
    with ThreadPoolExecutor(config.workers, thread_name_prefix="seer-loader") as pool:
        pending: deque[Future] = deque()
        try:
            for step in steps:
                pending.append(pool.submit(task, step))
                if len(pending) > config.workers * config.prefetch:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def processes(task: StepTask, steps: Sequence[int], config: LoaderConfig, device: torch.device) -> Generator[Any]:
    """Make batches in processes; tensors come back through shared memory."""
    # Of a worker's batches as many may be under way as it is given tasks, one in the trainer's hands and one before it.
    crops = task.crops.shapes(task.share), task.crops.dtype
    arena = None if task.encoded else Arena(config.workers, config.prefetch + 2, *crops)
    loader = DataLoader(
        _Steps(task, arena),
        batch_size=None,
        sampler=steps,
        num_workers=config.workers,
        prefetch_factor=config.prefetch,
        collate_fn=_unchanged,
        worker_init_fn=_start_worker,
        multiprocessing_context=forkserver.start(forkserver.LOADING),
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else it would draw from the trainer's random numbers
    )
    results: Any = iter(loader)

    def shut_down() -> None:
        results._shutdown_workers()
        for worker in results._workers:
            worker.kill()  # one that waits for a store has not ended within torch's seconds, and is shielded
            worker.join()

    with _end_of(shut_down):
        try:
            for result in results:
                if isinstance(result, InputError):
                    raise result
                yield result._replace(batch=result.batch.open()) if isinstance(result.batch, Leased) else result
        except (ConnectionError, EOFError, FileNotFoundError, RuntimeError) as error:
            told = str(error)
            raised_by_task = "in DataLoader worker" in told
            if raised_by_task or (isinstance(error, RuntimeError) and "exited unexpectedly" not in told):
                raise
            hint = "most often memory or /dev/shm ran out: use fewer loader.workers or less loader.prefetch"
            raise RuntimeError(f"a loader worker died ({told or type(error).__name__}); {hint}") from error


MODES = {"processes": processes, "threads": threads}


class _Steps(Dataset):
    """The steps as a map-style data set. The user's errors travel as values, and so arrive as they were raised."""

    def __init__(self, task: StepTask, arena: Arena | None):
        self.task, self.arena = task, arena

    def __getitem__(self, step: int) -> Any:
        try:
            delivery = self.task(step)
        except InputError as error:
            return error
        if self.arena is None or self.arena.lease is None:
            return delivery
        assert isinstance(delivery.batch, Batch)
        return delivery._replace(batch=Leased(replace(delivery.batch, crops=()), self.arena.lease))


@dataclass(frozen=True)
class Leased:
    """A batch on its way to the trainer, its crops in shared memory."""

    batch: Batch
    lease: Lease

    def open(self) -> Batch:
        crops = (torch.from_numpy(array).unflatten(0, (-1, len(self.batch.index))) for array in self.lease.open())
        return replace(self.batch, crops=tuple(crops))

    def pin_memory(self, device: str | None = None) -> Batch:
        """What the trainer gets instead where memory is pinned; torch's DataLoader calls this by name."""
        return self.open().pin_memory(device)


@contextmanager
def _end_of(shut_down: Callable[[], None]) -> Iterator[None]:
    """Shut the workers down after the block, or at exit from within it.

    Garbage collection would do so, but late where a traceback is kept. At exit, multiprocessing would send a signal
    that workers are shielded from, and wait for ever. A trainer that is itself a child process has no `atexit` but
    finalizers, and this one must precede those of queues (priority 10).
    """
    atexit.register(shut_down)
    finalizer = Finalize(None, shut_down, exitpriority=20)
    try:
        yield
    finally:
        shut_down()
        atexit.unregister(shut_down)
        finalizer.cancel()


def _start_worker(worker: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, forkserver.SHIELDED)  # again, where another has started the server
    torch.set_num_threads(1)
    info = get_worker_info()
    assert info is not None
    if isinstance(info.dataset, _Steps) and info.dataset.arena:
        info.dataset.arena.serve(worker)
    Thread(target=_end_with_trainer, daemon=True).start()


def _end_with_trainer() -> None:
    """However the trainer ends. Torch's own watch looks at the parent process, which here is the server."""
    trainer = parent_process()
    assert trainer is not None
    trainer.join()
    os._exit(1)


def _unchanged(item: Any) -> Any:
    return item
