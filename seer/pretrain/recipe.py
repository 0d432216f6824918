"""What a pretraining run is to be: its configuration, and whether it can be, told before anything
is written.
"""

import logging
import os
import re
import sys
from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seer import config as configuration
from seer.backbones import Backbone, BackboneConfig, build
from seer.config.layers import Scalar, Tree
from seer.data.crops.arena import SHARED, docker_remedy, shared_free
from seer.data.crops.multicrop import DEFAULT_VIEWS, MultiCrop, View
from seer.data.loader import LoaderConfig
from seer.data.storage.index import Manifest
from seer.data.views import Views
from seer.data.workers import Need, memory_needed
from seer.distributed import World
from seer.engine.learner import Step
from seer.engine.optim import build_optimizer
from seer.engine.parallel import check_parallel, checkpoint_stages, find_backbones
from seer.engine.run import RunConfig, check_batch
from seer.engine.schedule import describe, effective, value
from seer.errors import InputError
from seer.hardware import Hardware, find
from seer.inputs import read_text
from seer.interop.initial import load_initial
from seer.methods import METHODS, make
from seer.methods.base import Method
from seer.rundir.names import CONFIG
from seer.schema import WORD, ListOf, Location, Number, kind_of, option, required
from seer.steps import PLACE, whole_steps

logger = logging.getLogger("seer")

PAGE = 4096  # bytes; each encoded image has pages of its own

METHOD_CONFIGS = {name: method.Config for name, method in METHODS.items()}

# What younger options were before they existed, by section and its `name`: an older run goes on as
# it began, or not.
BEFORE = {
    ("optim", "lars"): {"lars_joint_norm": "false"},
    ("method", "simclr"): {"head_bn_shift": "true"},
}


@dataclass
class Pretrain(RunConfig):
    """A pretraining run. `init` is what its backbone's weights come from, as `load_initial` takes it."""

    name: str = option("pretrain", WORD, incidental=True)
    data: str = required(Location(shortest=1))
    init: str = option("", Location())
    mean: list[float] = option([0.485, 0.456, 0.406], ListOf(Number(0, 1), 3, 3))
    std: list[float] = option([0.229, 0.224, 0.225], ListOf(Number(0.001, 1000), 3, 3))
    views: dict[str, View] = field(default_factory=lambda: deepcopy(DEFAULT_VIEWS))
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    method: Any = field(default_factory=METHODS["swav"].Config)


def load_config(recipe: str, overrides: list[str], allow_env: bool = False) -> Pretrain:
    """The configuration of a recipe under overrides; `InputError` where a key or value is wrong.

    Args:
        allow_env: let `${oc.env:NAME}` in the recipe stand for a variable of the environment.
    """
    named = ["name=" + Path(recipe).stem, *overrides]
    return configuration.load(Pretrain, recipe, named, {"method": METHOD_CONFIGS}, allow_env)


def published_hardware(recipe: str) -> tuple[int, Hardware]:
    """How many processors of which kind a recipe's first lines name: `# Hardware   512 V100-32GB, 16 images each`.

    Raises:
        InputError: they name none.
    """
    path = configuration.find_recipe(recipe)
    line = re.search(r"^# Hardware +(\d+) ([\w-]+)", read_text(path), re.MULTILINE)
    if line is None:
        raise InputError(f"{path}: no line such as '# Hardware   8 A100-40GB, 32 images each'")
    return int(line[1]), find(line[2], f"{path}: Hardware")


def preview(recipe: str, overrides: list[str], ranks: int, allow_env: bool = False) -> Path:
    """Check, before a job is queued, what `ranks` processes elsewhere would refuse; the run's
    directory.
    """
    config = load_config(recipe, overrides, allow_env)
    check_settings(config, ranks)
    check_run_dir(config)
    rehearse(config)
    if Path(config.data).parent.is_dir():  # or else it is in a store, or on the other hosts alone
        Manifest.load(config.data)
    return Path(config.run_dir)


def rehearse(config: Pretrain) -> None:
    """One step on the `meta` device, in no time and without memory: what a part would refuse, it
    refuses here.
    """
    resolutions = MultiCrop(config.views, config.seed).resolutions
    with torch.device("meta"):
        backbone = build(config.backbone)
        method = make(backbone, config.method, config.batch_size)
        crops = []
        for resolution in resolutions:
            count = len(resolution.crops)
            crops.append(torch.empty(count, 2, 3, resolution.size, resolution.size))
        views = Views(tuple(crops), torch.empty(2, dtype=torch.int64))
        method(views, Step(0, config.steps))
        build_optimizer(method, config.optim)
    for trunk in find_backbones(method):
        checkpoint_stages(trunk, config.parallel.checkpointing)


def check(config: Pretrain, manifest: Manifest, world: World) -> None:
    """Everything about a configuration that its types do not say; raises `InputError`."""
    check_settings(config, world.size)
    if manifest.samples < config.batch_size:
        less = f"use batch_size={manifest.samples} or less"
        raise InputError(
            f"{config.data}: {manifest.samples} images are fewer than one batch; {less}"
        )
    check_memory(config, manifest, world)


def check_memory(config: Pretrain, manifest: Manifest, world: World) -> None:
    """Whether this host has the memory for its ranks' batches; raises `InputError`."""
    image_bytes = int(manifest.bytes.sum()) // manifest.samples
    need = loader_memory(config, world.size, image_bytes)
    needed = need.total * world.local_size
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > present:
        raise InputError(
            f"views: the crops of batches in flight need {needed / 2**30:.0f} GiB of memory and this host has "
            f"{present / 2**30:.0f}; use a smaller batch_size, fewer or smaller views, or fewer loader.workers"
        )
    shared = need.shared * world.local_size
    free = shared_free()
    if free is not None and shared > free:
        raise InputError(
            f"{SHARED} has {free / 2**20:.0f} MiB free and the batches of this host's loaders need "
            f"{shared / 2**20:.0f}; in Docker: {docker_remedy(shared)}; else loader.prefetch=1, fewer loader.workers "
            "(0 needs none), loader.device_augment=true (a quarter), or a smaller batch_size"
        )


def check_settings(config: Pretrain, ranks: int) -> None:
    """What can be told of a configuration on `ranks` processes without data or machine; raises
    `InputError`.
    """
    check_batch(config, ranks)
    check_parallel(config.parallel, ranks)
    if config.init and config.parallel.deferred_init:
        raise InputError(
            "init: needs the whole backbone in every process; set parallel.deferred_init=false"
        )
    if config.log.plan not in ("auto", "none"):
        find(config.log.plan, "log.plan")
    value(effective(config.schedule, config.batch_size, config.steps), 0, config.steps)
    whole_places(config)


def whole_places(config: Pretrain) -> dict[str, int]:
    """The method's places in the run, by option, in steps; raises `InputError`."""
    method = config.method
    places = [declared.name for declared in fields(method) if kind_of(declared) == PLACE]
    return {
        name: whole_steps(getattr(method, name), config.steps, f"method.{name}") for name in places
    }


def loader_bytes(config: Pretrain, ranks: int) -> int:
    """Bytes of the batches that one rank's loader holds at once; of images sent encoded their size
    is not known.
    """
    return loader_memory(config, ranks).total


def loader_memory(config: Pretrain, ranks: int, image_bytes: int = 0) -> Need:
    """The memory of one rank's loader; `image_bytes` of an encoded image, which
    `loader.device_decode` sends.
    """
    loader = config.loader
    crops = MultiCrop(config.views, config.seed, finish=not loader.device_augment)
    share = config.batch_size // ranks
    encoded_bytes = share * (image_bytes + PAGE) if loader.device_decode else 0
    return memory_needed(
        loader.mode,
        loader.workers,
        loader.prefetch,
        crops.shapes(share),
        crops.dtype,
        encoded_bytes,
    )


def check_run_dir(config: Pretrain) -> None:
    """Refuse a run directory that another configuration has written; nothing in it is changed."""
    path = Path(config.run_dir) / CONFIG
    if not path.is_file():
        return
    differing = configuration.differences(
        meaning(saved_config(path)), meaning(config), configuration.incidental(Pretrain)
    )
    if differing:
        more = f" (and {len(differing) - 3} more)" if len(differing) > 3 else ""
        raise InputError(
            f"{config.run_dir}: belongs to another configuration: {'; '.join(map(str, differing[:3]))}{more}; "
            "choose another run_dir, or give the same values to continue"
        )


def saved_config(path: Path) -> Pretrain:
    """The configuration that a run was written with; what it does not say, as it was before there
    was such an option.

    Raises:
        InputError: not readable, or not a pretraining run's.
    """
    saved = configuration.read_layers(path)
    try:
        return configuration.resolve(Pretrain, [_before(saved), saved], {"method": METHOD_CONFIGS})
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _before(saved: dict[str, Tree]) -> dict[str, Tree]:
    """A layer of what younger options were, for the optimizer and the method that a saved
    configuration names.
    """
    layer: dict[str, Tree] = {}
    for (section, name), options in BEFORE.items():
        given = saved.get(section)
        if isinstance(given, dict) and given.get("name") == Scalar(name):
            layer[section] = {option: Scalar(value) for option, value in options.items()}
    return layer


def meaning(config: Pretrain) -> dict[str, Any]:
    """A configuration as plain values, in which what can be given in two ways has one: rates,
    steps.
    """
    values = configuration.to_dict(config)
    schedule = configuration.to_dict(effective(config.schedule, config.batch_size, config.steps))
    rates = {key: float(f"{schedule[key]:.12g}") for key in ("peak", "start", "final")}
    return values | {
        "schedule": schedule | rates,
        "method": values["method"] | whole_places(config),
    }


def build_method(config: Pretrain, samples: int = 0) -> Method:
    """The method with its initial weights, the same in every process; without memory if
    `parallel.deferred_init`.

    Args:
        samples: how many images there are, which a method with banks needs to know.
    """
    torch.manual_seed(config.seed)
    with torch.device("meta" if config.parallel.deferred_init else "cpu"):
        return make(build(config.backbone), config.method, samples)


def initialise(method: Method, config: Pretrain) -> list[str]:
    """Give a method's backbone the weights that `init` names, if any; lines that say what came from
    where, and what starts new.
    """
    if not config.init:
        return []
    assert isinstance(method.backbone, Backbone)
    try:
        start = load_initial(method.backbone, config.init)
    except InputError as error:
        raise InputError(f"init: {error}") from None
    method.after_load()
    trained = {name.partition(".")[0] for name, p in method.named_parameters() if p.requires_grad}
    others = sorted(trained - {"backbone"})
    lines = [f"init: {start.summary}; {' and '.join(others)} start{'s' * (len(others) == 1)} new"]
    for name, own in (("mean", config.mean), ("std", config.std)):
        theirs = getattr(start, name)
        if theirs is not None and not np.allclose(theirs, own, atol=1e-3):
            lines.append(f"init: it was trained with {name}={theirs} and this run has {own}")
    return lines


def announce(config: Pretrain) -> None:
    """Say, on stderr and in the log, what the rate becomes with this batch, and which options do
    nothing here.
    """
    tell(describe(config.schedule, config.batch_size, config.steps))
    for warning in METHODS[config.method.name].warnings(
        config.method, config.batch_size, config.steps
    ):
        logger.warning("%s", warning)


def tell(line: str) -> None:
    """Say something on stderr and in the log."""
    print(line, file=sys.stderr, flush=True)
    logger.info("%s", line)
