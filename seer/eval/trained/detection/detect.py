"""Detection: Faster or Mask R-CNN on a backbone, trained on images with boxes, scored on others."""

import json
import math
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.detection.roi_heads import paste_masks_in_image

from seer import config as configuration
from seer import distributed, files
from seer.data.labelled import LabelledSamples
from seer.data.loader import Loader
from seer.data.order import Order
from seer.distributed import World, on_all
from seer.engine.learner import Step
from seer.engine.options import check_batch, check_parallel
from seer.engine.parallel import parallelize
from seer.engine.peers import check_peers
from seer.engine.run import Training, enough_memory, live, parting
from seer.errors import InputError
from seer.eval.data.boxes import train_and_test
from seer.eval.data.objects import Annotated, part
from seer.eval.probes.feature_cache import weights_hash
from seer.eval.scores import Score
from seer.eval.trained.detection.average_precision import coco_scores, curves, voc_scores
from seer.eval.trained.detection.boxbatches import (
    BoxBatch,
    BoxCutter,
    BoxTask,
    ByAspect,
    framed,
    resized,
    resized_size,
)
from seer.eval.trained.detection.cocofiles import (
    Prediction,
    compressed,
    library,
    results_of,
    truth_of,
)
from seer.eval.trained.detection.detector import Detector
from seer.eval.trained.detection.options import DetectConfig
from seer.eval.trained.detection.sheet import sheet
from seer.eval.trained.runs import check_run_dir, check_same, housed, options_of
from seer.interop.levels import levels_of
from seer.interop.models import Model, load_model
from seer.precision import autocast
from seer.rundir.names import CONFIG, DETECTIONS, IMAGES, PRECISION, PREDICTIONS, TRUTH
from seer.terminal import outlasting_terminal

TOO_LARGE = "the detector; use a smaller model, or parallel.mode=fsdp on more devices"
SURE = 0.5  # of a mask's pixel


def configure(task: str, model: str, data: str, overrides: list[str]) -> DetectConfig:
    """The configuration of a training, with its run directory and its steps.

    Raises:
        InputError: in one line, what is wrong with options, model, data or run directory.
    """
    config: DetectConfig = options_of(task, model, data, overrides)
    library()
    train, _ = train_and_test(data)
    config = replace(config, masks="yes" if with_masks(config, train) else "no")
    images = len(learnt(config, train))
    if images < config.batch_size:
        raise InputError(
            f"{data}: {images} training images with objects are fewer than one batch; "
            f"use batch_size={images} or less"
        )
    steps = config.steps or math.ceil(config.epochs * images / config.batch_size)
    config = replace(config, steps=steps)
    loaded = load_model(model)
    Detector(levels_of(loaded.backbone, loaded.label), 1, config.masks == "yes", config)
    config = replace(config, weights=weights_hash(loaded.backbone))
    config = housed(config, task, loaded)
    check_run_dir(config)
    return config


def with_masks(config: DetectConfig, train: Annotated) -> bool:
    """Whether masks are learned. Raises `InputError` where they are wanted and there are none."""
    there = bool(train.objects.masked.any())
    if config.masks == "yes" and not there:
        raise InputError(f"{config.data}: masks=yes, and no training object has one; use masks=no")
    if config.masks == "auto" and (config.neck == "c4" or config.head == "fcos"):
        return False  # these have none
    return there and config.masks != "no"


def learnt(config: DetectConfig, train: Annotated) -> np.ndarray:
    """The numbers of the training images that are used."""
    return np.arange(len(train)) if config.negatives else train.with_objects()


def check(config: DetectConfig, ranks: int) -> None:
    """Raise `InputError` for what `ranks` processes cannot do."""
    check_batch(config, ranks)
    check_parallel(config.parallel, ranks)
    if config.parallel.deferred_init:
        raise InputError("parallel.deferred_init: a detector begins with a model's weights")
    if config.loader.device_decode:
        raise InputError("loader.device_decode: whole images are decoded by workers; leave it out")


def run(config: DetectConfig) -> list[Score]:
    """Train, or go on training, in this process of the world, and score. The scores are the main
    process's.
    """
    with outlasting_terminal():
        world = distributed.init(config.device)
        check_peers()
        check(config, world.size)
        train, test = train_and_test(config.data)
        with parting():
            scores = trained(config, train, test, world)
    return scores if world.is_main else []


def trained(config: DetectConfig, train: Annotated, test: Annotated, world: World) -> list[Score]:
    """Train on the training images, or go on, and score the others, on all ranks together."""
    model = load_model(config.model)
    check_same(model, config)
    scores: list[Score] = []
    used = part(train, learnt(config, train))
    training = set_up(config, model, used, world)

    def end() -> None:
        if config.precise and config.batchnorm == "sync":
            precise(training, config, world)
        predictions = predictions_of(training.module, config, model, test, world)
        if world.is_main:
            scores.extend(scores_of(config, train, test, predictions))
            keep(config, test, predictions)

    training.end = end
    distributed.barrier()  # no rank writes before every rank has looked
    live(training, world)
    return scores


def set_up(
    config: DetectConfig, model: Model, train: Annotated, world: World
) -> Training[BoxBatch]:
    """A training of a detector as the engine takes it."""
    torch.manual_seed(config.seed)
    masks = config.masks == "yes"
    with enough_memory(world.device, TOO_LARGE):
        levels = levels_of(model.backbone, model.label)
        learner = Detector(levels, len(train.classes), masks, config)
        module = parallelize(learner, config.parallel, world, config.precision)
    cutter = BoxCutter(
        train.objects,
        config.short_sides,
        config.long_side,
        config.flip,
        masks,
        config.seed,
        model.mean,
        model.std,
        levels.strides[-1],
    )
    sizes = train.objects.sizes
    plain = Order(
        np.ones(len(train), np.int64), config.seed, config.batch_size, config.loader.window
    )
    loader = Loader(
        LabelledSamples(train, config.data),
        ByAspect(plain, sizes[:, 1] >= sizes[:, 0], config.batch_size),  # type: ignore[arg-type]
        cutter,
        batch_size=config.batch_size,
        rank=world.rank,
        world_size=world.size,
        config=config.loader,
        device=world.device,
    )
    loader.task = task_of(loader)
    sides = f"{config.short_sides[0]}-{config.short_sides[-1]}"
    return Training(
        config=config,
        learner=learner,
        module=module,
        batches=loader,
        sees=f"at {sides} px, {'masks' if masks else 'boxes'} of {len(train.classes):,} classes",
        prepare=lambda: configuration.save(config, Path(config.run_dir) / CONFIG),
    )


def task_of(loader: Loader[Any]) -> BoxTask:
    """A loader's task, for batches of images of all sizes."""
    task = loader.task
    same = {f.name: getattr(task, f.name) for f in fields(task) if f.name != "encoded"}
    return BoxTask(**same)


@torch.no_grad()
def precise(training: Training[Any], config: Any, world: World) -> None:
    """Take the statistics of the trained BatchNorms as means over so many steps' batches (Wu and
    Johnson 2021, arXiv:2105.07576, section 3). A collective.
    """
    module = training.module.train()
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean
    end = Step(config.steps, config.steps, surveying=True)
    for batch in islice(training.batches.survey(0), config.precise):
        images = batch.to(torch.float64) if config.precision == "fp64" else batch
        with autocast(config.precision, world.device):
            module(images, end)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def predictions_of(
    module: nn.Module, config: DetectConfig, model: Model, test: Annotated, world: World
) -> list[Prediction]:
    """What is found in each test image, of which each rank takes its share; all of it on all ranks, in
    the order of the images. A collective.
    """
    module.eval()
    end = Step(config.steps, config.steps)
    multiple = 32
    own: list[Prediction] = []
    for i, there in shares(len(test), world):
        image = test.image(i)
        height, width = resized_size(image.shape[:2], config.test_size, config.long_side)
        pixels = torch.from_numpy(resized(image, height, width))
        frame = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
        moved = framed([pixels], frame, model.mean, model.std, world.device)
        index = torch.tensor([i], device=world.device)
        batch = BoxBatch(moved, ((height, width),), (), (), None, index)
        if config.precision == "fp64":
            batch = batch.to(torch.float64)
        with autocast(config.precision, world.device):
            found = module(batch, end).metrics
        if there:
            own.append(prediction_of(i, found, (height, width), image.shape[:2]))
    gathered = on_all(lambda: own)
    return sorted((each for ranks in gathered for each in ranks), key=lambda p: p.image)


def shares(images: int, world: World) -> Iterator[tuple[int, bool]]:
    """This rank's images, each with whether it is one: all ranks have equally many, so that they can
    gather parameters, the last one perhaps once more.
    """
    for start in range(-(-images // world.size)):
        number = start * world.size + world.rank
        yield min(number, images - 1), number < images


def prediction_of(
    image: int, found: dict[str, Tensor], seen: tuple[int, int], size: tuple[int, ...]
) -> Prediction:
    """What was found in an image that was seen at another size."""
    height, width = size
    scale = torch.tensor([width / seen[1], height / seen[0]]).repeat(2)
    boxes = found["boxes"].float().cpu() * scale
    masks = None
    if "masks" in found:
        pasted = paste_masks_in_image(found["masks"].float().cpu(), boxes, (height, width))
        masks = compressed(pasted[:, 0] > SURE)
    return Prediction(
        image,
        boxes.double().numpy(),
        found["scores"].float().cpu().double().numpy(),
        found["labels"].cpu().numpy() - 1,
        masks,
    )


def scores_of(
    config: DetectConfig, train: Annotated, test: Annotated, predictions: list[Prediction]
) -> list[Score]:
    """COCO's values of boxes and masks, and VOC's of boxes; AP of masks, or else of boxes, stands for
    all.
    """
    details = {
        "steps": config.steps,
        "training_images": len(learnt(config, train)),
        "left_out": {"training": train.counts, "test": test.counts},
    }
    kinds = ["box", "mask"] if config.masks == "yes" else ["box"]
    scores = [score for kind in kinds for score in coco_scores(test, predictions, kind, details)]
    for score in scores:
        score.headline = score.metric == f"{kinds[-1]}_AP"
    return scores + voc_scores(test, predictions, details)


def keep(config: DetectConfig, test: Annotated, predictions: list[Prediction]) -> None:
    """Write what was found, and what there is to find, as COCO's JSON; and a picture of the worst."""
    folder = Path(config.run_dir)
    files.write(folder / PREDICTIONS, json.dumps(results_of(predictions)))
    files.write(folder / TRUTH, json.dumps(truth_of(test, config.masks == "yes")))
    kinds = ["box", "mask"] if config.masks == "yes" else ["box"]
    drawn = [curves(test, predictions, kind) for kind in kinds]
    every = {name: curve for own in drawn for name, curve in own.items()}
    files.write(folder / PRECISION, json.dumps(every))
    (folder / IMAGES).mkdir(exist_ok=True)
    with files.replacing(folder / IMAGES / DETECTIONS) as beside:
        beside.write_bytes(sheet(test, predictions))
