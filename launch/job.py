"""A job: a verb of `seer` with its arguments, what it needs, and where its run is. The same object
runs everywhere.
"""

import os
import signal
import sys
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from launch import attempts
from seer.errors import TOLD, InputError, InUseError, StoppedError
from seer.start import ENDING
from seer.terminal import prepare, warn


@dataclass(frozen=True)
class Resources:
    """What a job needs; `minutes` is its time limit."""

    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int = 0
    minutes: int = 24 * 60

    @property
    def ranks(self) -> int:
        return self.nodes * self.tasks_per_node


@dataclass(frozen=True)
class Job:
    """One verb to run, again if need be: every process of the job calls it, and each call goes on
    where the last ended.

    Attributes:
        arguments: what follows the verb on the command line.
        run_dir: the run that it trains, all processes of the job together; "" for verbs that train none, which are one
            process, however many nodes were asked for.
        folder: the launch's folder, which all hosts see; how each process ended is written there.
        name: its place in the launch, `link-index`.
        retries: how often it may end in a row without getting on.
        backoff: seconds to wait after a failure; doubled after each further one at the same step.
    """

    verb: str
    arguments: tuple[str, ...]
    resources: Resources = Resources()
    run_dir: str = ""
    folder: str = "."
    name: str = "0-0"
    retries: int = 10
    backoff: float = 30.0

    @property
    def command(self) -> list[str]:
        return [self.verb, *self.arguments]

    def __call__(self) -> None:
        """Run the verb in this process; what it raises is noted, for whoever decides what is next,
        and raised.
        """
        from seer.verbs import app

        prepare()
        for number in (*ENDING, signal.SIGINT):  # until training handles them
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._leave)
        try:
            self._check_devices()
            code = app(self.command, prog_name="seer", standalone_mode=False)
            if code:
                raise InputError(f"seer {self.verb}: exit code {code}")
        except BaseException as error:
            # What another process has now, such as one on a node that was lost, it may not have at
            # the next attempt.
            code = 1 if isinstance(error, InUseError) else getattr(error, "exit_code", 1)
            attempts.note(self.folder, self.name, code, _line(error))
            raise
        attempts.note(self.folder, self.name, 0, "done")

    def main(self) -> NoReturn:
        """Be the whole process: run, and exit as `seer` would."""
        try:
            self()
        except TOLD as error:
            warn(str(error))
            sys.exit(error.exit_code)
        sys.exit(0)

    def _leave(self, number: int, frame: FrameType | None) -> NoReturn:
        """End at once: there is nothing to save. An exception might be caught by whatever runs now,
        such as imports.
        """
        name = signal.Signals(number).name
        attempts.note(
            self.folder,
            self.name,
            StoppedError.exit_code,
            f"stopped by {name}, with nothing to save",
        )
        os._exit(StoppedError.exit_code)

    def _check_devices(self) -> None:
        if self.resources.gpus_per_node:
            import torch

            if not torch.cuda.is_available():
                asked = f"{self.resources.gpus_per_node} GPUs per node were asked for"
                raise InputError(
                    f"{asked} and PyTorch {torch.__version__} sees none; look at nvidia-smi there, or launch "
                    "without --gpus-per-node"
                )


def _line(error: BaseException) -> str:
    """An error in one line."""
    first = next(iter(str(error).strip().splitlines()), "")
    return first if isinstance(error, TOLD) else f"{type(error).__name__}: {first}"
