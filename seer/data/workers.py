"""Who makes the batches: the trainer itself, threads, or processes. None of them changes what is in
a batch.
"""

import atexit
import os
import signal
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from multiprocessing.util import Finalize
from threading import Thread
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from seer import forkserver
from seer.data.crops.arena import Arena, Lease, Shape, arena_bytes
from seer.data.delivery import Delivery, StepTask
from seer.errors import InputError

# Of a worker's batches as many may be under way as it is given tasks, one in the trainer's hands
# and one before it.
BEYOND_PREFETCH = 2
SMALL_TENSORS = 2**20  # bytes of shared memory for numbers that travel with a rank's batches


class Need(NamedTuple):
    """Bytes of memory for one rank's batches, from their making to their use: `shared` lies under
    /dev/shm.
    """

    shared: int
    private: int

    @property
    def total(self) -> int:
        return self.shared + self.private


def memory_needed(
    mode: str,
    workers: int,
    prefetch: int,
    shapes: Sequence[Shape],
    dtype: type,
    encoded_bytes: int = 0,
) -> Need:
    """What the batches of `inline`, `threads` or `processes` take at most.

    Args:
        mode, workers, prefetch: as in `LoaderConfig`.
        shapes, dtype: of a batch's crops.
        encoded_bytes: of a batch that is sent encoded, instead of crops; 0 if none is.
    """
    crops = arena_bytes(1, 1, shapes, dtype)
    if workers == 0:
        return Need(0, BEYOND_PREFETCH * (encoded_bytes or crops))
    if mode == "threads":
        return Need(0, (workers * prefetch + BEYOND_PREFETCH) * (encoded_bytes or crops))
    if encoded_bytes:
        return Need((workers * prefetch + BEYOND_PREFETCH) * encoded_bytes + SMALL_TENSORS, 0)
    return Need(arena_bytes(workers, prefetch + BEYOND_PREFETCH, shapes, dtype) + SMALL_TENSORS, 0)


def inline(
    task: StepTask, steps: Sequence[int], workers: int, prefetch: int, device: torch.device
) -> Generator[Any]:
    """Make each batch when it is asked for."""
    for step in steps:
        yield task(step)


def threads(
    task: StepTask, steps: Sequence[int], workers: int, prefetch: int, device: torch.device
) -> Generator[Any]:
    """Make batches in threads of this process, `prefetch` per thread ahead."""
    with ThreadPoolExecutor(workers, thread_name_prefix="seer-loader") as pool:
        pending: deque[Future] = deque()
        try:
            for step in steps:
                pending.append(pool.submit(task, step))
                if len(pending) > workers * prefetch:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def processes(
    task: StepTask, steps: Sequence[int], workers: int, prefetch: int, device: torch.device
) -> Generator[Any]:
    """Make batches in processes; tensors come back through shared memory."""
    shapes = task.cutter.shapes(task.share)
    arena = (
        None
        if task.encoded
        else Arena(workers, prefetch + BEYOND_PREFETCH, shapes, task.cutter.dtype)
    )
    with warnings.catch_warnings():
        # Of more workers than cores the run tells in a line of its own.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader = DataLoader(
            _Steps(task, arena),
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            prefetch_factor=prefetch,
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
                yield result.open() if isinstance(result, Leased) else result
        except (ConnectionError, EOFError, FileNotFoundError, RuntimeError) as error:
            told = str(error)
            raised_by_task = "in DataLoader worker" in told
            if raised_by_task or (
                isinstance(error, RuntimeError) and "exited unexpectedly" not in told
            ):
                raise
            hint = "most often memory or /dev/shm ran out: use fewer loader.workers or less loader.prefetch"
            raise RuntimeError(
                f"a loader worker died ({told or type(error).__name__}); {hint}"
            ) from error


MODES = {"processes": processes, "threads": threads}


class _Steps(Dataset):
    """The steps as a map-style data set. The user's errors travel as values, and so arrive as they
    were raised.
    """

    def __init__(self, task: StepTask, arena: Arena | None):
        self.task = task
        self.arena = arena

    def __getitem__(self, step: int) -> Any:
        try:
            delivery = self.task(step)
        except InputError as error:
            return error
        lease = self.arena.lease if self.arena else None
        return delivery if lease is None else Leased(_with_crops(delivery, ()), lease)


@dataclass(frozen=True)
class Leased:
    """A delivery on its way to the trainer, its crops in shared memory."""

    delivery: Delivery
    lease: Lease

    def open(self) -> Delivery:
        arrays = (torch.from_numpy(array) for array in self.lease.open())
        count = len(self.delivery.batch.index)
        return _with_crops(
            self.delivery, tuple(array.unflatten(0, (-1, count)) for array in arrays)
        )

    def pin_memory(self, device: str | None = None) -> Delivery:
        """What the trainer gets instead where memory is pinned; torch's DataLoader calls this by
        name.
        """
        opened = self.open()
        return opened._replace(batch=opened.batch.pin_memory(device))


def _with_crops(delivery: Delivery, crops: tuple[torch.Tensor, ...]) -> Delivery:
    batch: Any = delivery.batch
    return delivery._replace(batch=replace(batch, crops=crops))


@contextmanager
def _end_of(shut_down: Callable[[], None]) -> Iterator[None]:
    """Shut the workers down after the block, or at exit from within it.

    Garbage collection would do so, but late where a traceback is kept. At exit, multiprocessing
    would send a signal that workers are shielded from, and wait for ever. A trainer that is itself
    a child process has no `atexit` but finalizers, and this one must precede those of queues
    (priority 10).
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
    # Again, where another has started the server.
    signal.pthread_sigmask(signal.SIG_BLOCK, forkserver.SHIELDED)
    torch.set_num_threads(1)
    info = get_worker_info()
    assert info is not None
    if isinstance(info.dataset, _Steps) and info.dataset.arena:
        info.dataset.arena.serve(worker)
    Thread(target=_end_with_trainer, daemon=True).start()


def _end_with_trainer() -> None:
    """However the trainer ends. Torch's own watch looks at the parent process, which here is the
    server.
    """
    trainer = parent_process()
    assert trainer is not None
    trainer.join()
    os._exit(1)


def _unchanged(item: Any) -> Any:
    return item
