"""One training for all dense tasks: images and maps in, a task's scores out."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seer import config as configuration
from seer import distributed, files
from seer.distributed import World, on_all
from seer.engine.learner import Step
from seer.engine.options import check_batch, check_parallel
from seer.engine.parallel import parallelize
from seer.engine.peers import check_peers
from seer.engine.run import Training, enough_memory, live, parting
from seer.errors import InputError
from seer.eval.data.imagepairs import DenseImages
from seer.eval.probes.feature_cache import weights_hash
from seer.eval.scores import Score
from seer.eval.trained.dense.denselearner import OUTPUTS, DenseLearner
from seer.eval.trained.dense.densetask import DenseTask
from seer.eval.trained.dense.inference import Seen, output_of, passes
from seer.eval.trained.dense.mapsheet import Shown, sheet, shown
from seer.eval.trained.dense.options import DenseConfig
from seer.eval.trained.dense.pairbatches import PairBatch, PairCutter
from seer.eval.trained.detection.boxtask import loader_of
from seer.eval.trained.detection.detect import precise
from seer.eval.trained.detection.testing import shares
from seer.eval.trained.runs import check_run_dir, check_same, housed, options_of
from seer.interop.levels import levels_of
from seer.interop.models import Model, load_model
from seer.precision import autocast
from seer.rundir.names import CONFIG, IMAGES, MAPS
from seer.terminal import outlasting_terminal

TOO_LARGE = "the network; use a smaller model, or parallel.mode=fsdp on more devices"
WORST = 12  # images of the sheet


class Recipe(NamedTuple):
    """A dense task, as the training takes it: a module-level constant, of functions that can be named.

    Attributes:
        read: training and test images of `--data`.
        make: the task, of the options and these images. Raises `InputError` for what cannot be trained or scored.
    """

    read: Callable[[str], tuple[Any, Any]]
    make: Callable[[Any, Any, Any], DenseTask]


def configure(
    recipe: Recipe, task: str, model: str, data: str, overrides: list[str]
) -> DenseConfig:
    """The configuration of a training, with its run directory and its steps.

    Raises:
        InputError: in one line, what is wrong with options, model, data or run directory.
    """
    config: DenseConfig = options_of(task, model, data, overrides)
    check_options(config)
    train, test = recipe.read(data)
    made = recipe.make(config, train, test)
    if len(train) < config.batch_size:
        raise InputError(
            f"{data}: {len(train)} training images are fewer than one batch; "
            f"use batch_size={len(train)} or less"
        )
    steps = config.steps or math.ceil(config.epochs * len(train) / config.batch_size)
    config = replace(config, steps=steps)
    loaded = load_model(model)
    config = replace(config, weights=weights_hash(loaded.backbone))
    DenseLearner(levels_of(loaded.backbone, loaded.label), made, config)
    config = housed(config, task, loaded)
    check_run_dir(config)
    return config


def check_options(config: DenseConfig) -> None:
    """Raise `InputError` for options that do not go together."""
    for name, sides in (("crop", config.crop), ("window", config.window)):
        if len(sides) == 1:
            raise InputError(f"{name}={sides}: give height and width, or [] for none")
    if config.scales[0] > config.scales[1]:
        raise InputError(f"scales={config.scales}: give the least factor first")
    if config.inference == "slide" and not (config.window or config.crop):
        raise InputError("inference=slide: needs window=, the height and width of what slides")


def check(config: DenseConfig, ranks: int) -> None:
    """Raise `InputError` for what `ranks` processes cannot do."""
    check_batch(config, ranks)
    check_parallel(config.parallel, ranks)
    group = min(config.parallel.bn_group or ranks, ranks)
    together = config.batch_size // ranks // config.accumulate * group
    if together < 2:
        raise InputError(
            f"batch_size={config.batch_size}: a head's BatchNorm would see one image at a time, and the mean of a map "
            "is one place; use 2 images or more for each group of processes (parallel.bn_group)"
        )
    if config.parallel.deferred_init:
        raise InputError("parallel.deferred_init: a dense head begins with a model's weights")
    if config.loader.device_decode:
        raise InputError("loader.device_decode: whole images are decoded by workers; leave it out")


def run(recipe: Recipe, config: DenseConfig) -> list[Score]:
    """Train, or go on training, in this process of the world, and score. The scores are the main
    process's.
    """
    with outlasting_terminal():
        world = distributed.init(config.device)
        check_peers()
        check(config, world.size)
        train, test = recipe.read(config.data)
        task = recipe.make(config, train, test)
        with parting():
            scores = trained(config, task, train, test, world)
    return scores if world.is_main else []


def trained(
    config: DenseConfig, task: DenseTask, train: DenseImages, test: DenseImages, world: World
) -> list[Score]:
    """Train on the training images, or go on, and score the others, on all ranks together."""
    model = load_model(config.model)
    check_same(model, config)
    scores: list[Score] = []
    training = set_up(config, task, model, train, world)

    def end() -> None:
        if config.precise:
            precise(training, config, world)
        results, worst = results_of(training, config, task, model, test, world)
        if world.is_main:
            details = {
                "steps": config.steps,
                "training_images": len(train),
                "left_out": {"training": train.counts, "test": test.counts},
            }
            scores.extend(task.scores(results, test, details))
            (Path(config.run_dir) / IMAGES).mkdir(exist_ok=True)
            with files.replacing(Path(config.run_dir) / IMAGES / MAPS) as beside:
                beside.write_bytes(sheet(worst, task.legend()))

    training.end = end
    distributed.barrier()  # no rank writes before every rank has looked
    live(training, world)
    return scores


def set_up(
    config: DenseConfig, task: DenseTask, model: Model, train: DenseImages, world: World
) -> Training[PairBatch]:
    """A training of a dense task as the engine takes it."""
    torch.manual_seed(config.seed)
    with enough_memory(world.device, TOO_LARGE):
        levels = levels_of(model.backbone, model.label)
        learner = DenseLearner(levels, task, config)
        module = parallelize(learner, config.parallel, world, config.precision)
    cutter = PairCutter(train, task, config, model.mean, model.std, max(levels.strides))
    wide = None if config.crop else train.sizes[:, 1] >= train.sizes[:, 0]
    loader = loader_of(train, config, cutter, world, wide)
    size = f"{config.crop[0]} × {config.crop[1]} px of images" if config.crop else "whole images"
    return Training(
        config=config,
        learner=learner,
        module=module,
        batches=loader,
        sees=f"{size}, {task.words}",
        prepare=lambda: configuration.save(config, Path(config.run_dir) / CONFIG),
    )


@torch.no_grad()
def results_of(
    training: Training[PairBatch],
    config: DenseConfig,
    task: DenseTask,
    model: Model,
    test: DenseImages,
    world: World,
) -> tuple[list[Any], list[Shown]]:
    """What is measured of each test image, in their order, and the worst ones' pictures. Each rank takes its
    share; all ranks get all. A collective.
    """
    module = training.module.eval()
    levels: Any = training.learner.backbone
    seen = Seen(model.mean, model.std, max(levels.strides), world.device)
    network = partial(_network, module, config, world)
    own: list[tuple[int, Any]] = []
    worst: list[Shown] = []
    for i, there in shares(len(test), world):
        image = test.image(i)
        activated = output_of(network, image, task, config, seen)
        _keep_step(network, i, test, config, world)
        if not there:
            continue
        target = task.target(test, i)
        decision = task.decided(activated)
        measured = task.measured(decision, target)
        own.append((i, measured))
        agreement = task.agreement(measured)
        if len(worst) < WORST or agreement < worst[-1].agreement:
            pictures = [image, task.painted(target), task.painted(decision)]
            worst.append(shown(agreement, i, pictures))
            worst = sorted(worst)[:WORST]
    rows = sorted((row for ranks in on_all(lambda: own) for row in ranks), key=lambda row: row[0])
    every = sorted(each for ranks in on_all(lambda: worst) for each in ranks)
    return [measured for _, measured in rows], every[:WORST]


def _network(module: nn.Module, config: DenseConfig, world: World, pixels: Tensor) -> Tensor:
    """The outputs of an image."""
    none = torch.zeros(1, dtype=torch.int64, device=pixels.device)
    with autocast(config.precision, world.device):
        outputs: Tensor = module(
            PairBatch(pixels, none, none), Step(config.steps, config.steps)
        ).metrics[OUTPUTS]
    return outputs


def _keep_step(
    network: Callable[[Tensor], Tensor],
    i: int,
    test: DenseImages,
    config: DenseConfig,
    world: World,
) -> None:
    """Run the network as often as the rank that does so most for its image of this round: sharded
    parameters are gathered by all ranks together.
    """
    if world.size == 1 or config.parallel.mode != "fsdp":
        return
    first = i // world.size * world.size
    if i == len(test) - 1:  # also what stands in for an image that is not there
        first = (len(test) - 1) // world.size * world.size
    others = range(first, min(first + world.size, len(test)))
    most = max(passes(test.sizes[j].tolist(), config) for j in others)
    side = 64
    dtype = torch.float64 if config.precision == "fp64" else torch.float32
    blank = torch.zeros(1, 3, side, side, device=world.device, dtype=dtype)
    for _ in range(most - passes(test.sizes[i].tolist(), config)):
        network(blank)
