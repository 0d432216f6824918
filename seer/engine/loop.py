"""The training loop, on one page: schedules → data → forward/backward → clip → well? → update → log → save → stop?"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from seer.data.hashing import mix
from seer.data.views import Views
from seer.distributed import World
from seer.engine.batchnorm import Statistics
from seer.engine.health import Health
from seer.engine.metrics import RunLog
from seer.engine.optim import LossScaler, clip_grad_norm
from seer.engine.parallel import autocast
from seer.engine.preempt import StopRequest, Watchdog, agree
from seer.engine.schedule import ScheduleConfig, value
from seer.errors import StoppedError
from seer.methods.base import Method, Output, Step


class Batches(Protocol):
    """What the loop asks of a loader: the views of steps start..stop on this rank, in order, but for the skipped."""

    wait_seconds: float
    work_seconds: dict[str, float]
    seen: int  # fingerprint of the samples that this rank has delivered

    def iterate(self, start: int, stop: int, skipped: Collection[int] = ()) -> Iterator[Views]: ...


@dataclass
class Run:
    """One run's parts. `module` is `method` as `parallelize` wrapped it; both share their parameters."""

    method: Method
    module: nn.Module
    optimizer: Optimizer
    scaler: LossScaler
    loader: Batches
    schedule: ScheduleConfig
    log: RunLog
    health: Health
    world: World
    save: Callable[[int], None]
    save_every: int
    steps: int
    batch_size: int
    samples_per_epoch: int
    seed: int
    precision: str
    accumulate: int = 1
    clip_grad: float = 0.0
    asked: StopRequest = field(default_factory=StopRequest)
    watchdog: Watchdog = field(default_factory=Watchdog)


def train(run: Run, start: int = 0) -> None:
    """Train from step `start` (as loaded from the newest checkpoint) to `run.steps`.

    Raises:
        RollbackError: the run has to go back to a checkpoint.
        StoppedError: as asked, by a signal or by the run's health.
    """
    method, optimizer, parameters = run.method, run.optimizer, [p for p in run.method.parameters() if p.requires_grad]
    statistics, numbers = Statistics(method), [n for n in range(start, run.steps) if n not in run.health.skipped]
    optimizer.zero_grad(set_to_none=True)
    run.module.train()
    for number, views in zip(numbers, run.loader.iterate(start, run.steps, run.health.skipped), strict=True):
        began, done = time.perf_counter(), number + 1

        # Where we are. Random numbers are a function of the step, so a continued run draws the ones it would have.
        epoch = number * run.batch_size / run.samples_per_epoch
        step = Step(number, run.steps, epoch, value(run.schedule, number, run.steps), measure=run.log.due(done))
        torch.manual_seed(int(mix(run.seed, number, run.world.rank) >> 1))
        for group in optimizer.param_groups:
            group["lr"] = step.lr
        if begins_epoch(run, number):
            method.before_epoch(run.loader)

        statistics.keep()
        output = forward_backward(run, views, step)
        method.after_backward(step)
        run.scaler.unscale(parameters)

        # All ranks decide together, and before anything is applied.
        norm = clip_grad_norm(parameters, run.clip_grad)
        verdict = agree(output.loss, norm, bool(run.asked.by))
        run.scaler.update(verdict.finite)
        fault: Exception | None = run.health.fault(done, verdict, excused=run.scaler.can_yield)
        if verdict.finite and not fault:
            optimizer.step()
            method.after_update(step)
        else:
            statistics.restore()
        optimizer.zero_grad(set_to_none=True)

        signs = run.health.measure(done, output.embeddings) if step.measure and verdict.finite else {}
        values = run.log.step(
            done,
            {"loss": output.loss, "grad_norm": norm, **output.metrics, **signs},
            {"samples": done * run.batch_size, "lr": step.lr, "epoch": done * run.batch_size / run.samples_per_epoch},
            seen=run.loader.seen,
            waited=run.loader.wait_seconds,
            work=run.loader.work_seconds,
            seconds=time.perf_counter() - began,
        )
        fault = fault or run.health.judge(done, values, run.batch_size)
        if verdict.stop and done < run.steps:
            why = run.asked.by or "on another rank"
            fault = fault or StoppedError(f"stopped after step {done} as asked ({why}); saved")
        due = run.save_every and done % run.save_every == 0 and done < run.steps
        if isinstance(fault, StoppedError) or (due and not fault):
            run.save(done)
        if fault:
            raise fault
        run.watchdog.beat()
    run.save(run.steps)


def begins_epoch(run: Run, number: int) -> bool:
    """Whether step `number` is the first of its epoch that is taken."""
    before = number - 1
    while before in run.health.skipped:
        before -= 1
    return number * run.batch_size // run.samples_per_epoch > before * run.batch_size // run.samples_per_epoch


def forward_backward(run: Run, views: Views, step: Step) -> Output:
    """The batch in `accumulate` micro-batches, gradients averaged over them and over the ranks.

    Each micro-batch is a batch of its own for BatchNorm, Sinkhorn and negatives: accumulation saves memory, but what a
    loss compares is the micro-batch (over all ranks), not the global batch.
    """
    total: Output | None = None
    views = views.to(torch.float64) if run.precision == "fp64" else views
    for i, part in enumerate(micro_batches(views, run.accumulate)):
        last = i == run.accumulate - 1
        with no_sync(run.module) if not last else nullcontext():
            with autocast(run.precision, run.world.device):
                output = run.module(part, step)
            run.scaler.scale(output.loss / run.accumulate).backward()
        detached = replace(output, loss=output.loss.detach() / run.accumulate)
        total = detached if total is None else replace(detached, loss=total.loss + detached.loss)
    assert total is not None
    return total


def micro_batches(views: Views, count: int) -> list[Views]:
    """`views` cut along the batch into `count` equal parts."""
    if count == 1:
        return [views]
    crops = [c.chunk(count, dim=1) for c in views.crops]
    return [Views(tuple(c[i] for c in crops), index) for i, index in enumerate(views.index.chunk(count))]


def no_sync(module: nn.Module) -> Any:
    """Leave gradients unreduced inside (DDP); FSDP reduces every micro-batch, which costs time but no memory."""
    return module.no_sync() if isinstance(module, nn.parallel.DistributedDataParallel) else nullcontext()
