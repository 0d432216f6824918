"""The training loop, on one page: schedules → data → forward/backward → clip → finite? → update → log → save → stop?"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from seer.data.hashing import mix
from seer.data.views import Views
from seer.distributed import World
from seer.engine.metrics import RunLog
from seer.engine.optim import LossScaler, clip_grad_norm
from seer.engine.parallel import autocast
from seer.engine.preempt import StopRequest, Watchdog, agree
from seer.engine.schedule import ScheduleConfig, value
from seer.errors import DivergedError, StoppedError
from seer.methods.base import Method, Output, Step


class Batches(Protocol):
    """What the loop asks of a loader: the views of steps start..stop on this rank, in order."""

    wait_seconds: float
    work_seconds: dict[str, float]
    seen: int  # fingerprint of the samples that this rank has delivered

    def iterate(self, start: int, stop: int) -> Iterator[Views]: ...


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
    patience: int = 3
    asked: StopRequest = field(default_factory=StopRequest)
    watchdog: Watchdog = field(default_factory=Watchdog)


def train(run: Run, start: int = 0) -> None:
    """Train from step `start` (as loaded from the newest checkpoint) to `run.steps`."""
    method, optimizer, parameters = run.method, run.optimizer, [p for p in run.method.parameters() if p.requires_grad]
    bad_steps = 0
    run.module.train()
    for number, views in enumerate(run.loader.iterate(start, run.steps), start):
        began = time.perf_counter()

        # Where we are. Random numbers are a function of the step, so a continued run draws the ones it would have.
        epoch = number * run.batch_size / run.samples_per_epoch
        step = Step(number, run.steps, epoch, lr=value(run.schedule, number, run.steps))
        torch.manual_seed(int(mix(run.seed, number, run.world.rank) >> 1))
        for group in optimizer.param_groups:
            group["lr"] = step.lr
        if number == 0 or math.floor(epoch) > math.floor((number - 1) * run.batch_size / run.samples_per_epoch):
            method.before_epoch(run.loader)

        output = forward_backward(run, views, step)
        method.after_backward(step)
        run.scaler.unscale(parameters)

        # All ranks decide together, and before anything is applied.
        norm = clip_grad_norm(parameters, run.clip_grad)
        finite, stop = agree(output.loss, norm, bool(run.asked.by))
        if finite:
            optimizer.step()
            method.after_update(step)
        optimizer.zero_grad(set_to_none=True)
        run.scaler.update(finite)
        bad_steps = 0 if finite or run.scaler.can_yield else bad_steps + 1
        if bad_steps == run.patience:
            raise DivergedError(
                f"step {number + 1}: {bad_steps} steps in a row without a finite loss and gradient; "
                "lower the learning rate, lengthen its warm-up, or use precision=bf16"
            )

        done = number + 1
        run.log.step(
            done,
            {"loss": output.loss, **output.metrics},
            {"samples": done * run.batch_size, "lr": step.lr, "epoch": done * run.batch_size / run.samples_per_epoch},
            seen=run.loader.seen,
            waited=run.loader.wait_seconds,
            work=run.loader.work_seconds,
            seconds=time.perf_counter() - began,
        )
        if done == run.steps or stop or (run.save_every and done % run.save_every == 0):
            run.save(done)
        if stop and done < run.steps:
            raise StoppedError(f"stopped after step {done} as asked ({run.asked.by or 'on another rank'}); saved")
        run.watchdog.beat()


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
