"""A run's health: steps that diverge are taken back, collapse is noticed and explained.

    RUN/health.jsonl    what befell the run, a row an event: not_applied, rollback, diverged, symptom, recovered, paused
    RUN/skipped.jsonl   the steps that were passed over after a rollback, with their samples (`seer.data.ledger`)

All decisions are made from numbers that are the same on all ranks, so they need no words between
them. The loop asks `fault` before it applies a step, and `judge` after it has logged one.
"""

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seer import jsonl
from seer.data import ledger
from seer.distributed import World, all_reduce_sum, broadcast_object, on_main, size
from seer.engine.options import ENOUGH, HealthConfig
from seer.engine.preempt import Verdict
from seer.engine.symptoms import COLLAPSE, Symptom
from seer.errors import DivergedError, PausedError
from seer.rundir.names import HEALTH, checkpoints, step_of

logger = logging.getLogger("seer")

WIDEST = 512  # dimensions of embeddings that are looked at: the cost grows with their cube
NO_CHECKPOINT = "and there is no checkpoint to go back to"
ADVICE = "lower schedule.peak, lengthen schedule.warmup, or use precision=bf16, in a new run_dir"


class RollbackError(Exception):
    """The run has to go back to a checkpoint, and to pass over the steps `first` … `last` (from 1)
    when it comes by.

    `named`: whether samples of these steps may be at fault, so that their keys are to be recorded.
    """

    def __init__(self, first: int, last: int, why: str, named: bool = True):
        super().__init__(why)
        self.first = max(1, first)
        self.last = last
        self.why = why
        self.named = named


class Health:
    """One run's state of health, the same on all ranks. `skipped` are the steps (from 0) that are
    passed over.

    `symptoms` are the learner's own.
    """

    def __init__(
        self,
        config: HealthConfig,
        run_dir: Path,
        world: World,
        log_every: int = 1,
        warmup: int = 0,
        symptoms: Iterable[Symptom] = (),
    ):
        self.config = config
        self.path = Path(run_dir) / HEALTH
        self.world = world
        self.log_every = log_every
        self.judged_from = warmup + config.grace
        self.symptoms = (*COLLAPSE, *symptoms)
        skipped = ledger.skipped(run_dir) if world.is_main else None
        self.skipped = broadcast_object(skipped)
        self._losses: deque[float] = deque(maxlen=config.window)
        self._bad = 0
        self._ill: Counter[str] = Counter()  # measurements in a row that showed a symptom
        self._well = 0  # the last step whose measurement showed none

    def state_dict(self) -> dict[str, Any]:
        """Small enough for a checkpoint's header."""
        return {
            "losses": [*self._losses],
            "bad": self._bad,
            "ill": dict(self._ill),
            "well": self._well,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Of a checkpoint that was saved without, `{}`."""
        self._losses.extend(state.get("losses", []))
        self._bad = state.get("bad", 0)
        self._ill = Counter(state.get("ill", {}))
        self._well = state.get("well", 0)

    def fault(
        self, done: int, verdict: Verdict, excused: bool, last: bool = False
    ) -> RollbackError | None:
        """What follows from the verdict on a step (from 1) that is not applied yet.

        The step before the first bad one is held guilty as well: its update may be what broke the
        parameters.

        Args:
            excused: that the step is not finite may be the loss scale's doing.
            last: no step follows that could show whether the parameters are broken.
        """
        if not verdict.finite:
            if excused:
                return None
            self._bad += 1
            self._note(done, "not_applied", why="loss or gradient is not finite")
            if self._bad < self.config.patience and not last:
                return None
            steps = f"{self._bad} steps in a row" if self._bad > 1 else "the last step is"
            why = f"{steps} without a finite loss and gradient"
            return RollbackError(done - self._bad, done, why)
        self._bad = 0
        why = self._spike(verdict.loss)
        self._losses.append(verdict.loss)
        return RollbackError(done - 1, done, why) if why else None

    def proof(self, done: int, verdict: Verdict) -> RollbackError | None:
        """What follows from a loss and gradient that were computed anew after the update of step
        `done`.
        """
        why = self._spike(verdict.loss) if verdict.finite else "loss or gradient is not finite"
        return RollbackError(done, done, f"{why} after this step's update") if why else None

    def ended(self, done: int, steps: int) -> DivergedError:
        """Of a run whose steps after `done` diverged and were passed over, to the last."""
        why = f"steps {done + 1} to {steps}, the last ones, diverged and were passed over"
        self._note(steps, "diverged", why=why)
        good = on_main(lambda: newest_good(self.path.parent, done))
        return DivergedError(f"the run is not done: {why}{good}; {ADVICE}")

    def forget_losses(self) -> None:
        """From here on losses are of another kind: none is a spike beside those before."""
        self._losses.clear()

    def _spike(self, loss: float) -> str:
        """Why this loss is a spike; "" if it is not."""
        if not self.config.spike or len(self._losses) < ENOUGH:
            return ""
        centre, deviation = robust(self._losses)
        distance = (loss - centre) / deviation
        return f"loss {loss:.4g}, {distance:.0f} robust deviations above {centre:.4g}" * (
            distance > self.config.spike
        )

    def due(self, done: int) -> bool:
        """Whether a row logged after step `done` holds a measurement: told by the step alone, as
        resuming needs.
        """
        return self.config.every > 0 and done % self.config.every < self.log_every

    def measure(self, done: int, embeddings: Tensor | None) -> dict[str, Tensor]:
        """Before a row is logged: the signs of collapse that no method is needed for, as metrics;
        {} if not due.
        """
        return embedding_metrics(embeddings) if embeddings is not None and self.due(done) else {}

    def judge(
        self, done: int, values: Mapping[str, float], batch: int
    ) -> RollbackError | PausedError | None:
        """What follows from the values of a row that was logged (means over ranks); {} where none
        was.
        """
        if (
            not values
            or not self.due(done)
            or done < self.judged_from
            or not math.isfinite(values["loss"])
        ):
            return None
        known = {**values, "batch": batch}
        new = []
        for symptom in self.symptoms:
            shown = symptom.shown(known)
            before = self._ill[symptom.name]
            self._ill[symptom.name] = self._ill[symptom.name] + 1 if shown else 0
            if self._ill[symptom.name] == self.config.patience:
                new.append(symptom)
                self._note(
                    done,
                    "symptom",
                    name=symptom.name,
                    why=symptom.why(known),
                    remedy=symptom.remedy,
                )
                self._warn(f"step {done}: {symptom.why(known)}; {symptom.remedy}")
            elif before >= self.config.patience and not shown:
                self._note(done, "recovered", name=symptom.name)
        if not +self._ill:
            self._well = done
        if not new or self.config.act == "none":
            return None
        if self.config.act == "rollback":
            return RollbackError(self._well + 1, done, new[0].why(known), named=False)
        self._note(done, "paused", why=new[0].why(known))
        return PausedError(f"paused after step {done}: {new[0].why(known)}; {new[0].remedy}; saved")

    def _note(self, step: int, event: str, **more: Any) -> None:
        if self.world.is_main:
            jsonl.append(self.path, [{"step": step, "event": event, **more}])

    def _warn(self, line: str) -> None:
        if self.world.is_main:
            logger.warning("%s", line)


def robust(values: Iterable[float]) -> tuple[float, float]:
    """Median, and the standard deviation that the median absolute deviation tells of a normal
    distribution.

    The deviation is at least a hundredth of the median: losses that hardly differ say nothing of
    the next ones.
    """
    values = list(values)
    centre = median(values)
    return centre, max(1.4826 * median(abs(v - centre) for v in values), 0.01 * abs(centre), 1e-12)


@torch.no_grad()
def embedding_metrics(embeddings: Tensor) -> dict[str, Tensor]:
    """How the directions of all ranks' `(B, D)` embeddings spread, told from their moments: one `(D
    + 1, D)` reduction.

    `effective_rank` is RankMe (Garrido et al. 2023, arXiv:2210.02885): exp of the entropy of the
    singular values over their sum, of the embeddings scaled to length 1; at most the smaller of D
    and the number of images. `embedding_std` is the root mean square over dimensions of their
    standard deviations, times √D: 1 all round, 0 collapse.
    """
    z = F.normalize(embeddings.double(), dim=1)[:, :WIDEST]
    moments = all_reduce_sum(torch.cat([z.T @ z, z.sum(dim=0, keepdim=True)])) / (len(z) * size())
    second = moments[:-1]
    mean = moments[-1]
    singular = torch.linalg.eigvalsh(second).clamp_(min=0).sqrt()
    return {
        "effective_rank": torch.special.entr(singular / singular.sum().clamp_(min=1e-300))
        .sum()
        .exp(),
        "embedding_std": (
            (second.trace() - mean.square().sum()).clamp(min=0) / second.trace()
        ).sqrt(),
    }


def roll_back(
    fault: RollbackError,
    load: Callable[[int], dict[str, Any] | None],
    run_dir: Path,
    limit: int,
    world: World,
    keys_of: Callable[[int], list[str]],
) -> dict[str, Any]:
    """Load the newest checkpoint before the steps at fault, and enter these in the ledger. Every
    rank calls it.

    If there is none, one may hold the first of them, which is only suspected.

    Args:
        load: loads the newest checkpoint until a step, and removes later ones; None where there is none.
        limit: how many rollbacks the run may have.
        keys_of: the keys of the samples of a step (from 1), for the ledger.

    Returns:
        What `load` returns.

    Raises:
        DivergedError: there were so many rollbacks, or there is no checkpoint.
    """
    told = f"step {fault.last}: {fault.why}"
    path = Path(run_dir) / HEALTH
    rollbacks = broadcast_object(sum(row["event"] == "rollback" for row in jsonl.read(path)))
    header = load(fault.first - 1) or load(fault.last - 1) if rollbacks < limit else None
    if header is None:
        good = on_main(lambda: newest_good(Path(run_dir), fault.last - 1))
        hindrance = (
            f"after {rollbacks} rollbacks (health.rollbacks={limit})"
            if rollbacks >= limit
            else NO_CHECKPOINT
        )
        if world.is_main:
            jsonl.append(
                path,
                [{"step": fault.last, "event": "diverged", "why": f"{fault.why}, {hindrance}"}],
            )
        raise DivergedError(f"{told}, {hindrance}{good}; {ADVICE}")
    if world.is_main:
        # Only now: a process that is killed before this line repeats the steps and finds the same
        # fault.
        first = max(fault.first, header["step"] + 1)
        ledger.skip(
            run_dir, range(first, fault.last + 1), fault.why, keys_of if fault.named else None
        )
        row = {"step": fault.last, "event": "rollback", "why": fault.why, "to": header["step"]}
        jsonl.append(path, [row | {"skipped": [first, fault.last]}])
        logger.warning(
            "%s; back to step %d, skipping steps %d to %d", told, header["step"], first, fault.last
        )
    return header


def newest_good(run_dir: Path, until: int) -> str:
    """Which checkpoint of a run that diverged is to be used, the newest up to step `until`; ""
    where there is none.
    """
    names = [path.name for path in checkpoints(run_dir) if step_of(path.name) <= until]
    return f"; the newest good checkpoint is {run_dir}:{names[-1]}" if names else ""
