"""Detection: Faster or Mask R-CNN on a backbone, trained on images with boxes, scored on others."""

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from seer import config as configuration
from seer import distributed
from seer.distributed import World
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
from seer.eval.trained.detection.boxbatches import BoxBatch
from seer.eval.trained.detection.boxcutter import BoxCutter
from seer.eval.trained.detection.boxtask import loader_of
from seer.eval.trained.detection.cocofiles import library
from seer.eval.trained.detection.detector import Detector
from seer.eval.trained.detection.options import DetectConfig
from seer.eval.trained.detection.placement import Placing
from seer.eval.trained.detection.testing import keep, predictions_of, scores_of
from seer.eval.trained.runs import check_run_dir, check_same, housed, options_of
from seer.interop.levels import levels_of
from seer.interop.models import Model, load_model
from seer.precision import autocast
from seer.rundir.names import CONFIG
from seer.terminal import outlasting_terminal

TOO_LARGE = "the detector; use a smaller model, or parallel.mode=fsdp on more devices"


def configure(task: str, model: str, data: str, overrides: list[str]) -> DetectConfig:
    """The configuration of a training, with its run directory and its steps.

    Raises:
        InputError: in one line, what is wrong with options, model, data or run directory.
    """
    config: DetectConfig = options_of(task, model, data, overrides)
    library()
    train, _ = train_and_test(data)
    config = replace(config, masks="yes" if with_masks(config, train) else "no")
    check_jitter(config, len(learnt(config, train)))
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


def check_jitter(config: DetectConfig, images: int) -> None:
    """Raise `InputError` for scales that are no two, and for copy-paste where nothing can be pasted."""
    if config.scales and (len(config.scales) != 2 or config.scales[0] > config.scales[1]):
        raise InputError(
            f"scales={config.scales}: expected two factors, the smaller first, as [0.1, 2.0]"
        )
    if not config.copy_paste:
        return
    if not config.scales:
        raise InputError("copy_paste=true: needs scales, as scales=[0.1,2.0]")
    if config.masks != "yes":
        raise InputError("copy_paste=true: objects are pasted by their masks, and there are none")
    if images < 2:
        raise InputError("copy_paste=true: needs two training images or more")


def learnt(config: DetectConfig, train: Annotated) -> np.ndarray:
    """The numbers of the training images that are used."""
    return np.arange(len(train)) if config.negatives else train.with_objects()


def check(config: DetectConfig, ranks: int) -> None:
    """Raise `InputError` for what `ranks` processes cannot do."""
    check_batch(config, ranks)
    check_parallel(config.parallel, ranks)
    if config.parallel.deferred_init:
        raise InputError("parallel.deferred_init: a detector begins with a model's weights")
    if config.keep_features and config.parallel.mode == "fsdp" and ranks > 1:
        raise InputError(
            "keep_features: frozen stages need no parallel.mode=fsdp; use ddp, or leave it out"
        )
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
    learner = training.learner
    assert isinstance(learner, Detector)

    def end() -> None:
        if config.ema:
            learner.use_average()
        if config.precise and config.batchnorm == "sync":
            precise(training, config, world)
        predictions = predictions_of(training.module, config, model, test, world)
        if world.is_main:
            details = {
                "steps": config.steps,
                "training_images": len(used),
                "left_out": {"training": train.counts, "test": test.counts},
            }
            scores.extend(scores_of(config, test, predictions, details))
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
    placing = Placing(
        tuple(config.short_sides),
        config.long_side,
        config.flip,
        config.seed,
        (config.scales[0], config.scales[1]) if config.scales else None,
        config.square,
    )
    cutter = BoxCutter(
        train.objects,
        placing,
        masks,
        model.mean,
        model.std,
        levels.strides[-1],
        digests=config.keep_features > 0,
        sources=train if config.copy_paste else None,
    )
    sizes = train.objects.sizes
    loader = loader_of(train, config, cutter, world, sizes[:, 1] >= sizes[:, 0])
    sides = f"{config.short_sides[0]}-{config.short_sides[-1]}"
    if config.scales:
        sides = f"{config.scales[0]:g}-{config.scales[1]:g} times {config.square}"
    return Training(
        config=config,
        learner=learner,
        module=module,
        batches=loader,
        sees=f"at {sides} px, {'masks' if masks else 'boxes'} of {len(train.classes):,} classes",
        prepare=lambda: configuration.save(config, Path(config.run_dir) / CONFIG),
    )


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
