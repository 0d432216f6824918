"""Finetuning: a backbone and a linear classifier on it, trained together on labelled images, scored
on others.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from seer import config as configuration
from seer import distributed
from seer.data.crops.labelled_crop import LabelledCrop
from seer.data.labelled import Labelled, LabelledSamples
from seer.data.loader import Loader
from seer.data.order import Order
from seer.data.views import LabelledImages
from seer.distributed import World, all_reduce_sum
from seer.engine.learner import Learner, Output, Step
from seer.engine.options import check_batch, check_parallel
from seer.engine.parallel import parallelize
from seer.engine.peers import check_peers
from seer.engine.run import Training, enough_memory, fit
from seer.errors import InputError
from seer.eval.probes.feature_cache import weights_hash
from seer.eval.probes.features import stack, to_input
from seer.eval.scores import Score, chance, share
from seer.eval.tasks import TASKS
from seer.eval.trained.images import images_of
from seer.eval.trained.options import FinetuneConfig
from seer.interop.models import Model, load_model
from seer.precision import autocast
from seer.rundir.names import CONFIG
from seer.schema import check_options
from seer.start import tell
from seer.terminal import outlasting_terminal

TOO_LARGE = "the model; use a smaller one, or parallel.mode=fsdp on more devices"
BLANK = np.zeros((1, 1, 3), np.uint8)
FEW_STEPS = 100  # below which the classifier, which begins at random, has hardly learned
USUAL_EPOCHS = FinetuneConfig.epochs
NO_IMAGE = -100  # the label of a place without an image: `cross_entropy` leaves it out


class Classifier(Learner[LabelledImages]):
    """A linear layer on a backbone; cross entropy."""

    def __init__(self, backbone: nn.Module, classes: int, head_rate: float):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.out_dim, classes)  # type: ignore[arg-type]
        self.head_rate = head_rate
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: LabelledImages, step: Step) -> Output:
        logits = self.head(self.backbone(batch.pixels))
        logits = logits if logits.dtype == torch.float64 else logits.float()
        right = logits.detach().argmax(1) == batch.labels
        metrics = {"top1": right.float().mean()} if self.training else {"right": right.sum()}
        return Output(F.cross_entropy(logits, batch.labels, ignore_index=NO_IMAGE), metrics)

    def rates(self) -> dict[str, float]:
        return {"head.": self.head_rate}


def configure(task: str, model: str, data: str, overrides: list[str]) -> FinetuneConfig:
    """The configuration of a training, of the task's own class of options, with its steps and its run
    directory. Raises `InputError`.
    """
    options = configuration.parse_overrides(overrides)
    if twice := next((key for key in ("model", "data") if key in options), ""):
        raise InputError(f"{twice}=: it is given by --{twice}")
    if "weights" in options:
        raise InputError("weights=: they are the model's")
    given = configuration.layer({"model": model, "data": data})
    config = TASKS[task].resolve(given, options)
    check_options(config)
    train, _ = images_of(config)
    if len(train) < config.batch_size:
        less = f"use batch_size={len(train)} or less"
        raise InputError(f"{data}: {len(train)} training images are fewer than one batch; {less}")
    steps = config.steps or math.ceil(config.epochs * len(train) / config.batch_size)
    config = replace(config, steps=steps)
    loaded = load_model(model)
    config = replace(config, weights=weights_hash(loaded.backbone))
    if not config.run_dir:
        digest = configuration.identity(config)
        home = loaded.run_dir or Path()
        config = replace(config, run_dir=str(home / "eval" / f"{task}-{digest}"))
    check_run_dir(config)
    return config


def check(config: FinetuneConfig, ranks: int) -> None:
    """Raise `InputError` for what `ranks` processes cannot do."""
    check_batch(config, ranks)
    check_parallel(config.parallel, ranks)


def check_run_dir(config: FinetuneConfig) -> None:
    """Refuse a run directory that another configuration has written; nothing in it is changed."""
    path = Path(config.run_dir) / CONFIG
    if not path.is_file():
        return
    saved = configuration.resolve(type(config), [configuration.read_layers(path)])
    free = configuration.incidental(type(config))
    if differing := configuration.differences(asdict(saved), asdict(config), free):
        raise InputError(
            f"{config.run_dir}: belongs to another configuration: {'; '.join(differing[:3])}; choose another run_dir, "
            "or give the same values to continue"
        )


def run(config: FinetuneConfig) -> list[Score]:
    """Train, or go on training, in this process of the world, and score. The scores are the main
    process's.
    """
    with outlasting_terminal():
        world = distributed.init(config.device)
        check_peers()
        check(config, world.size)
        train, test = images_of(config)
        model = load_model(config.model)
        if weights_hash(model.backbone) != config.weights:
            raise InputError(
                f"{config.model}: has other weights than a moment ago; name one of its checkpoints"
            )
        model = replace(model, size=config.size or model.size)
        scores: list[Score] = []
        training = set_up(config, model, train, world)
        training.end = lambda: scores.append(score(training.module, config, model, test, world))
        distributed.barrier()  # no rank writes before every rank has looked
        fit(training, world)
        if world.is_main and (remark := shortness(config, len(train))):
            tell(remark)
    return scores if world.is_main else []


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
        learner = Classifier(model.backbone, len(train.classes), config.head_rate)
        module = parallelize(learner, config.parallel, world, config.precision)
    finish = not config.loader.device_augment
    cutter = LabelledCrop(
        train.labels, model.size, config.seed, config.crop_scale, model.mean, model.std, finish
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
        config=config,
        learner=learner,
        module=module,
        batches=loader,
        sees=f"at {model.size} px",
        prepare=lambda: configuration.save(config, Path(config.run_dir) / CONFIG),
    )


@torch.no_grad()
def score(
    module: nn.Module, config: FinetuneConfig, model: Model, test: Labelled, world: World
) -> Score:
    """Top-1 accuracy on the test images, of which each rank takes its share. A collective."""
    module.eval()
    right = torch.zeros((), dtype=torch.int64, device=world.device)
    end = Step(config.steps, config.steps)
    size = max(1, config.batch_size // world.size)
    for batch in batches_of(test, model, size, world):
        if config.precision == "fp64":
            batch = batch.to(torch.float64)
        with autocast(config.precision, world.device):
            metrics = module(batch, end).metrics
            right += metrics["right"]
    hits = int(all_reduce_sum(right))
    trained = {"steps": config.steps}
    by_chance = chance(torch.from_numpy(test.labels))
    return share("top1", "top-1", hits, len(test), trained, headline=True, by_chance=by_chance)


def batches_of(test: Labelled, model: Model, size: int, world: World) -> Iterator[LabelledImages]:
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
        pixels = to_input(model, stack(images, model.size).to(world.device))
        yield LabelledImages(
            pixels,
            torch.from_numpy(labels).to(world.device),
            torch.from_numpy(ids).to(world.device),
        )
