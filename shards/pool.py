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

Task = TypeVar("Task")
Result = TypeVar("Result")
Tick = Callable[[int], Any]  # called with the number of samples just finished

_STOP, _END = -(1 << 62), "end"
_finished: Any = None  # in a worker: the counter it shares with its parent; far below zero asks the worker to stop
_tasks: Any = None  # in a worker: the queue of tasks that all share


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    function: Callable[[Task, Tick], Result], tasks: Iterable[Task], workers: int, tick: Tick = lambda count: None
) -> Iterator[Result]:
    """Results of `function(task, tick)` as they come, from `workers` processes, or from this one when `workers` is 1.

    Tasks are drawn as they are needed, so that a long list of them need not exist. The first exception ends the run.
    """
    if workers <= 1:
        yield from (function(task, tick) for task in tasks)
        return
    tasks, seen = iter(tasks), 0
    with _processes(workers) as (pool, counter, _):
        pending = {pool.submit(_call, function, task) for task in islice(tasks, 2 * workers)}
        while pending:
            done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            now = counter.value
            tick(now - seen)
            seen = now
            for future in done:
                yield future.result()
                pending |= {pool.submit(_call, function, task) for task in islice(tasks, 1)}


def share(
    function: Callable[[Iterator[Task | None], Tick], Any], tasks: Iterable[Task], workers: int, tick: Tick
) -> None:
    """Run `function(tasks, tick)` in each of `workers` processes, or here when that is 1; they share the tasks.

    So a process may have several tasks under way. Where the iterator gives None there is no task just now. Tasks are
    drawn as they are needed; the first exception ends the run.
    """
    if workers <= 1:
        function(iter(tasks), tick)
        return
    feed, seen = chain(tasks, repeat(_END, workers)), 0
    with _processes(workers) as (pool, counter, queue):
        pending = {pool.submit(_drain, function) for _ in range(workers)}
        item = next(feed, None)
        while pending:
            with suppress(Full):
                while item is not None:
                    queue.put(item, timeout=0.2)
                    item = next(feed, None)
            done, pending = wait(pending, timeout=0.2 if item is None else 0, return_when=FIRST_COMPLETED)
            now = counter.value
            tick(now - seen)
            seen = now
            for future in done:
                future.result()


@contextmanager
def _processes(workers: int) -> Iterator[tuple[ProcessPoolExecutor, Any, Any]]:
    """The pool, the counter of finished samples and a queue, both shared with the processes."""
    # Spawned, not forked: threads and locks of the parent stay out, and so do its open files (the build's lock).
    context = get_context("spawn")
    counter, queue = context.Value("q", 0), context.Queue(workers)
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(counter, queue)) as pool:
        try:
            yield pool, counter, queue
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            counter.value = _STOP
            queue.cancel_join_thread()
            if isinstance(error, BrokenProcessPool):
                raise ChildProcessError(
                    "a worker process was killed (out of memory?); run the same command again, perhaps with fewer "
                    "workers"
                ) from None
            raise


def ahead(pool: Executor, function: Callable[[Task], Result], items: Iterable[Task], depth: int) -> Iterator[Result]:
    """Results of `function(item)` in order, with at most `depth` of them under way or waiting."""
    queue: deque = deque()
    for item in items:
        queue.append(pool.submit(function, item))
        if len(queue) >= depth:
            yield queue.popleft().result()
    while queue:
        yield queue.popleft().result()


def _start(counter: Any, queue: Any) -> None:
    import signal

    import cv2

    global _finished, _tasks
    _finished, _tasks = counter, queue
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
            task = _tasks.get(timeout=0.01)
        except Empty:
            _tick(0)
            yield None
            continue
        if task == _END:
            return
        yield task


def _tick(count: int) -> None:
    with _finished.get_lock():
        if _finished.value < 0:
            raise SystemExit("stopped")
        _finished.value += count
