"""Processes on this host: a function in each of them, joined in a process group."""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn, Protocol

import torch
import torch.distributed as dist

from seer import forkserver
from seer.distributed import init, pick_device, shutdown
from seer.errors import TOLD, LostWorkerError, StoppedError
from seer.hardware import usable_cores as usable_cores
from seer.start import ENDING, STOPPING, tell
from seer.terminal import prepare


class RankError(RuntimeError):
    """A rank that `spawn` started failed; the message holds its rank and traceback."""


class LostRankError(RankError, LostWorkerError):
    """A rank that died without a word."""


def spawn(function: Callable[..., Any], nproc: int, *args: Any, device: str = "auto") -> list[Any]:
    """Run `function(*args)` in `nproc` processes of this host, joined in a process group.

    The first failure ends all of them; they end, too, when this process dies, however it dies.
    SIGTERM, SIGUSR1, SIGUSR2 and SIGHUP are theirs: what reaches this process is passed on. Ctrl-C
    asks them to stop; a second ends them.

    Returns:
        What each rank returned (by pickle), in rank order.

    Raises:
        InputError, DivergedError, StoppedError: a rank raised it.
        RankError: a rank raised anything else. LostRankError: it died.
    """
    # Where forks are unsafe (CUDA, macOS) each rank imports torch itself, which takes many seconds.
    forks = sys.platform == "linux" and pick_device(device, 0).type == "cpu"
    context: Any = (
        forkserver.start(forkserver.TRAINING) if forks else multiprocessing.get_context("spawn")
    )
    # The store lives here, on a port that the system picks, so no two runs ever ask for the same
    # one.
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    env = {**os.environ, "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}
    env |= {
        "WORLD_SIZE": str(nproc),
        "LOCAL_WORLD_SIZE": str(nproc),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    processes = []
    pipes = []
    try:
        for r in range(nproc):
            ours, theirs = context.Pipe(duplex=False)
            place = {**env, "RANK": str(r), "LOCAL_RANK": str(r)}
            process = context.Process(
                target=_run_rank, args=(theirs, place, device, function, args)
            )
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        with forwarding(processes):
            values = _collect(processes, pipes)
        for process in processes:
            process.join(10)
        return values
    finally:
        for process in processes:
            process.kill()
            process.join()


class Process(Protocol):
    pid: Any


@contextmanager
def forwarding(processes: list[Process]) -> Iterator[None]:
    """While entered, pass on to `processes` the signals by which a scheduler, or a terminal, asks
    for the end.

    Ctrl-C and a closed terminal are passed on as SIGTERM: a terminal may tell them as well, and two
    are not meant.

    Raises:
        KeyboardInterrupt: at the second Ctrl-C.
    """
    interrupted = False

    def forward(number: int, frame: object) -> None:
        passed = signal.SIGTERM if number in (signal.SIGHUP, signal.SIGINT) else number
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, passed)

    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        tell(STOPPING)
        forward(number, frame)

    handlers: dict[signal.Signals, Any] = {
        **dict.fromkeys(ENDING, forward),
        signal.SIGINT: interrupt,
    }
    heeded = [number for number in handlers if signal.getsignal(number) is not signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():
        heeded = []
    before = {number: signal.signal(number, handlers[number]) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_rank(
    pipe: Connection, env: dict[str, str], device: str, function: Callable, args: tuple
) -> None:
    """The body of a rank: sends `(time, succeeded, value or exception)` once."""
    # A terminal's; what follows from it is told by the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in ENDING:  # until training handles them
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, forkserver.SHIELDED)  # a rank answers for itself
    _die_with_parent()
    prepare()
    os.environ.update(env)
    if "OMP_NUM_THREADS" not in env:
        torch.set_num_threads(max(1, torch.get_num_threads() // int(env["LOCAL_WORLD_SIZE"])))
    try:
        init(device)
        value = function(*args)
        shutdown()
        pipe.send_bytes(pickle.dumps((time.time(), True, value)))
    except BaseException as error:
        told = (
            error
            if isinstance(error, TOLD)
            else RankError(f"rank {env['RANK']}: {traceback.format_exc()}")
        )
        pipe.send_bytes(pickle.dumps((time.time(), False, told)))


def _leave(number: int, frame: object) -> NoReturn:
    """End at once: there is nothing to save. An exception might be caught by whatever runs now,
    such as imports.
    """
    os._exit(StoppedError.exit_code)


def _die_with_parent() -> None:
    """End this process when its parent does, SIGKILL included: the pipe that the parent holds then
    closes.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _collect(processes: list, pipes: list[Connection], grace: float = 2.0) -> list[Any]:
    """Wait for every rank's report; raise what went wrong first.

    One rank's failure makes its peers fail in their next collective, so later errors, which may
    arrive sooner, are consequences: after the first, wait `grace` seconds for the others and choose
    by time of failure.
    """
    reports: dict[int, tuple[float, bool, Any]] = {}
    deadline = None
    while len(reports) < len(pipes):
        pending = [p for r, p in enumerate(pipes) if r not in reports]
        ready = wait(pending, None if deadline is None else max(0.0, deadline - time.time()))
        for pipe in ready:
            r = pipes.index(pipe)  # type: ignore[arg-type]
            reports[r] = _report(r, processes[r], pipes[r])
        if not ready:
            break
        if deadline is None and not all(ok for _, ok, _ in reports.values()):
            deadline = time.time() + grace
    failures = [(when, error) for when, ok, error in reports.values() if not ok]
    if failures:
        raise min(failures, key=lambda failure: failure[0])[1]
    return [reports[r][2] for r in range(len(pipes))]


def _report(r: int, process: BaseProcess, pipe: Connection) -> tuple[float, bool, Any]:
    with suppress(EOFError):
        return pickle.loads(pipe.recv_bytes())
    process.join()
    code = process.exitcode
    assert code is not None  # it has ended
    if code == StoppedError.exit_code:
        return time.time(), False, StoppedError("stopped as asked, with nothing to save")
    how = f"exited with code {code}"
    if code < 0:
        how = f"was killed by {signal.Signals(-code).name}, perhaps for want of memory"
    # It told nothing, so it is the cause of all else.
    return (0.0, False, LostRankError(f"rank {r} {how}"))
