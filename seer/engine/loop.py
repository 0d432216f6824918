"""The training loop, on one page: schedules → data → forward/backward → clip → well? → update → log
→ save → stop?
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic

import torch
from torch import nn
from torch.optim import Optimizer

from seer.data.hashing import mix
from seer.distributed import World
from seer.engine.batchnorm import Statistics
from seer.engine.health import Health, RollbackError
from seer.engine.learner import B, Batches, Learner, Output, Step
from seer.engine.metrics import RunLog
from seer.engine.optim import LossScaler, clip_grad_norm
from seer.engine.preempt import StopRequest, Watchdog, agree
from seer.engine.schedule import ScheduleConfig, value
from seer.engine.step import forward_backward, prepare, surveyed, update
from seer.errors import StoppedError


@dataclass
class Saves:
    """What the loop calls to save; all ranks do so together. A save is visible once it is written
    and confirmed.

    Attributes:
        save: begin to save the state after so many steps.
        every: steps between saves; 0: none.
        late: whether one is due by the clock, on the rank that has it.
        confirm: a finite loss and gradient followed from the state that was saved last.
        finish: wait for the save under way.
    """

    save: Callable[[int], None]
    every: int = 0
    late: Callable[[], bool] = lambda: False
    confirm: Callable[[], None] = lambda: None
    finish: Callable[[], None] = lambda: None


@dataclass(kw_only=True)
class Run(Generic[B]):
    """One run's parts. `module` is `learner` as `parallelize` wrapped it; both share their
    parameters.
    """

    learner: Learner[B]
    module: nn.Module
    optimizer: Optimizer
    scaler: LossScaler
    batches: Batches[B]
    schedule: ScheduleConfig
    log: RunLog
    health: Health
    world: World
    saves: Saves
    steps: int
    batch_size: int
    samples_per_epoch: int
    seed: int
    precision: str
    accumulate: int = 1
    clip_grad: float = 0.0
    asked: StopRequest = field(default_factory=StopRequest)
    watchdog: Watchdog = field(default_factory=Watchdog)


def train(run: Run[B], start: int = 0) -> None:
    """Train from step `start` (as loaded from the newest checkpoint) to `run.steps`.

    Raises:
        RollbackError: the run has to go back to a checkpoint.
        StoppedError: as asked, by a signal or by the run's health.
        DivergedError: the last steps are among those that are passed over; what was before them is saved.
    """
    learner = run.learner
    optimizer = run.optimizer
    parameters = [p for p in learner.parameters() if p.requires_grad]
    statistics = Statistics(learner)
    numbers = [number for number in range(start, run.steps) if number not in run.health.skipped]
    safe = start > 0  # there is a checkpoint to go back to
    due = False
    done = start
    optimizer.zero_grad(set_to_none=True)
    run.module.train()
    for number, batch in zip(
        numbers, run.batches.iterate(start, run.steps, run.health.skipped), strict=True
    ):
        began = time.perf_counter()
        done = number + 1

        # Where we are. Random numbers are a function of the step, so a continued run draws the ones
        # it would have.
        epoch = number * run.batch_size / run.samples_per_epoch
        step = Step(
            number,
            run.steps,
            epoch,
            value(run.schedule, number, run.steps),
            measure=run.log.due(done),
        )
        torch.manual_seed(int(mix(run.seed, number, run.world.rank) >> 1))
        for group in optimizer.param_groups:
            group["lr"] = step.lr * group["factor"]
        if begins_epoch(run, number):
            learner.before_epoch(step, partial(survey, run, step))
            if learner.new_targets:
                run.health.forget_losses()

        statistics.keep()
        output = gradients(run, batch, step)
        run.scaler.unscale(parameters)

        # All ranks decide together, and before anything is applied.
        norm = clip_grad_norm(parameters, run.clip_grad)
        prepare(optimizer)
        verdict = agree(output.loss, norm, bool(run.asked.by), run.saves.late())
        run.scaler.update(verdict.finite)
        last = number == numbers[-1]
        fault: Exception | None = run.health.fault(done, verdict, run.scaler.can_yield, last)
        applied = verdict.finite and not fault
        if applied:
            run.saves.confirm()  # this step shows that the state before it is good
            update(learner, optimizer, step)
        else:
            statistics.restore()
        optimizer.zero_grad(set_to_none=True)

        signs = (
            run.health.measure(done, output.embeddings) if step.measure and verdict.finite else {}
        )
        values = run.log.step(
            done,
            {"loss": output.loss, "grad_norm": norm, **output.metrics, **signs},
            {
                "samples": done * run.batch_size,
                "lr": step.lr,
                "epoch": done * run.batch_size / run.samples_per_epoch,
            },
            seen=run.batches.seen,
            waited=run.batches.wait_seconds,
            work=run.batches.work_seconds,
            seconds=time.perf_counter() - began,
        )
        if applied:
            fault = run.health.judge(done, values, run.batch_size)
            if verdict.stop and done < run.steps:
                why = run.asked.by or "on another rank"
                fault = fault or StoppedError(f"stopped after step {done} as asked ({why}); saved")
        if isinstance(fault, RollbackError):
            raise fault

        # Only what a step was applied to is saved; a save, or a stop, that falls on another step
        # waits for the next.
        due = due or verdict.late or (run.saves.every > 0 and done % run.saves.every == 0)
        ends = last or fault is not None
        if (applied and due) or ends:
            run.saves.save(done)
            due = False
            if ends or not safe:  # later ones are proven by the step that follows
                prove(run, batch, step)
            safe = True
        if ends:
            run.saves.finish()
        if fault:
            raise fault
        run.watchdog.beat()
    if done < run.steps:
        raise run.health.ended(done, run.steps)


def prove(run: Run[B], batch: B, step: Step) -> None:
    """Confirm the state that was saved after `step`: its batch gives a finite loss and gradient
    once more, unapplied.

    Raises:
        RollbackError: it does not; the update broke something.
    """
    run.watchdog.beat()
    run = replace(run, scaler=LossScaler(False))  # an overflow would be the scale's doing
    parameters = [p for p in run.learner.parameters() if p.requires_grad]
    statistics = Statistics(run.learner)
    statistics.keep()
    output = gradients(run, batch, step)
    verdict = agree(output.loss, clip_grad_norm(parameters, 0.0))
    statistics.restore()
    run.optimizer.zero_grad(set_to_none=True)
    if fault := run.health.proof(step.number + 1, verdict):
        raise fault
    run.saves.confirm()


def begins_epoch(run: Run, number: int) -> bool:
    """Whether step `number` is the first of its epoch that is taken."""
    before = number - 1
    while before in run.health.skipped:
        before -= 1
    return (
        number * run.batch_size // run.samples_per_epoch
        > before * run.batch_size // run.samples_per_epoch
    )


def survey(run: Run[B], step: Step) -> Iterator[tuple[B, Output]]:
    """One pass over all samples, as they are in the epoch of `step`: this rank's micro-batches, and
    what the learner gives for each.

    No gradient, no count, no running statistics are left of it.
    """
    epoch = step.number * run.batch_size // run.samples_per_epoch
    parts = surveyed(
        run.learner,
        run.module,
        run.batches.survey(epoch),
        step,
        run.precision,
        run.world.device,
        run.accumulate,
    )
    for part, output in parts:
        run.watchdog.beat()
        yield part, output


def gradients(run: Run[B], batch: B, step: Step) -> Output:
    """A step's loss and gradients, not applied."""
    return forward_backward(
        run.learner,
        run.module,
        batch,
        step,
        run.precision,
        run.world.device,
        run.accumulate,
        run.scaler,
    )
