"""Work spread over processes that never outlive the one that started them."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from itertools import chain, islice, repeat
from multiprocessing import connection, get_context, parent_process
from queue import Empty, Full
from typing import Any, TypeVar

from seer.errors import LostWorkerError

Task = TypeVar("Task")
Result = TypeVar("Result")
Tick = Callable[[int], Any]  # called with the number of samples just finished


class _Shared:
    """What the processes share: how many samples are finished, whether to stop, and a queue of
    tasks.

    The parent reads and writes without the lock of the counter, which a worker that was killed may
    hold for ever.
    """

    def __init__(self, context: Any, workers: int):
        self.finished = context.Value("q", 0)
        self.stop = context.RawValue("b", 0)
        self.tasks = context.Queue(workers)

    @property
    def count(self) -> int:
        """Samples finished."""
        return self.finished.get_obj().value

    def add(self, count: int) -> None:
        """Enter samples that a worker has finished."""
        with self.finished.get_lock():
            self.finished.get_obj().value += count


_END = "end"
_shared: Any = None  # in a worker: what it shares with its parent and the other workers


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    function: Callable[[Task, Tick], Result],
    tasks: Iterable[Task],
    workers: int,
    tick: Tick = lambda count: None,
) -> Iterator[Result]:
    """Results of `function(task, tick)` as they come, from `workers` processes, or from this one
    when `workers` is 1.

    Tasks are drawn as they are needed, so that a long list of them need not exist. The first
    exception ends the run.
    """
    if workers <= 1:
        yield from (function(task, tick) for task in tasks)
        return
    tasks = iter(tasks)
    seen = 0
    with _processes(workers) as (pool, shared):
        pending = {pool.submit(_call, function, task) for task in islice(tasks, 2 * workers)}
        while pending:
            done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            now = shared.count
            tick(now - seen)
            seen = now
            for future in done:
                yield future.result()
                pending |= {pool.submit(_call, function, task) for task in islice(tasks, 1)}


def share(
    function: Callable[[Iterator[Task | None], Tick], Any],
    tasks: Iterable[Task],
    workers: int,
    tick: Tick,
) -> None:
    """Run `function(tasks, tick)` in each of `workers` processes, or here when that is 1; they
    share the tasks.

    So a process may have several tasks under way. Where the iterator gives None there is no task
    just now. Tasks are drawn as they are needed; the first exception ends the run.
    """
    if workers <= 1:
        function(iter(tasks), tick)
        return
    feed = chain(tasks, repeat(_END, workers))
    seen = 0
    with _processes(workers) as (pool, shared):
        pending = {pool.submit(_drain, function) for _ in range(workers)}
        item = next(feed, None)
        while pending:
            with suppress(Full):
                while item is not None:
                    shared.tasks.put(item, timeout=0.2)
                    item = next(feed, None)
            done, pending = wait(
                pending, timeout=0.2 if item is None else 0, return_when=FIRST_COMPLETED
            )
            now = shared.count
            tick(now - seen)
            seen = now
            for future in done:
                future.result()


@contextmanager
def _processes(workers: int) -> Iterator[tuple[ProcessPoolExecutor, _Shared]]:
    """The pool, and what is shared with its processes. Raises LostWorkerError when one of them is
    killed.
    """
    # Spawned, not forked: threads and locks of the parent stay out, and so do its open files (the
    # build's lock).
    context = get_context("spawn")
    shared = _Shared(context, workers)
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(shared,)) as pool:
        try:
            yield pool, shared
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            shared.stop.value = 1
            shared.tasks.cancel_join_thread()
            if isinstance(error, BrokenProcessPool):
                raise LostWorkerError(
                    "a worker process was killed (by hand, or by the system because memory was short); run the same "
                    f"command again to continue, with fewer than {workers} --workers if memory was short"
                ) from None
            raise


def ahead(
    pool: Executor, function: Callable[[Task], Result], items: Iterable[Task], depth: int
) -> Iterator[Result]:
    """Results of `function(item)` in order, with at most `depth` of them under way or waiting."""
    queue: deque = deque()
    for item in items:
        queue.append(pool.submit(function, item))
        if len(queue) >= depth:
            yield queue.popleft().result()
    while queue:
        yield queue.popleft().result()


def _start(shared: _Shared) -> None:
    import signal

    import cv2

    global _shared
    _shared = shared
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and says so once
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _call(function: Callable[[Task, Tick], Result], task: Task) -> Result:
    return function(task, _tick)


def _drain(function: Callable[[Iterator[Task | None], Tick], Any]) -> None:
    function(_drawn(), _tick)


def _drawn() -> Iterator[Any]:
    while True:
        try:
            task = _shared.tasks.get(timeout=0.01)
        except Empty:
            _tick(0)
            yield None
            continue
        if task == _END:
            return
        yield task


def _tick(count: int) -> None:
    if _shared.stop.value:
        raise SystemExit("stopped")
    _shared.add(count)
