"""Finetuning: a backbone and a linear classifier on it, trained together on labelled images, scored
on others.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from seer import config as configuration
from seer import distributed, files
from seer.data.crops.labelled_crop import LabelledCrop
from seer.data.labelled import Labelled, LabelledSamples
from seer.data.loader import Loader
from seer.data.order import Order
from seer.data.views import LabelledImages
from seer.distributed import World, all_reduce_sum
from seer.engine.learner import Step
from seer.engine.options import check_batch, check_parallel
from seer.engine.parallel import parallelize
from seer.engine.peers import check_peers
from seer.engine.run import Training, enough_memory, live, parting
from seer.errors import InputError
from seer.eval.data.datasets import PER_CLASS
from seer.eval.probes.feature_cache import weights_hash
from seer.eval.probes.features import CROPS, stack, to_input
from seer.eval.scores import Score, accuracy, chance, mean_per_class
from seer.eval.trained import grid
from seer.eval.trained.classifier import NO_IMAGE, Classifier, stage_rates
from seer.eval.trained.images import Images, images_of
from seer.eval.trained.options import FinetuneConfig
from seer.eval.trained.runs import check_run_dir, check_same, housed, options_of
from seer.eval.trained.selection import divided, search, timed, timed_points, try_point
from seer.interop.models import Model, load_model, sized
from seer.precision import autocast
from seer.rundir.names import CONFIG
from seer.start import tell
from seer.terminal import outlasting_terminal

TOO_LARGE = "the model; use a smaller one, or parallel.mode=fsdp on more devices"
BLANK = np.zeros((1, 1, 3), np.uint8)
FEW_STEPS = 100  # below which the classifier, which begins at random, has hardly learned
USUAL_EPOCHS = FinetuneConfig.epochs


def configure(task: str, model: str, data: str, overrides: list[str]) -> FinetuneConfig:
    """The configuration of a training, of the task's own class of options, with its run directory,
    and with its steps where no grid decides on them; of a point of the grid if one is asked for.

    Raises:
        InputError: in one line, what is wrong with options, model, data or run directory.
    """
    given = [override.partition("=")[0] for override in overrides]
    config = options_of(task, model, data, overrides)
    searched = grid.without(config.grid, given)
    if config.grid and not searched:
        tell(f"no grid: {', '.join(sorted(config.searched()))} given, and one training is made")
    config = replace(config, grid=searched)
    grid.points_of(config)  # what is wrong with them is told before images are read
    images = images_of(config)
    config = config.settled(images.train, given)
    loaded = load_model(model)
    config = replace(config, weights=weights_hash(loaded.backbone))
    if not config.grid:
        config = timed(config, len(images.train))
    config = housed(config, task, loaded)
    points = timed_points(config, images)
    trainings = points or [config]
    for training in trainings:
        check_training(training, images, loaded)
        check_run_dir(training)
    for size in {size for training in trainings for size in (training.size, training.test_size)}:
        sized(loaded, size)
    if points:
        check_run_dir(config, {*config.searched(), *grid.LENGTH})
    if config.point > len(points):
        raise InputError(f"point={config.point}: the grid has {len(points)} points")
    return points[config.point - 1] if config.point else config


def check_training(config: FinetuneConfig, images: Images, model: Model) -> None:
    """Raise `InputError` for what these images, or this model, cannot do."""
    seen = divided(config, images)[0] if config.point else images
    config.check_images(seen.train)
    stage_rates(model.backbone, config.layer_decay)
    config.decay()


def check(config: FinetuneConfig, ranks: int) -> None:
    """Raise `InputError` for what `ranks` processes cannot do."""
    points = [] if config.point else grid.points_of(config)
    for training in points or [config]:
        check_batch(training, ranks)
        check_parallel(training.parallel, ranks)
        images = training.batch_size // (ranks * training.accumulate)
        if training.mixup and images % 2:
            raise InputError(
                f"mixup={training.mixup:g}: images are mixed in pairs, and batch_size={training.batch_size} gives "
                f"{images} to each of {ranks} processes × {training.accumulate} micro-batches; make it even"
            )


def run(config: FinetuneConfig) -> list[Score]:
    """Train, or go on training, in this process of the world, and score. The scores are the main
    process's; a point of a grid by itself has none.
    """
    with outlasting_terminal():
        world = distributed.init(config.device)
        check_peers()
        check(config, world.size)
        images = images_of(config)
        with parting():
            if config.point:
                try_point(config, images, world, train)
                return []
            if config.grid:
                scores = search(config, images, world, train)
            else:
                scores = train(config, images, world)
    return [config.renamed(score) for score in scores] if world.is_main else []


def train(config: FinetuneConfig, images: Images, world: World) -> list[Score]:
    """Train on the training images, or go on, and score the others, on all ranks together."""
    model = load_model(config.model)
    check_same(model, config)
    model = replace(model, size=config.size or model.size)
    tested = replace(model, size=config.test_size or model.size)
    scores: list[Score] = []
    training = set_up(config, model, images.train, world)
    training.end = lambda: scores.extend(scores_of(training.module, config, tested, images, world))
    distributed.barrier()  # no rank writes before every rank has looked
    live(training, world)
    if world.is_main and not config.point and (remark := shortness(config, len(images.train))):
        tell(remark)
    return scores


def shortness(config: FinetuneConfig, images: int) -> str:
    """That a finetuning on so many images was too short for its score to mean much, and what to
    set; "" if it was not.
    """
    epochs = config.steps * config.batch_size / images
    if epochs >= 1 and config.steps >= FEW_STEPS:
        return ""
    usual = math.ceil(USUAL_EPOCHS * images / config.batch_size)
    return (
        f"{config.steps:,} steps ({epochs:.3g} epochs) are a short finetuning, whose score can be below a linear "
        f"probe's and says little of the backbone; set steps={max(FEW_STEPS, usual)} or more"
    )


def set_up(
    config: FinetuneConfig, model: Model, train: Labelled, world: World
) -> Training[LabelledImages]:
    """A finetuning as the engine takes it."""
    torch.manual_seed(config.seed)
    with enough_memory(world.device, TOO_LARGE):
        learner = Classifier(
            model.backbone,
            len(train.classes),
            config.head_rate,
            config.layer_decay,
            config.label_smoothing,
        )
        module = parallelize(learner, config.parallel, world, config.precision)
    cutter = LabelledCrop(
        train.labels,
        model.size,
        config.seed,
        config.crop_scale,
        model.mean,
        model.std,
        finish=not config.loader.device_augment,
        still=CROPS[config.test_crop] if config.crop == "centre" else None,
        mixup=config.mixup,
    )
    # Images, not shards, are permuted: neighbours are often of a class.
    each_by_itself = np.ones(len(train), np.int64)
    loader = Loader(
        LabelledSamples(train, config.data),
        Order(each_by_itself, config.seed, config.batch_size, config.loader.window),
        cutter,
        batch_size=config.batch_size,
        rank=world.rank,
        world_size=world.size,
        config=config.loader,
        device=world.device,
    )
    return Training(
        config=replace(config, optim=replace(config.optim, weight_decay=config.decay())),
        learner=learner,
        module=module,
        batches=loader,
        sees=f"at {model.size} px",
        prepare=lambda: prepare(config, train),
    )


def prepare(config: FinetuneConfig, train: Labelled) -> None:
    """Write what the run directory holds of the options."""
    folder = Path(config.run_dir)
    for name, text in config.files(train).items():
        files.write(folder / name, text)
    configuration.save(config, folder / CONFIG)


@torch.no_grad()
def scores_of(
    module: nn.Module, config: FinetuneConfig, model: Model, images: Images, world: World
) -> list[Score]:
    """Top-1 accuracy on the test images, of which each rank takes its share, and the mean of the
    classes' where that is what the data set's users report. A collective.
    """
    module.eval()
    test = images.test
    hits = torch.zeros(len(test), dtype=torch.int32, device=world.device)  # in their order
    end = Step(config.steps, config.steps)
    size = max(1, config.batch_size // world.size)
    for batch in batches_of(test, model, size, world, config.test_crop):
        if config.precision == "fp64":
            batch = batch.to(torch.float64)
        with autocast(config.precision, world.device):
            metrics = module(batch, end).metrics
            there = batch.labels != NO_IMAGE
            hits[batch.index[there]] = metrics["right"][there].to(hits.dtype)
    right = (all_reduce_sum(hits) > 0).cpu()
    labels = torch.from_numpy(test.labels)
    trained = {"steps": config.steps}
    by_class = images.train.metric == PER_CLASS
    top1 = accuracy("top1", "top-1", right, trained, not by_class, chance(labels))
    if not by_class:
        return [top1]
    mean = mean_per_class(PER_CLASS, "mean per class", right, labels, trained, headline=True)
    return [top1, mean]


def batches_of(
    test: Labelled, model: Model, size: int, world: World, crop: str = "centre"
) -> Iterator[LabelledImages]:
    """This rank's share of the test images. All ranks have equally many batches, so that they can
    gather parameters.
    """
    share_of_rank = -(-len(test) // world.size)
    for start in range(0, share_of_rank, size):
        ids = np.arange(start, min(start + size, share_of_rank)) * world.size + world.rank
        there = ids < len(test)
        images = [
            test.image(i) if is_there else BLANK
            for i, is_there in zip(ids.tolist(), there, strict=True)
        ]
        labels = np.where(there, test.labels[np.minimum(ids, len(test) - 1)], NO_IMAGE)
        pixels = to_input(model, stack(images, model.size, crop).to(world.device))
        yield LabelledImages(
            pixels,
            torch.from_numpy(labels).to(world.device),
            torch.from_numpy(ids).to(world.device),
        )
