"""What a pretraining run is to be: its configuration, and whether it can be, told before anything is written."""

import os
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING

from seer import config as configuration
from seer.backbones import BackboneConfig, build
from seer.data.crops import DEFAULT_VIEWS, MultiCrop, View
from seer.data.index import Manifest
from seer.data.loader import LoaderConfig
from seer.data.memory import SHARED, docker_remedy, shared_free
from seer.data.views import Views
from seer.data.workers import Need, memory_needed
from seer.distributed import World
from seer.engine.checkpoint import CheckpointConfig
from seer.engine.health import HealthConfig
from seer.engine.metrics import LogConfig
from seer.engine.optim import OptimConfig, build_optimizer
from seer.engine.parallel import PRECISIONS, ParallelConfig, check_parallel
from seer.engine.schedule import ScheduleConfig, value
from seer.errors import InputError, nearest
from seer.hardware import find
from seer.interop.models import load_backbone
from seer.methods import METHODS
from seer.methods.base import Method, Step

PAGE = 4096  # bytes; each encoded image has pages of its own

METHOD_CONFIGS = {name: method.Config for name, method in METHODS.items()}


@dataclass
class Pretrain:
    """A pretraining run. `batch_size` is global, `steps` are optimizer updates, `init` is a run or an exported file."""

    name: str = "pretrain"
    data: str = MISSING
    run_dir: str = "runs/${name}"
    seed: int = 0
    steps: int = MISSING
    batch_size: int = 256
    accumulate: int = 1
    precision: str = "fp32"
    device: str = "auto"
    init: str = ""
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    views: dict[str, View] = field(default_factory=lambda: deepcopy(DEFAULT_VIEWS))
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    method: Any = field(default_factory=METHODS["swav"].Config)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    log: LogConfig = field(default_factory=LogConfig)


def load_config(recipe: str, overrides: list[str]) -> Pretrain:
    """The configuration of a recipe under overrides; `InputError` where a key or value is wrong."""
    return configuration.load(Pretrain, recipe, ["name=" + Path(recipe).stem, *overrides], {"method": METHOD_CONFIGS})


def preview(recipe: str, overrides: list[str], ranks: int) -> Path:
    """Check, before a job is queued, what `ranks` processes elsewhere would refuse; the run's directory."""
    config = load_config(recipe, overrides)
    check_batch(config, ranks)
    check_parallel(config.parallel, ranks)
    check_run_dir(config)
    rehearse(config)
    if Path(config.data).parent.is_dir():  # or else it is in a store, or on the other hosts alone
        Manifest.load(config.data)
    return Path(config.run_dir)


def rehearse(config: Pretrain) -> None:
    """One step on the `meta` device, in no time and without memory: what a part would refuse, it refuses here."""
    resolutions = MultiCrop(config.views, config.seed).resolutions
    with torch.device("meta"):
        method = METHODS[config.method.name](build(config.backbone), config.method)
        crops = tuple(torch.empty(len(r.crops), 2, 3, r.size, r.size) for r in resolutions)
        method(Views(crops, torch.empty(2, dtype=torch.int64)), Step(0, config.steps))
        build_optimizer(method, config.optim)


def check(config: Pretrain, manifest: Manifest, world: World) -> None:
    """Everything about a configuration that its types do not say; raises `InputError`."""
    check_batch(config, world.size)
    if config.log.plan not in ("auto", "none"):
        find(config.log.plan, "log.plan")
    if manifest.samples < config.batch_size:
        less = f"use batch_size={manifest.samples} or less"
        raise InputError(f"{config.data}: {manifest.samples} images are fewer than one batch; {less}")
    if config.precision not in PRECISIONS:
        raise InputError(f"precision: '{config.precision}' is unknown{nearest(config.precision, PRECISIONS)}")
    value(config.schedule, 0, config.steps)
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


def check_batch(config: Pretrain, ranks: int) -> None:
    """Whether the batch divides among `ranks` processes; raises `InputError`."""
    batch = config.batch_size
    if config.steps < 1 or batch < 1 or config.accumulate < 1:
        raise InputError("steps, batch_size and accumulate: each must be at least 1")
    if batch % (ranks * config.accumulate):
        parts = (
            f"{ranks} processes × {config.accumulate} micro-batches" if config.accumulate > 1 else f"{ranks} processes"
        )
        unit = ranks * config.accumulate
        below, above = batch // unit * unit, (batch // unit + 1) * unit
        raise InputError(f"batch_size={batch} does not divide among {parts}; use {below or above} or {above}")


def loader_bytes(config: Pretrain, ranks: int) -> int:
    """Bytes of the batches that one rank's loader holds at once; of images sent encoded their size is not known."""
    return loader_memory(config, ranks).total


def loader_memory(config: Pretrain, ranks: int, image_bytes: int = 0) -> Need:
    """The memory of one rank's loader; `image_bytes` of an encoded image, which `loader.device_decode` sends."""
    loader = config.loader
    crops = MultiCrop(config.views, config.seed, finish=not loader.device_augment)
    share = config.batch_size // ranks
    encoded_bytes = share * (image_bytes + PAGE) if loader.device_decode else 0
    return memory_needed(loader.mode, loader.workers, loader.prefetch, crops.shapes(share), crops.dtype, encoded_bytes)


def check_run_dir(config: Pretrain) -> None:
    """Refuse a run directory that another configuration has written; nothing in it is changed."""
    path = Path(config.run_dir) / "config.yaml"
    if not path.is_file():
        return
    differing = configuration.differences(configuration.read(path), configuration.to_dict(config))
    if differing:
        more = f" (and {len(differing) - 3} more)" if len(differing) > 3 else ""
        raise InputError(
            f"{config.run_dir}: belongs to another configuration: {'; '.join(map(str, differing[:3]))}{more}; "
            "choose another run_dir, or give the same values to continue"
        )


def build_method(config: Pretrain) -> Method:
    """The method with its initial weights, the same in every process; without memory if `parallel.deferred_init`."""
    deferred = config.parallel.deferred_init
    if deferred and config.init:
        raise InputError("init: needs the whole backbone in every process; set parallel.deferred_init=false")
    torch.manual_seed(config.seed)
    with torch.device("meta" if deferred else "cpu"):
        method = METHODS[config.method.name](build(config.backbone), config.method)
    if config.init:
        load_backbone(config.init, into=method.backbone)  # type: ignore[arg-type]
        method.after_load()
    return method
