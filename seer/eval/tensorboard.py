"""The scores of a run's checkpoints for TensorBoard."""

import shutil
from pathlib import Path
from typing import Any

from seer.eval.curves import BASELINES, Curve, curves
from seer.jsonl import Row
from seer.rundir.names import TENSORBOARD
from seer.rundir.rundir import RunDir

SCORE = "score"


class Board:
    """Writes RUN/tensorboard/score, and a folder beside it for each baseline, whose line the curves are
    drawn against. They are apart from the training's: TensorBoard reads one writer a folder.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.folder = run / TENSORBOARD
        self._writers: dict[str, Any] = {}
        self._written = 0

    def write(self, rows: list[Row], step: int) -> None:
        """Add what was scored at a step; where later steps were written already, or by another
        process, write all anew: TensorBoard draws points in their order. Nothing is written for a run
        with `log.tensorboard=false`.
        """
        log = RunDir(self.run).config().get("log")
        if isinstance(log, dict) and log.get("tensorboard") is False:
            return
        measured = curves(rows)
        steps = sorted({row["step"] for curve in measured for row in curve.rows})
        if not self._writers or step < self._written:
            self.close()
            for name in (SCORE, *BASELINES):
                shutil.rmtree(self.folder / name, ignore_errors=True)
        else:
            steps = [step]
        for at in steps:
            for curve in measured:
                self._add(curve, at)
            self._written = at
        for writer in self._writers.values():
            writer.flush()

    def _add(self, curve: Curve, step: int) -> None:
        tag = f"{SCORE}/{curve.title}"
        for row in curve.rows:
            if row["step"] == step:
                self._writer(SCORE).add_scalar(tag, row["value"], step)
        for name, row in curve.baselines.items():
            if not self._written:
                self._writer(name).add_scalar(tag, row["value"], 0)
            self._writer(name).add_scalar(tag, row["value"], step)

    def _writer(self, name: str) -> Any:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        if name not in self._writers:
            self._writers[name] = SummaryWriter(str(self.folder / name))
        return self._writers[name]

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        self._written = 0
