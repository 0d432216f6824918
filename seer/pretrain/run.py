"""One pretraining run: how data, method and engine are put together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from seer import config as configuration
from seer import distributed
from seer.checks import audit
from seer.data.crops.multicrop import MultiCrop
from seer.data.crops.options import describe
from seer.data.loader import Loader
from seer.data.order import Order
from seer.data.storage.index import Manifest
from seer.data.storage.reader import Reader
from seer.distributed import World
from seer.engine.parallel import parallelize
from seer.engine.peers import check_peers
from seer.engine.run import Training, enough_memory, fit, tell
from seer.interop.native import backbone_metadata
from seer.pretrain.length import with_steps
from seer.pretrain.picture import picture_of_crops
from seer.pretrain.planned import planned_beside
from seer.pretrain.recipe import Pretrain, check_run_dir
from seer.pretrain.rehearsal import TOO_LARGE, announce, build_method, check, initialise, sizes
from seer.pretrain.scoring import Scoring
from seer.rundir.names import CONFIG, CROPS, IMAGES, MANIFEST
from seer.terminal import outlasting_terminal


def run(config: Pretrain, remarks: Sequence[str] = ()) -> Path:
    """Train, or go on training, in this process of the world, once all that can be is checked.

    Args:
        remarks: lines that are said where the run begins, after what its weights come from.

    Raises:
        InputError: wrong input, or a run directory that belongs to another configuration or is in use.
    """
    with outlasting_terminal():
        world = distributed.init(config.device)
        check_peers()
        manifest = Manifest.load(config.data)
        config = with_steps(config, manifest.samples)
        check(config, manifest, world)
        scoring = Scoring(config.score, Path(config.run_dir), tell)
        training = set_up(config, manifest, world, scoring, remarks)
        check_run_dir(config)
        distributed.barrier()  # no rank writes before every rank has looked
        run_dir = fit(training, world)
        scoring.finish()  # no other process of the run waits
        return run_dir


def set_up(
    config: Pretrain,
    manifest: Manifest,
    world: World,
    scoring: Scoring,
    remarks: Sequence[str] = (),
) -> Training:
    """A pretraining as the engine takes it."""
    run_dir = Path(config.run_dir)
    with enough_memory(world.device, TOO_LARGE):
        method = build_method(config, manifest.samples)
        origin = initialise(method, config)
        module = parallelize(method, config.parallel, world, config.precision)
    finished = not config.loader.device_augment
    crops = MultiCrop(config.views, config.seed, finished, config.mean, config.std)
    lanes = config.loader.lanes or config.batch_size
    order = Order(manifest.sizes, config.seed, lanes, config.loader.window)
    of_this_host = config.batch_size // world.size * world.local_size
    reader = Reader(manifest, config.loader, min(lanes, of_this_host))
    loader = Loader(
        reader,
        order,
        crops,
        batch_size=config.batch_size,
        rank=world.rank,
        world_size=world.size,
        config=config.loader,
        device=world.device,
        run_dir=run_dir,
    )

    def prepare() -> None:
        (run_dir / IMAGES).mkdir(exist_ok=True)
        configuration.save(config, run_dir / CONFIG)

    def begin(start: int) -> None:
        if start == 0:
            tell(*origin, *remarks, *sizes(config, manifest))
        if start == 0 or not (run_dir / MANIFEST).is_file():  # a checkpoint may come from a store
            manifest.save(run_dir)
            picture_of_crops(reader, order, crops, config).save(run_dir / IMAGES / CROPS)

    def weights(step: int) -> dict[str, str]:
        size = max(view.size for view in config.views.values() if view.count)
        about = {"step": step, "config_hash": configuration.identity(config)}
        return backbone_metadata(config.backbone, size, config.mean, config.std, about)

    @contextmanager
    def beside() -> Iterator[None]:
        with planned_beside(config, world), scoring.beside(world.is_main):
            yield

    return Training(
        config=config,
        learner=method,
        module=module,
        batches=loader,
        prepare=prepare,
        sees=describe(config.views),
        announce=partial(announce, config),
        begin=begin,
        weights=weights,
        keys_of=partial(audit.keys_of_step, run_dir),
        beside=beside,
    )
