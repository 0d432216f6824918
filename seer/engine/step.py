"""One training step in two halves: forward and backward, then the update. Whatever trains calls
these.
"""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from seer.distributed import CPU
from seer.engine.batchnorm import Statistics
from seer.engine.learner import B, Learner, Output, Step
from seer.engine.optim import SGD, LossScaler
from seer.precision import autocast


def train_step(
    learner: Learner[B],
    module: nn.Module,
    optimizer: Optimizer,
    batch: B,
    step: Step,
    precision: str = "fp32",
) -> Output:
    """A whole step at the optimizer's own rates, without what guards it in a run. `module`: see
    `forward_backward`.
    """
    output = forward_backward(learner, module, batch, step, precision, batch.index.device)
    update(learner, optimizer, step)
    optimizer.zero_grad(set_to_none=True)
    return output


def forward_backward(
    learner: Learner[B],
    module: nn.Module,
    batch: B,
    step: Step,
    precision: str = "fp32",
    device: torch.device = CPU,
    accumulate: int = 1,
    scaler: LossScaler | None = None,
) -> Output:
    """The batch in `accumulate` micro-batches, gradients averaged over them and over the ranks,
    scaled by `scaler`.

    Each micro-batch is a batch of its own for BatchNorm, Sinkhorn and negatives: accumulation saves
    memory, but what a loss compares is the micro-batch (over all ranks), not the global batch.

    Args:
        module: `learner` as `parallelize` wrapped it.

    Returns:
        The mean loss, detached, and what the last micro-batch gave besides.
    """
    scaler = scaler or LossScaler(False)
    parts = parts_of(batch, precision, accumulate)
    losses = []
    for part in parts:
        with no_sync(module) if part is not parts[-1] else nullcontext():
            with autocast(precision, device):
                output = module(part, step)
            scaler.scale(output.loss / accumulate).backward()
        losses.append(output.loss.detach() / accumulate)
    learner.after_backward(step)
    return replace(output, loss=sum(losses[1:], losses[0]))


def surveyed(
    learner: Learner[B],
    module: nn.Module,
    batches: Iterable[B],
    step: Step,
    precision: str = "fp32",
    device: torch.device = CPU,
    accumulate: int = 1,
) -> Iterator[tuple[B, Output]]:
    """Each micro-batch of `batches`, and what the learner gives for it, without gradients; no running
    statistics are left of it. `module`: see `forward_backward`.
    """
    step = replace(step, measure=False, surveying=True)
    statistics = Statistics(learner)
    statistics.keep()
    try:
        for batch in batches:
            for part in parts_of(batch, precision, accumulate):
                with torch.no_grad(), autocast(precision, device):
                    output = module(part, step)
                yield part, output
    finally:
        statistics.restore()


def parts_of(batch: B, precision: str, accumulate: int) -> list[B]:
    """A batch in the type of the parameters, as micro-batches."""
    batch = batch.to(torch.float64) if precision == "fp64" else batch
    return batch.chunk(accumulate)


def prepare(optimizer: Optimizer) -> None:
    """What an optimizer can do of its update before it is known whether the step is applied."""
    if isinstance(optimizer, SGD):
        optimizer.prepare()


def update(learner: Learner, optimizer: Optimizer, step: Step) -> None:
    """Apply the gradients; the learner's queues and teachers follow."""
    optimizer.step()
    learner.after_update(step)


def no_sync(module: nn.Module) -> Any:
    """Leave gradients unreduced inside (DDP); FSDP reduces every micro-batch, which costs time but
    no memory.
    """
    return (
        module.no_sync()
        if isinstance(module, nn.parallel.DistributedDataParallel)
        else nullcontext()
    )
