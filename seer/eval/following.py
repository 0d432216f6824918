"""The checkpoints of a run, scored one after the other as they appear, beside the same network
untrained and raw pixels.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seer import outputs
from seer.config import parse_overrides
from seer.data.folders import readable
from seer.engine.checkpoint.header import read_header
from seer.errors import InputError
from seer.eval import outcomes, pixels
from seer.eval.baselines import baselines
from seer.eval.curves import REMEDY, below_pixels, curves
from seer.eval.data.splitting import train_and_test
from seer.eval.paired import Outcomes, alike, compare
from seer.eval.probes import feature_cache
from seer.eval.task import kept_options, rows_of
from seer.eval.tasks import QUICK, TASKS, is_pixels, options_of
from seer.interop.models import Model, sized
from seer.interop.spec import INIT
from seer.jsonl import Row, append
from seer.results import describe, kind, shown
from seer.rundir.lock import locked_for_scoring
from seer.rundir.names import BACKBONE, CONFIG, HEADER, SCORES, checkpoints, step_of
from seer.rundir.rundir import RunDir

SECONDS = 2.0  # between two looks
LAG = 2  # checkpoints that may wait while a run is followed; the newest ones


class Scorer:
    """Measures the checkpoints of a run by the quick tasks, and writes RUN/scores.jsonl: a row for
    each value, with the step and the weights that it is of. What stands there already is not
    measured again.

    Attributes:
        gone: steps whose checkpoints were removed before their turn came. left: those that were passed over.
        failed: of each checkpoint that cannot be scored, why.
    """

    def __init__(
        self,
        run: Path,
        data: str,
        overrides: Sequence[str] = (),
        *,
        tasks: Sequence[str] = tuple(QUICK),
        every: int = 0,
        tell: Callable[[str], None] = print,
    ) -> None:
        """
        Args:
            data: as `seer.eval.data.splitting.load` takes it.
            overrides: options as `key=value`, each for the tasks that have it.
            every: steps between checkpoints that are scored, besides the last; 0: each of them.
            tell: called with a line on what is done.

        Raises:
            InputError: in one line, what is wrong with any of these.
        """
        self.run = run
        self.data = data
        self.every = every
        self.tell = tell
        self.path = run / SCORES
        self.configs = {
            name: TASKS[name].resolve(parse_overrides(options_of(name, overrides)))
            for name in tasks
        }
        self.images = train_and_test(data)
        self.protocols = {
            name: outcomes.comparability(name, kept_options(name, data, config), *self.images)
            for name, config in self.configs.items()
        }
        config = RunDir(run).config()
        self.steps = config.get("steps", 0)
        saves = config.get("checkpoint")
        saved_every = saves.get("every") if isinstance(saves, dict) else 0
        self.spacing = saved_every if isinstance(saved_every, int) else 0
        if every:
            self.spacing = math.lcm(every, self.spacing or every)
        if self.spacing != every > 0:
            tell(
                f"checkpoints are saved every {saved_every:,} steps: of every {every:,} those of each "
                f"{self.spacing:,} are scored, and the last"
            )
        self.gone: set[int] = set()
        self.failed: dict[tuple[int, str], str] = {}
        self._digests: dict[tuple[Path, float], str] = {}
        self.left: set[int] = set()
        self._read()

    def _read(self) -> None:
        """Take up what was scored before by the same protocols."""
        protocols = set(self.protocols.values())
        run = RunDir(self.run)
        rows = run.scores()
        for remark in run.remarks():
            self.tell(remark)
        self.rows = [row for row in rows if row.get("comparable") in protocols]

    def score_baselines(self) -> None:
        """Score what checkpoints are compared with, once. A beginning that is not to be had any more
        is told and left out.
        """
        size = next(iter(self.configs.values())).size
        for spec in baselines(str(self.run), size):
            which = "pixels" if is_pixels(spec) else spec.rpartition(":")[2]
            which = which if which in ("pixels", INIT) else "untrained"
            lacking = [name for name in self.configs if not self._baseline(name, which)]
            if not lacking:
                continue
            try:
                self._measure(self._load(spec), lacking, 0)
            except InputError as error:
                if which == "pixels":
                    raise
                self.tell(f"{which} cannot be scored: {error}")

    def next_checkpoint(self, most: int | None = None) -> tuple[int, str] | None:
        """The oldest checkpoint that is to be scored and is not: its step, and what names its
        weights.

        Args:
            most: how many may wait; where there are more, the newest ones, and others are passed over.
        """
        present = checkpoints(self.run)
        due = []
        for checkpoint in present:
            step = step_of(checkpoint.name)
            if self.every and step % self.every and step != self.steps:
                continue
            weights = self._weights(checkpoint)
            if not weights or step in self.left or (step, weights) in self.failed:
                continue
            if self._lacking(step, weights):
                due.append((step, weights))
        if not due:
            return None
        self._pass_over(due[0][0], {step_of(path.name) for path in present})
        if most and len(due) > most:
            self.left |= {step for step, _ in due[:-most]}
            count = counted(len(due) - most)
            self.tell(f"{count} before step {due[-most][0]:,} passed over for newer ones")
        return due[-most:][0] if most else due[0]

    def score(self, step: int, weights: str) -> bool:
        """Score a checkpoint. False where it cannot be, or was removed before it was read."""
        try:
            model = self._load(f"{self.run}:step-{step}")
            # Apart from its file, which the run may remove at any moment.
            model = replace(model, backbone=copy.deepcopy(model.backbone))
            rows = self._measure(model, self._lacking(step, weights), step, weights)
        except (InputError, OSError) as error:
            if step not in map(step_of, (path.name for path in checkpoints(self.run))):
                self.gone.add(step)
                self.tell(f"the checkpoint of step {step:,} was removed before it was read")
            else:
                self.failed[step, weights] = str(error)
                self.tell(f"the checkpoint of step {step:,} cannot be scored: {error}")
            return False
        self._tell_scores(rows)
        return True

    def is_over(self) -> bool:
        """Whether no further checkpoint comes, as far as the run's directory tells."""
        run = RunDir(self.run)
        newest = run.checkpoints()[-1:]
        return bool(run.ended(run.events())) or bool(
            self.steps and newest and newest[0] >= self.steps
        )

    def _load(self, spec: str) -> Model:
        """A model by itself: the run's picture of neighbours is of what `seer eval` has measured."""
        return replace(pixels.load(spec, self.images[0]), run_dir=None)

    def _measure(
        self, model: Model, tasks: Sequence[str], step: int, weights: str = ""
    ) -> list[Row]:
        """Run tasks on a model, and write what they give."""
        measured: list[Row] = []
        with feature_cache.in_memory():
            for name in tasks:
                config = self.configs[name]
                began = time.perf_counter()
                own = sized(model, config.size)
                scores = TASKS[name].load().run(own, *self.images, config)
                seconds = time.perf_counter() - began
                rows = rows_of(name, self.data, own, config, scores, self.images, seconds)
                for row, score in zip(rows, scores, strict=True):
                    row |= {"step": step, "weights": weights} if step else {"step": 0}
                    if step:
                        row["against"] = self._against(row, outcomes.arrays(score.outcomes))
                    else:
                        outcomes.keep(self.path, row, score.outcomes)
                measured += rows
        self._write(measured)
        return measured

    def _write(self, rows: list[Row]) -> None:
        try:
            append(self.path, rows)
        except OSError as error:
            measured = "; ".join(" ".join(line.split()) for line in describe(rows))
            raise InputError(
                f"{self.path}: scores cannot be written ({error.strerror}); they are: {measured}"
            ) from None
        self.rows += rows

    def _against(self, row: Row, hits: Outcomes) -> dict[str, dict[str, float]]:
        """How a score differs from each baseline's on the same images."""
        differences = {}
        for reference in self._references(row["task"]):
            theirs = outcomes.read(self.path, reference)
            if reference["metric"] == row["metric"] and alike(hits, theirs):
                differences[kind(reference)] = compare(hits, theirs).row()
        return differences

    def _references(self, task: str) -> list[Row]:
        protocol = self.protocols[task]
        rows = [row for row in self.rows if row["step"] == 0]
        return [row for row in rows if row["comparable"] == protocol]

    def _baseline(self, task: str, which: str) -> Row | None:
        """A baseline's main row, if it and what each image scored are there."""
        for row in reversed(self._references(task)):
            if row.get("headline") and kind(row) == which and outcomes.read(self.path, row):
                return row
        return None

    def _lacking(self, step: int, weights: str) -> list[str]:
        """The tasks by which a checkpoint is not scored yet."""
        of_step = [row for row in self.rows if row["step"] == step]
        scored = {row["comparable"] for row in of_step if row.get("weights", "") == weights}
        return [name for name, protocol in self.protocols.items() if protocol not in scored]

    def _weights(self, checkpoint: Path) -> str:
        """What names the weights of a checkpoint: a run that went back makes others of the same
        step. "" where it has just been removed; of a damaged one, "unknown".
        """
        try:
            written = (checkpoint / BACKBONE).stat().st_mtime
            key = (checkpoint, written)
            if key not in self._digests:
                files = read_header(checkpoint).get("files", {})
                self._digests[key] = files.get(BACKBONE, {}).get("sha256", "unknown")[:16]
        except (InputError, OSError):
            return "unknown" if (checkpoint / HEADER).is_file() else ""
        return self._digests[key]

    def _pass_over(self, step: int, present: set[int]) -> None:
        """Count, and tell, the checkpoints before `step` that were removed meanwhile."""
        if not self.spacing:
            return
        scored = {row["step"] for row in self.rows}
        last = max((s for s in scored if s < step), default=0)
        expected = set(range(last - last % self.spacing + self.spacing, step, self.spacing))
        missing = expected - present - scored - self.gone
        if missing:
            self.gone |= missing
            count = counted(len(missing))
            self.tell(f"{count} before step {step:,} passed over, removed before their turn")

    def _tell_scores(self, rows: Sequence[Row]) -> None:
        parts = []
        for curve in curves([*self._all_references(), *rows]):
            row = curve.newest
            interval = f"[{shown(row, 'low', False)}, {shown(row, 'high', False)}]"
            parts.append(f"{curve.title} {shown(row)} {interval}, {curve.baselines_in_words()}")
        self.tell(f"step {rows[0]['step']:,}: {'; '.join(parts)}")
        for row in rows:
            if row["headline"] and (warning := below_pixels(row, self.steps)):
                self.tell(f"{warning}; {REMEDY}")

    def _all_references(self) -> list[Row]:
        return [row for name in self.configs for row in self._references(name)]


def counted(number: int) -> str:
    return f"{number:,} checkpoint{'s' if number > 1 else ''}"


def wait_for_run(run: Path, tell: Callable[[str], None] = print) -> None:
    """Wait until there is a run in a directory: a job that waits for its turn has none yet."""
    if not (run / CONFIG).is_file():
        tell(f"waiting for {readable(str(run))}, where there is no run yet")
    while not (run / CONFIG).is_file():
        time.sleep(SECONDS)


def score_run(
    run: Path,
    data: str,
    overrides: Sequence[str] = (),
    *,
    follow: bool = False,
    tell: Callable[[str], None] = print,
    seen: Callable[[list[Row], int], None] = lambda rows, step: None,
    **options: Any,
) -> list[Row]:
    """Score the checkpoints of a run that are there; its rows of scores.jsonl by these protocols.

    Args:
        follow: wait for further ones, and for the run itself, until it is over. Of those that are there
            the newest are scored, so that a slow host does not fall behind.
        seen: called with all rows once those of a step, or of baselines (0), were added.
        options: of `Scorer`.

    Raises:
        InputError: what is wrong with the data or the options; a checkpoint that cannot be scored, at
            the end; the run is gone, or another process scores it.
    """
    if follow:
        wait_for_run(run, tell)
    with locked_for_scoring(run):
        outputs.check_writable(run / SCORES, "scores", append=True)
        scorer = Scorer(run, data, overrides, tell=tell, **options)
        return _score_all(scorer, follow, seen)


def _score_all(scorer: Scorer, follow: bool, seen: Callable[[list[Row], int], None]) -> list[Row]:
    before = len(scorer.rows)
    scorer.score_baselines()
    seen(scorer.rows, 0)
    while True:
        over = scorer.is_over()  # asked first: its last checkpoint is looked for after that
        if due := scorer.next_checkpoint(LAG if follow else None):
            if scorer.score(*due):
                seen(scorer.rows, due[0])
            continue
        if over or not follow:
            break
        if not (scorer.run / CONFIG).is_file():
            raise InputError(f"{scorer.run}: is gone; what was scored went with it")
        time.sleep(SECONDS)
    if len(scorer.rows) == before:
        scorer.tell(f"nothing new; {'; '.join(curve.in_words() for curve in curves(scorer.rows))}")
    if scorer.failed:
        first = next(iter(scorer.failed.values()))
        raise InputError(f"{counted(len(scorer.failed))} cannot be scored: {first}")
    return scorer.rows
