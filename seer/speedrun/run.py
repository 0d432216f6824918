"""A speedrun: from images in memory to kNN accuracy within a time. docs/speedrun.md has the rules."""

import math
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor.utils import fresh_cache

from seer import config as configuration
from seer import distributed
from seer.backbones import build
from seer.data.views import Views
from seer.distributed import World, all_reduce_mean, all_reduce_sum, broadcast
from seer.engine.learner import Output, Step
from seer.engine.metrics import environment
from seer.engine.optim import build_optimizer, clip_grad_norm
from seer.engine.parallel import parallelize
from seer.engine.run import enough_memory
from seer.engine.schedule import effective, value
from seer.engine.step import surveyed, update
from seer.errors import DivergedError, InputError
from seer.eval.probes.features import to_input
from seer.eval.probes.knn import vote
from seer.eval.probes.search import search
from seer.eval.scores import Score, accuracy
from seer.interop.models import Model
from seer.interop.teaching import teach
from seer.methods import make
from seer.methods.base import Method
from seer.precision import autocast
from seer.speedrun.decoded import Labels, Pixels, read
from seer.speedrun.entry import Speedrun, check
from seer.speedrun.replay import Gradients, prepare
from seer.speedrun.resident import ResidentBatches, whole
from seer.speedrun.whitening import whiten_features, whiten_stem
from seer.terminal import say as say_on

# Of the vote: Wu et al. 2018, as `seer eval knn` has it.
K = 20
TEMPERATURE = 0.07

TICKS = 10**6  # a run has a time instead of a number of steps: so many ticks of it
MOST_STEPS = 10**9
WHITENED = 2000  # images whose patches tell the filters of a whitening stem
MARGIN = 1.25  # on the time that features were seen to take
QUIET = 5.0  # seconds between two lines

Clock = Callable[[], float]
Say = Callable[[str], None]
on_stderr: Say = partial(say_on, json_target="-")


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


def run(config: Speedrun, clock: Clock = time.perf_counter, say: Say = on_stderr) -> dict[str, Any]:
    """Run it, in this process of the world. Returns a row of the table.

    Raises:
        InputError: wrong input, too little memory or time. DivergedError: a loss that is not finite.
    """
    world = distributed.init(config.device)
    if not world.is_main:
        say = _silent
    check(config, world.size)
    pixels, labels = read(config.data)
    if len(pixels.train) < K:
        raise InputError(f"{config.data}: {len(pixels.train)} training images; the vote needs {K}")
    distributed.barrier()
    say(f"{len(pixels.train):,} + {len(pixels.test):,} images in memory; the clock starts")
    watch = Stopwatch(clock, world.device)
    with enough_memory(world.device, "this recipe; use a smaller batch_size, or fewer crops"):
        bank, queries, trained = represent(config, pixels, world, watch, say)
        score = decide(bank, queries, labels, world)
    watch.lap("knn")
    seconds = watch.seconds
    distributed.shutdown()
    return {
        "recipe": config.name,
        "method": config.method.name,
        "backbone": config.backbone.name,
        "seed": config.seed,
        "knn": score.value,
        "low": score.low,
        "high": score.high,
        "seconds": seconds,
        "minutes": config.minutes,
        "in_time": seconds <= 60 * config.minutes,
        "parts": watch.parts,
        **trained,
        "batch_size": config.batch_size,
        "precision": config.precision,
        "images": [len(pixels.train), len(pixels.test)],
        "config_hash": configuration.identity(config),
        **machine(world),
    }


def represent(
    config: Speedrun, pixels: Pixels, world: World, watch: Stopwatch, say: Say
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Train, without a label, until what is left of the time is what the features will take.

    Returns:
        Features `(N, D)` of training and test images, and what the row tells of the training.
    """
    torch.manual_seed(config.seed)
    torch.backends.cudnn.benchmark = True  # all steps have the same shapes
    method = make(build(config.backbone), config.method, len(pixels.train))
    size = max(view.size for view in config.views.values() if view.count)
    teach(method, config.mean, config.std, len(pixels.train), size)
    if config.whiten:
        whiten_stem(method.backbone, as_input(config, method.backbone, pixels.train[:WHITENED]))
    module = parallelize(method, config.parallel, world, config.precision)
    batches = ResidentBatches(
        pixels.train,
        config.views,
        config.batch_size,
        config.seed,
        config.mean,
        config.std,
        world,
        config.data,
    )
    watch.lap("build")
    deadline = (
        60 * config.minutes - config.reserve - feature_seconds(config, method, pixels, world, watch)
    )
    gradients = compiled(config, method, module, batches)
    watch.lap("compile")
    began = watch.seconds
    if began >= deadline:
        raise InputError(
            f"minutes={config.minutes:g}: after {began:.0f} s of building and compiling no time is left to train; "
            "give more, or a smaller network"
        )
    steps = train(config, method, module, gradients, batches, watch, deadline, say)
    watch.lap("train")
    for buffer in method.backbone.buffers():
        broadcast(buffer)  # BatchNorm's statistics may be each rank's own
    bank, queries = (
        features(config, method.backbone, images, world) for images in (pixels.train, pixels.test)
    )
    if config.whiten_features:
        bank, queries = whiten_features(bank, queries, config.whiten_features)
    watch.lap("features")
    images = steps * config.batch_size
    crops = sum(view.count for view in config.views.values())
    rate = images / watch.parts["train"]
    told = {
        "steps": steps,
        "epochs": images / len(pixels.train),
        "images_per_second": rate,
        "crops_per_second": rate * crops,
        "graph": gradients.recorded,
    }
    return bank, queries, told


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
    done = 0
    for views in batches.iterate(0, MOST_STEPS):
        share = agreed((watch.seconds - began) / (deadline - began), views.index.device)
        if share >= 1:
            break
        tick = int(share * TICKS)
        epoch = done * config.batch_size / batches.samples
        step = Step(tick, TICKS, epoch, value(schedule, tick, TICKS), measure=False)
        if done * config.batch_size % batches.samples < config.batch_size:  # an epoch begins
            method.before_epoch(step, partial(survey, config, method, module, batches, step))
        loss = gradients.of(views, step)
        if config.optim.clip_grad:
            clip_grad_norm(parameters, config.optim.clip_grad)
        for group in optimizer.param_groups:
            group["lr"] = step.lr * group["factor"]
        update(method, optimizer, step)
        optimizer.zero_grad(set_to_none=True)
        done += 1
        if done % config.every == 0:
            progress.look(loss, done, share)
    return done


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


def feature_seconds(
    config: Speedrun, method: Method, pixels: Pixels, world: World, watch: Stopwatch
) -> float:
    """What the features of all images will take, by those of a few, with a margin."""
    few = pixels.train[: 2 * config.batch_size]
    features(config, method.backbone, few, world)  # libraries choose their kernels
    watch.lap("build")
    features(config, method.backbone, few, world)
    watch.lap("rehearsal")
    count = len(pixels.train) + len(pixels.test)
    return MARGIN * watch.parts["rehearsal"] * count / len(few)


@torch.no_grad()
def features(config: Speedrun, backbone: nn.Module, images: Tensor, world: World) -> Tensor:
    """Features `(N, D)` float32 of whole images `(N, H, W, 3)` uint8, on the device of every rank.

    Raises:
        DivergedError: they are not finite.
    """
    backbone.eval()
    width: int = backbone.out_dim  # type: ignore[assignment]
    made = torch.zeros(len(images), width, device=world.device)
    rows = torch.arange(len(images)).split(config.batch_size)
    # Blocks are compiled for training; to compile them again would take longer than it spares.
    with torch.compiler.set_stance("force_eager"):
        for part in rows[world.rank :: world.size]:
            inputs = as_input(config, backbone, images[part].to(world.device))
            with autocast(config.precision, world.device):
                values = backbone(inputs)
            made[part.to(world.device)] = values.float()
    made = all_reduce_sum(made)
    if not bool(made.isfinite().all()):
        raise DivergedError("features are not finite; lower schedule.peak")
    return made


def as_input(config: Speedrun, backbone: nn.Module, images: Tensor) -> Tensor:
    """Whole images `(N, H, W, 3)` uint8 as the network sees them in the test, `(N, 3, S, S)`."""
    model = Model(backbone, config.name, images.shape[1], config.mean, config.std, "")
    return to_input(model, whole(images, config.size))


def decide(bank: Tensor, queries: Tensor, labels: Labels, world: World) -> Score:
    """The vote: the only place that sees labels."""
    similarity, nearest = search(queries, bank, K, world.device)
    predicted = vote(similarity, labels.train[nearest], labels.classes, TEMPERATURE)
    return accuracy("top1_k20", "top-1, k = 20", predicted == labels.test)


def machine(world: World) -> dict[str, Any]:
    """What it ran on and with; memory is this process's peak: of the GPU if there is one."""
    about = environment()
    if world.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
        card = torch.cuda.get_device_name()
    else:
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        card = about["cpu"]
    versions = {
        "seer": about["seer"],
        "python": about["python"],
        "cuda": about["cuda"],
        "torch": torch.__version__,
    }
    return {
        "card": card,
        "cores": about["cores"],
        "processes": world.size,
        "peak_memory_gib": round(peak / 2**30, 2),
        "versions": versions,
        "time": about["time"],
    }


def _silent(line: str) -> None:
    """What other ranks than the first say."""


def describe(row: dict[str, Any]) -> str:
    """A row in a line."""
    score, low, high = (f"{100 * row[key]:.2f}" for key in ("knn", "low", "high"))
    late = "" if row["in_time"] else f", later than its {row['minutes']:g} minutes"
    return f"kNN {score} % [{low}, {high}] after {row['seconds']:.1f} s{late}"
