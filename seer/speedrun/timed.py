"""The training of a speedrun: steps until a time has passed, and a schedule that follows the time."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch._inductor.utils import fresh_cache
from torch.optim import Optimizer

from seer import distributed
from seer.data.views import Views
from seer.distributed import all_reduce_mean, broadcast
from seer.engine.learner import Batches, Output, Step
from seer.engine.optim import build_optimizer, clip_grad_norm
from seer.engine.schedule import ScheduleConfig, effective, value
from seer.engine.step import surveyed, update
from seer.errors import DivergedError
from seer.methods.base import Method
from seer.speedrun.entry import Speedrun
from seer.speedrun.replay import Gradients, prepare
from seer.speedrun.resident import ResidentBatches

TICKS = 10**6  # a run has a time instead of a number of steps: so many ticks of it
MOST_STEPS = 10**9
QUIET = 5.0  # seconds between two lines

Clock = Callable[[], float]
Say = Callable[[str], None]


class Stopwatch:
    """Seconds since the images were in memory, and what they went into."""

    def __init__(self, clock: Clock, device: torch.device) -> None:
        self.clock = clock
        self.device = device
        self.parts: dict[str, float] = {}
        self.began = clock()

    @property
    def seconds(self) -> float:
        return self.clock() - self.began

    def lap(self, part: str) -> None:
        """What has passed since the last lap was for this part, too if it had one before."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        passed = self.seconds - sum(self.parts.values())
        self.parts[part] = self.parts.get(part, 0.0) + passed


def compiled(
    config: Speedrun, method: Method, module: nn.Module, batches: ResidentBatches
) -> Gradients:
    """How gradients are made, tried out on the first batch."""
    module.train()
    views = next(batches.iterate(0, 1))
    batches.seen = 0
    unfrozen = Step(TICKS, TICKS, measure=False)
    # Whoever ran before has left compiled kernels on the disk; they are part of this run's time.
    with fresh_cache() if config.parallel.compile else nullcontext():
        return prepare(method, module, views, unfrozen, config.precision, config.graph)


def train(
    config: Speedrun,
    method: Method,
    module: nn.Module,
    gradients: Gradients,
    batches: ResidentBatches,
    watch: Stopwatch,
    deadline: float,
    say: Say,
) -> int:
    """Take steps until `deadline`, in seconds of the watch; their number. The schedule follows the
    time.

    Raises:
        DivergedError: the loss is not finite.
    """
    optimizer = build_optimizer(method, config.optim)
    schedule = effective(config.schedule, config.batch_size, TICKS)
    parameters = [p for p in method.parameters() if p.requires_grad]
    began = watch.seconds
    progress = Progress(config, batches.samples, watch, say)

    def share(samples: int) -> float:
        return agreed((watch.seconds - began) / (deadline - began), batches.device)

    surveying = partial(survey, config, method, module, batches)
    done = 0
    for views, step in paced(
        method, optimizer, schedule, batches, config.batch_size, share, surveying
    ):
        loss = gradients.of(views, step)
        if config.optim.clip_grad:
            clip_grad_norm(parameters, config.optim.clip_grad)
        update(method, optimizer, step)
        optimizer.zero_grad(set_to_none=True)
        done += 1
        if done % config.every == 0:
            progress.look(loss, done, step.number / TICKS)
    return done


def paced(
    method: Method,
    optimizer: Optimizer,
    schedule: ScheduleConfig,
    batches: Batches[Views],
    batch_size: int,
    share: Callable[[int], float],
    surveying: Callable[[Step], Iterator[tuple[Views, Output]]],
) -> Iterator[tuple[Views, Step]]:
    """Batches and the steps that they are for, as long as something is left of what a training may
    take. Rates are set, and an epoch has begun, before a batch is given.

    Args:
        schedule: effective, of `TICKS` steps.
        share: what is spent after so many samples; 1 and more: all.
        surveying: a pass over all images, see `Learner.before_epoch`.
    """
    samples = 0
    for views in batches.iterate(0, MOST_STEPS):
        spent = share(samples)
        if spent >= 1:
            return
        tick = int(spent * TICKS)
        epoch = samples / batches.samples
        step = Step(tick, TICKS, epoch, value(schedule, tick, TICKS), measure=False)
        if samples % batches.samples < batch_size:  # an epoch begins
            method.before_epoch(step, partial(surveying, step))
        for group in optimizer.param_groups:
            group["lr"] = step.lr * group["factor"]
        yield views, step
        samples += batch_size


def survey(
    config: Speedrun, method: Method, module: nn.Module, batches: ResidentBatches, step: Step
) -> Iterator[tuple[Views, Output]]:
    """A pass over all images as they are in the epoch of `step`; see `Learner.before_epoch`."""
    views = batches.survey(int(step.epoch))
    return surveyed(method, module, views, step, config.precision, batches.device)


class Progress:
    """Looks at the loss now and then, and speaks every few seconds."""

    def __init__(self, config: Speedrun, samples: int, watch: Stopwatch, say: Say) -> None:
        self.batch_size = config.batch_size
        self.samples = samples
        self.watch = watch
        self.say = say
        self.spoken = watch.seconds
        self.steps = 0  # when it spoke last

    def look(self, loss: Tensor, steps: int, share: float) -> None:
        """The one place where a training waits for the device. Raises `DivergedError`."""
        level = float(all_reduce_mean(loss))
        if not math.isfinite(level):
            raise DivergedError(f"the loss is {level} after step {steps}; lower schedule.peak")
        seconds = self.watch.seconds
        passed = seconds - self.spoken
        if passed < QUIET:
            return
        rate = (steps - self.steps) * self.batch_size / passed
        epoch = steps * self.batch_size / self.samples
        where = f"{seconds:6.1f} s  {share:4.0%}  step {steps:,}  epoch {epoch:.1f}"
        self.say(f"{where}  loss {level:.4f}  {rate:,.0f} images/s")
        self.spoken = seconds
        self.steps = steps


def agreed(share: float, device: torch.device) -> float:
    """The first rank's share of the time: all ranks take equally many steps."""
    if distributed.size() == 1:
        return share
    return float(broadcast(torch.tensor(share, dtype=torch.float64, device=device)))
