"""Stopping on request: a signal asks, all ranks agree at the end of a step, and a checkpoint is
saved there.

Schedulers announce the end: SLURM sends the signal that `seer launch` chose some minutes before the
time limit and on preemption, and SIGTERM when it ends a job; Kubernetes and torchrun send SIGTERM.
At a terminal Ctrl-C sends SIGINT, and closing it SIGHUP.
"""

import faulthandler
import os
import signal
import threading
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seer.distributed import all_reduce_sum, size
from seer.start import INTERRUPTED, STOPPING, tell

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)
ENDED = "ended at once; the same command continues from the newest checkpoint"


class StopRequest:
    """While entered, `SIGNALS` do not end this process but set `by`, the name of the last one; a
    second Ctrl-C ends it.

    What is ignored stays so: SIGHUP under `nohup`, Ctrl-C where a launcher answers to it.
    """

    by = ""

    def __init__(self, stopping: str = STOPPING) -> None:
        """`stopping` is said at the first Ctrl-C: what follows from it."""
        self._stopping = stopping

    def __enter__(self) -> "StopRequest":
        self._before: dict[Any, Any] = {}
        if (
            threading.current_thread() is threading.main_thread()
        ):  # elsewhere Python allows no handlers
            heeded = [
                number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN
            ]
            self._before = {number: signal.signal(number, self._note) for number in heeded}
            self._watch()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(self._wakeup_before)
            os.close(self._arrivals)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.by = signal.Signals(number).name

    def _watch(self) -> None:
        """Have signals answered in a thread as well: handlers run only when the main thread comes
        back from a wait.
        """
        reading, self._arrivals = os.pipe()
        os.set_blocking(self._arrivals, False)
        self._wakeup_before = signal.set_wakeup_fd(self._arrivals, warn_on_full_buffer=False)
        threading.Thread(
            target=_answer_interrupts, args=(reading, self._stopping), daemon=True
        ).start()


def _answer_interrupts(arrivals: int, stopping: str) -> None:
    """Say what follows from the first Ctrl-C, and end this process at the second."""
    count = 0
    while number := os.read(arrivals, 1):
        if number[0] != signal.SIGINT:
            continue
        count += 1
        tell(stopping if count == 1 else ENDED)
        if count > 1:
            os._exit(INTERRUPTED)
    os.close(arrivals)


class Verdict(NamedTuple):
    """Of all ranks on a step: whether loss and gradient are finite on every one, whether any was
    asked to stop, the mean of their losses, and whether any finds a checkpoint late."""

    finite: bool
    stop: bool
    loss: float
    late: bool = False


def agree(loss: Tensor, grad_norm: Tensor, asked: bool = False, late: bool = False) -> Verdict:
    """The verdict on a step, the same on all ranks.

    The request to stop, and what the clock says, travel with what every step needs to know anyhow:
    they cost nothing.
    """
    finite = torch.isfinite(loss.detach()) & torch.isfinite(grad_norm.to(loss.device))
    requests = [torch.full_like(finite, request).double() for request in (asked, late)]
    votes = torch.stack([(~finite).double(), loss.detach().double(), *requests])
    bad, total, stop, overdue = all_reduce_sum(votes).tolist()
    return Verdict(bad == 0, stop > 0, total / size(), overdue > 0)


class Watchdog:
    """Ends this process, with the stack of each of its threads on stderr, when `beat` is not called
    for too long.

    A collective whose peer is gone or elsewhere may wait for ever: every rank then tells where it
    stands, and whoever started the run can start it again. `SEER_HANG_SECONDS` sets the time;
    without it there is no watch.
    """

    def __init__(self) -> None:
        self.seconds = float(os.environ.get("SEER_HANG_SECONDS", 0))

    def beat(self) -> None:
        if self.seconds > 0:
            faulthandler.dump_traceback_later(self.seconds, exit=True)

    def __enter__(self) -> "Watchdog":
        self.beat()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.seconds > 0:
            faulthandler.cancel_dump_traceback_later()
