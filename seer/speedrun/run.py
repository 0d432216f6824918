"""A speedrun: from images in memory to kNN accuracy within a time. docs/speedrun.md has the rules."""

import resource
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from seer import config as configuration
from seer import distributed
from seer.backbones import build
from seer.distributed import World, all_reduce_sum, broadcast
from seer.engine.metrics import environment
from seer.engine.parallel import parallelize
from seer.engine.run import enough_memory
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
from seer.speedrun.resident import ResidentBatches, whole
from seer.speedrun.timed import Clock, Say, Stopwatch, compiled, train
from seer.speedrun.whitening import whiten_features, whiten_stem
from seer.terminal import say as say_on

# Of the vote: Wu et al. 2018, as `seer eval knn` has it.
K = 20
TEMPERATURE = 0.07

WHITENED = 2000  # images whose patches tell the filters of a whitening stem
MARGIN = 1.25  # on the time that features were seen to take

on_stderr: Say = partial(say_on, json_target="-")


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
