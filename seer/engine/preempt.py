"""Stopping on request: a signal asks, all ranks agree at the end of a step, and a checkpoint is saved there.

Schedulers announce the end: SLURM sends the signal that `seer launch` chose some minutes before the time limit and on
preemption, and SIGTERM when it ends a job; Kubernetes and torchrun send SIGTERM.
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

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """While entered, `SIGNALS` do not end this process but set `by`, the name of the last one."""

    by = ""

    def __enter__(self) -> "StopRequest":
        here = threading.current_thread() is threading.main_thread()  # elsewhere Python allows no handlers
        self._before: dict[Any, Any] = {s: signal.signal(s, self._note) for s in SIGNALS} if here else {}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.by = signal.Signals(number).name


class Verdict(NamedTuple):
    """Of all ranks on a step: whether loss and gradient are finite on every one, whether any was asked to stop, the
    mean of their losses, and whether any finds a checkpoint late."""

    finite: bool
    stop: bool
    loss: float
    late: bool = False


def agree(loss: Tensor, grad_norm: Tensor, asked: bool = False, late: bool = False) -> Verdict:
    """The verdict on a step, the same on all ranks.

    The request to stop, and what the clock says, travel with what every step needs to know anyhow: they cost nothing.
    """
    finite = torch.isfinite(loss.detach()) & torch.isfinite(grad_norm.to(loss.device))
    requests = [torch.full_like(finite, request).double() for request in (asked, late)]
    votes = torch.stack([(~finite).double(), loss.detach().double(), *requests])
    bad, total, stop, overdue = all_reduce_sum(votes).tolist()
    return Verdict(bad == 0, stop > 0, total / size(), overdue > 0)


class Watchdog:
    """Ends this process, with the stack of each of its threads on stderr, when `beat` is not called for too long.

    A collective whose peer is gone or elsewhere may wait for ever: every rank then tells where it stands, and whoever
    started the run can start it again. `SEER_HANG_SECONDS` sets the time; without it there is no watch.
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
