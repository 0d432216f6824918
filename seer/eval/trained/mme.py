"""Domain adaptation from a few labels of each class: minimax entropy, and what it is compared with
(Saito et al. 2019, arXiv:1904.06487).

It differs from the paper's code: cross entropy and entropy make one step together, where that makes
two; validation images are not among those that are tested with; and what is scored is the last step.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from seer import config as configuration
from seer import distributed
from seer.data.crops.labelled_crop import LabelledCrop
from seer.data.labelled import Labelled, LabelledSamples
from seer.data.loader import Loader
from seer.data.order import Order
from seer.data.views import LabelledImages
from seer.distributed import World
from seer.engine.options import check_batch, check_parallel
from seer.engine.parallel import parallelize
from seer.engine.peers import check_peers
from seer.engine.run import Training, enough_memory, live, parting
from seer.errors import InputError
from seer.eval.data.domains import Domains, divide
from seer.eval.probes.feature_cache import weights_hash
from seer.eval.scores import Score
from seer.eval.trained.adapter import Adapter, DomainBatch, SideBySide
from seer.eval.trained.domain_options import MmeConfig
from seer.eval.trained.finetune import TOO_LARGE, scores_of
from seer.eval.trained.images import Images
from seer.eval.trained.runs import check_run_dir, check_same, housed, options_of
from seer.interop.models import Model, load_model, sized
from seer.rundir.names import CONFIG
from seer.terminal import outlasting_terminal

QUARTERS = 4  # of a batch: source images, labelled target images, and twice as many unlabelled ones


def configure(task: str, model: str, data: str, overrides: list[str]) -> MmeConfig:
    """The configuration of a training, with its run directory.

    Raises:
        InputError: in one line, what is wrong with options, model, data or run directory.
    """
    config = options_of(task, model, data, overrides)
    if config.epochs:
        raise InputError("epochs: the domains have epochs of their own; give steps=")
    domains_of(config)
    loaded = load_model(model)
    config = housed(replace(config, weights=weights_hash(loaded.backbone)), task, loaded)
    check_run_dir(config)
    sized(loaded, config.size)
    return config


def check(config: MmeConfig, ranks: int) -> None:
    """Raise `InputError` for what `ranks` processes cannot do."""
    unit = QUARTERS * ranks * config.accumulate
    if config.batch_size % unit:
        nearest = max(1, round(config.batch_size / unit)) * unit
        raise InputError(
            f"batch_size={config.batch_size}: its quarters do not divide among {ranks} processes × {config.accumulate} "
            f"micro-batches; use batch_size={nearest}"
        )
    check_batch(config, ranks)
    check_parallel(config.parallel, ranks)


def domains_of(config: MmeConfig) -> Domains:
    """The images. Raises `InputError` as `divide` does."""
    return divide(config.data, config.target, config.labels, config.validation, config.labels_seed)


def run(config: MmeConfig) -> list[Score]:
    """Train, or go on training, in this process of the world, and score. The scores are the main
    process's.
    """
    with outlasting_terminal():
        world = distributed.init(config.device)
        check_peers()
        check(config, world.size)
        domains = domains_of(config)
        model = load_model(config.model)
        check_same(model, config)
        model = replace(model, size=config.size or model.size)
        scores: list[Score] = []
        with parting():
            training = set_up(config, model, domains, world)
            training.end = lambda: scores.extend(measured(training, config, model, domains, world))
            distributed.barrier()  # no rank writes before every rank has looked
            live(training, world)
    return [config.renamed(score) for score in scores] if world.is_main else []


def set_up(
    config: MmeConfig, model: Model, domains: Domains, world: World
) -> Training[DomainBatch]:
    """A training as the engine takes it."""
    torch.manual_seed(config.seed)
    with enough_memory(world.device, TOO_LARGE):
        learner = Adapter(
            model.backbone,
            len(domains.source.classes),
            config.method,
            config.entropy_weight,
            config.temperature,
            config.width,
            config.backbone_rate,
        )
        module = parallelize(learner, config.parallel, world, config.precision)
    quarter = config.batch_size // QUARTERS
    loader = partial(_loader, config, model, world)
    loaders = [
        loader(domains.source, config.data, quarter, 0),
        loader(domains.labelled, config.target, quarter, 1),
    ]
    if config.method != "supervised":
        loaders.append(loader(domains.test, config.target, 2 * quarter, 2))
    folder = Path(config.run_dir)
    return Training(
        config=config,
        learner=learner,
        module=module,
        batches=SideBySide(loaders, f"{config.data} and {config.target}"),
        sees=f"at {model.size} px, {config.labels} labels of each class",
        prepare=lambda: configuration.save(config, folder / CONFIG),
    )


def _loader(
    config: MmeConfig,
    model: Model,
    world: World,
    images: Labelled,
    name: str,
    batch: int,
    place: int,
) -> Loader[LabelledImages]:
    """Crops of a part of the images, of which others draw other numbers."""
    seed = 3 * config.seed + place
    cutter = LabelledCrop(
        images.labels,
        model.size,
        seed,
        config.crop_scale,
        model.mean,
        model.std,
        finish=not config.loader.device_augment,
    )
    each_by_itself = np.ones(len(images), np.int64)
    lanes = min(batch, len(images))
    return Loader(
        LabelledSamples(images, name),
        Order(each_by_itself, seed, lanes, config.loader.window),
        cutter,
        batch_size=batch,
        rank=world.rank,
        world_size=world.size,
        config=config.loader,
        device=world.device,
    )


def measured(
    training: Training[DomainBatch], config: MmeConfig, model: Model, domains: Domains, world: World
) -> list[Score]:
    """Accuracy on the target's test images, and on its validation images. A collective."""
    parts = [(domains.test, "top1", "top-1", True)]
    if len(domains.validation):
        parts.append((domains.validation, "validation", "top-1 of validation images", False))
    scores = []
    for images, metric, title, headline in parts:
        both = Images(domains.source, images)
        score = scores_of(training.module, config, model, both, world)[0]  # type: ignore[arg-type]
        score = replace(score, metric=metric, title=title, headline=headline)
        score.details["labels"] = config.labels
        scores.append(replace(score, test=images))
    return scores
