"""Whether a pretraining run can be what its configuration says, told before anything is written; and
its method, built.
"""

import logging
import os

import numpy as np
import torch

from seer.backbones import build
from seer.backbones.base import Backbone
from seer.checks import machine
from seer.data.crops.arena import SHARED, docker_remedy, shared_free
from seer.data.crops.backdrops import MASK
from seer.data.crops.multicrop import MultiCrop
from seer.data.crops.options import is_fixed
from seer.data.storage.index import Manifest
from seer.data.views import Views
from seer.data.whole_samples import suffixes_of
from seer.data.workers import Need, memory_needed
from seer.distributed import World
from seer.engine.learner import Step
from seer.engine.optim import build_optimizer
from seer.engine.parallel import checkpoint_stages, find_backbones
from seer.engine.run import tell
from seer.engine.schedule import describe
from seer.errors import InputError, quoted
from seer.interop.initial import load_initial
from seer.interop.teaching import check_teachers, teach
from seer.methods import METHODS, make
from seer.methods.base import Method
from seer.methods.distill import Distill
from seer.pretrain.length import check_images
from seer.pretrain.partly import restrict
from seer.pretrain.recipe import Pretrain, check_settings
from seer.processes import usable_cores

logger = logging.getLogger("seer")

SWAV_HEADS = ("head", "prototypes")  # which published checkpoints may have, too

TOO_LARGE = (
    "the model; use a smaller backbone, method.head or method.prototypes, or parallel.mode=fsdp on more devices; "
    "seer plan tells what it needs"
)
USUAL_CROP = 96  # px: what photographs are not cut smaller than
MUCH_LARGER = 4  # times the crop
PAGE = 4096  # bytes; each encoded image has pages of its own


def rehearse(config: Pretrain, ranks: int = 1) -> None:
    """One step of one of so many processes on the `meta` device, in no time and without memory: what a
    part would refuse, it refuses here.
    """
    share = max(2, config.batch_size // ranks // config.accumulate)
    check_cached(config)
    resolutions = MultiCrop(config.views, config.seed).resolutions
    with torch.device("meta"):
        backbone = build(config.backbone)
        method = make(backbone, config.method, config.batch_size)
        images = config.batch_size
        teach(method, config.mean, config.std, images, largest(config), shapes_only=True)
        restrict(method, config.trains)
        crops = []
        for resolution in resolutions:
            count = len(resolution.crops)
            crops.append(torch.empty(count, share, 3, resolution.size, resolution.size))
        views = Views(tuple(crops), torch.empty(share, dtype=torch.int64))
        method(views, Step(0, config.steps))
        build_optimizer(method, config.optim)
    for trunk in find_backbones(method):
        checkpoint_stages(trunk, config.parallel.checkpointing)


def check(config: Pretrain, manifest: Manifest, world: World) -> None:
    """Everything about a configuration that its types do not say; raises `InputError`."""
    check_settings(config, world.size)
    check_images(config, manifest.samples)
    check_masks(config, manifest)
    check_memory(config, manifest, world)
    if isinstance(config.method, Distill.Config):
        check_teachers(config.method, largest(config))
    rehearse(config, world.size)


def largest(config: Pretrain) -> int:
    """The side of the largest crops, which teachers see."""
    return max(view.size for view in config.views.values() if view.count)


def check_cached(config: Pretrain) -> None:
    """Refuse to keep a teacher's features of crops that are others each time. Raises `InputError`."""
    if not getattr(config.method, "cache", False):
        return
    size = largest(config)
    views = {n: v for n, v in config.views.items() if v.count and v.size == size}
    name, view = next(iter(views.items()))
    if len(views) > 1 or view.count > 1 or not is_fixed(view):
        raise InputError(
            f"method.cache=true: the teacher's crops are others each time; have one of the whole image "
            f"(views.{name}.count=1 scale=[1,1] ratio=[1,1] flip=0 jitter=0 grey=0 blur=0), or method.cache=false"
        )


def check_masks(config: Pretrain, manifest: Manifest) -> None:
    """Whether the samples have the masks that views ask for, as far as the first shard tells; raises
    `InputError`.
    """
    asking = [name for name, view in config.views.items() if view.count and view.background_removal]
    if asking and MASK not in suffixes_of(manifest):
        raise InputError(
            f"views.{asking[0]}.background_removal: {manifest.directory} has no masks; make them: seer shards saliency "
            f"{quoted(manifest.directory)} --out NEW, and give data=NEW; or set background_removal=0"
        )


def check_memory(config: Pretrain, manifest: Manifest, world: World) -> None:
    """Whether this host has the memory for its ranks' batches; raises `InputError`."""
    need = loader_memory(config, world.size, int(manifest.image_bytes))
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


def build_method(config: Pretrain, samples: int = 0) -> Method:
    """The method with its initial weights, the same in every process; without memory if
    `parallel.deferred_init`.

    Args:
        samples: how many images there are, which a method with banks needs to know.
    """
    torch.manual_seed(config.seed)
    with torch.device("meta" if config.parallel.deferred_init else "cpu"):
        method = make(build(config.backbone), config.method, samples)
        teach(method, config.mean, config.std, samples, largest(config))
    return method


def initialise(method: Method, config: Pretrain) -> list[str]:
    """Give a method's backbone the weights that `init` names, if any; lines that say what came from
    where, and what starts new.
    """
    if not config.init:
        return []
    assert isinstance(method.backbone, Backbone)
    heads = SWAV_HEADS if config.method.name == "swav" else ()
    beside = {name: getattr(method, name) for name in heads}
    try:
        start = load_initial(method.backbone, config.init, beside, config.init_partial)
    except InputError as error:
        raise InputError(f"init: {error}") from None
    method.after_load()
    trained = {name.partition(".")[0] for name, p in method.named_parameters() if p.requires_grad}
    others = sorted(trained - {"backbone", *start.taken})
    new = f"; {' and '.join(others)} start{'s' * (len(others) == 1)} new" if others else ""
    lines = [f"init: {start.summary}{new}"]
    if start.advice:
        lines.append(f"init: its heads come along with {start.advice}")
    for name, own in (("mean", config.mean), ("std", config.std)):
        theirs = getattr(start, name)
        if theirs is not None and not np.allclose(theirs, own, atol=1e-3):
            lines.append(f"init: it was trained with {name}={theirs} and this run has {own}")
    return lines


def sizes(config: Pretrain, manifest: Manifest) -> list[str]:
    """A line where the images of the first shard are much larger than the crops that are cut out of
    them, which recipes for tiny images make of photographs.
    """
    name, view = max(
        ((name, view) for name, view in config.views.items() if view.count),
        key=lambda item: item[1].size,
    )
    first = int(np.flatnonzero(manifest.sizes)[0])  # of a subset a shard may have none
    shapes = manifest.index(first, ["width", "height"])
    sides = np.minimum(shapes["width"].to_numpy(), shapes["height"].to_numpy())
    side = int(np.median(sides))
    if view.size >= USUAL_CROP or side < MUCH_LARGER * view.size:
        return []
    cost = (USUAL_CROP / view.size) ** 2
    return [
        f"crops of {view.size} px show little of images of {side} (median shorter side): "
        f"views.{name}.size={USUAL_CROP} in a new run_dir shows more, for about {cost:.0f} times the time"
    ]


def announce(config: Pretrain) -> None:
    """Say, on stderr and in the log, what the rate becomes with this batch, and which options do
    nothing here.
    """
    tell(describe(config.schedule, config.batch_size, config.steps))
    load = machine.load()
    if load.remedy:
        logger.warning("%s; %s", load.told, load.remedy)
    cores = usable_cores()
    if config.loader.workers > cores:
        logger.warning(
            "loader.workers=%d, of each process, and %d cores here: more workers than cores make nothing faster",
            config.loader.workers,
            cores,
        )
    for warning in METHODS[config.method.name].warnings(
        config.method, config.batch_size, config.steps
    ):
        logger.warning("%s", warning)
