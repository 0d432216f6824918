"""A run's checkpoints scored while it trains, by a process that takes only what time is left: what can
be said of that, and how it is started. What it does stands in `seer.eval.following`.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from threading import Thread
from typing import TYPE_CHECKING

from seer.engine.options import CheckpointConfig
from seer.errors import InputError, first_line, quoted
from seer.eval.tasks import QUICK
from seer.schema import COUNT, DEVICE, Choice, ListOf, Location, option

if TYPE_CHECKING:
    from seer.engine.run import Training  # imports torch

LEAVING = "leaving the scoring; Ctrl-C again ends at once"
SECONDS = 0.2  # between two looks whether the end was asked for
LINE = "score: "  # begins what the scoring process says; what else it prints is kept for its end


@dataclass
class ScoreConfig:
    """Scores of checkpoints while a run trains, by a process of lowest priority on the main process's
    host. No step waits for it, and no result depends on it.

    Attributes:
        data: labelled images, as `seer eval --data` takes them; empty: nothing is scored.
        every: steps between checkpoints that are scored, a multiple of `checkpoint.every`; 0 scores each of them. The
            last one is scored in any case.
        tasks: by what they are scored.
        device: what computes their features: `cpu`, on one core; `cuda` shares the GPU with the training.
    """

    data: str = option("", Location())
    every: int = option(0, COUNT)
    tasks: list[str] = option(list(QUICK), ListOf(Choice(*QUICK), len(QUICK), 1, distinct=True))
    device: str = option("cpu", DEVICE)


def check_spacing(score: ScoreConfig, saves: CheckpointConfig, steps: int) -> None:
    """Raise `InputError` where no checkpoint, or not each that is asked for, falls on `score.every`."""
    if not score.data or not score.every:
        return
    if not saves.every:
        raise InputError(
            f"score.every={score.every}: checkpoints are saved by time, with checkpoint.every=0; give score.every=0, "
            "which scores each of them"
        )
    if score.every % saves.every:
        multiple = -(-score.every // saves.every) * saves.every
        raise InputError(
            f"score.every={score.every}: checkpoints fall on every {saves.every:,} steps; use score.every={multiple}, "
            f"or checkpoint.every={score.every}"
        )
    if score.every > steps:
        raise InputError(
            f"score.every={score.every}: the run has {steps:,} steps, so only its last checkpoint would be scored; "
            "use less, or score.every=0"
        )


def check_labels(score: ScoreConfig) -> None:
    """Raise `InputError` for data that are not there, or cannot be scored on. No image is read."""
    if score.data:
        from seer.eval.data.splitting import train_and_test

        try:
            train_and_test(score.data)
        except InputError as error:
            raise InputError(f"score.data: {error}") from error


@contextmanager
def scored(
    training: "Training", score: ScoreConfig, is_main: bool, tell: Callable[[str], None]
) -> Iterator[None]:
    """While entered, the checkpoints of a training are scored beside it. At the end, where no other
    process of the run waits, those that are left.
    """
    scoring = Scoring(score, Path(training.config.run_dir), tell)
    others = training.beside

    @contextmanager
    def beside() -> Iterator[None]:
        with others(), scoring.beside(is_main):
            yield

    training.beside = beside
    yield
    scoring.finish()


class Scoring:
    """The process that scores a run. It does not outlive this one."""

    def __init__(self, score: ScoreConfig, run_dir: Path, tell: Callable[[str], None]) -> None:
        """`tell` is called with each line that it says."""
        self.config = score
        self.run_dir = run_dir
        self.tell = tell
        self.child: Popen | None = None
        self._listener: Thread | None = None
        self._stopping = False

    @contextmanager
    def beside(self, is_main: bool = True) -> Iterator[None]:
        """Score while entered; what ends the training early ends the scoring at once. It goes on where
        the training has come to its end, for `finish` to wait for.
        """
        if is_main and self.config.data:
            self.start()
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def start(self) -> None:
        """Start the process; one line, and the run goes on, where that cannot be."""
        # Of this session, so that its priority counts against the training's: Linux shares time
        # between sessions first. Of a group of its own, which Ctrl-C does not reach.
        try:
            self.child = Popen(
                self._command(),
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=STDOUT,
                text=True,
                errors="backslashreplace",
                env=self._environment(),
                process_group=0,
            )
            os.setpriority(os.PRIO_PROCESS, self.child.pid, 19)
        except OSError as error:
            self.tell(f"{LINE}cannot be started ({first_line(error)}); {self._by_hand()}")
            return
        self._listener = Thread(target=self._listen, args=(self.child,), daemon=True)
        self._listener.start()

    def stop(self) -> None:
        """End it at once: what it has scored is written."""
        self._stopping = True
        if self.child:
            self.child.terminate()

    def finish(self) -> None:
        """Wait for what is to be scored still. Ctrl-C, or a scheduler that asks for the end, leaves
        it: the training is finished all the same.
        """
        if self._stopping or self._listener is None or not self._listener.is_alive():
            return
        from seer.engine.preempt import StopRequest  # imports torch

        # A rank of several ignores Ctrl-C, and is told of it by SIGTERM.
        with StopRequest(LEAVING) as asked:
            self.tell(
                f"{LINE}the training is over; waiting for its last checkpoints' scores. Ctrl-C leaves them to "
                f"{self._by_hand()}"
            )
            while self._listener.is_alive() and not asked.by:
                self._listener.join(SECONDS)
        if self._listener.is_alive():
            self.stop()
            self.tell(
                f"{LINE}left as asked ({asked.by}); the training is finished; the same command scores the rest"
            )

    def catch_up(self) -> None:
        """Of a finished run, score what is to be scored still. What is depends on data and options,
        which only the process itself can tell.
        """
        if self.config.data:
            self.start()
            self.finish()

    def _command(self) -> list[str]:
        words = [sys.executable, "-m", "seer", "score", str(self.run_dir.absolute())]
        words += [f"--data={self.config.data}", "--follow", f"--every={self.config.every}"]
        words += [f"--task={task}" for task in self.config.tasks]
        words += [f"--parent={os.getpid()}", f"device={self.config.device}", "threads=1"]
        return words

    def _environment(self) -> dict[str, str]:
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if self.config.device == "cpu" else {}
        return {**os.environ, "OMP_NUM_THREADS": "1", **hidden}

    def _by_hand(self) -> str:
        return f"seer score {quoted(self.run_dir)} --data {quoted(self.config.data)}"

    def _listen(self, child: Popen) -> None:
        """Pass on what it says, in a thread that waits for it alone."""
        assert child.stdout
        last = ""
        for line in child.stdout:
            if line.startswith(LINE):
                self.tell(line.rstrip())
            else:
                last = line.strip() or last
        code = child.wait()
        if code and not self._stopping:
            how = signal.Signals(-code).name if code < 0 else last or f"exit code {code}"
            self.tell(
                f"{LINE}ended ({how}); the run is not touched by it; {self._by_hand()} goes on"
            )
