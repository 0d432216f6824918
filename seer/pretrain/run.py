"""One pretraining run: how data, method and engine are put together."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from seer import config as configuration
from seer import distributed
from seer.checks import audit
from seer.data.crops.options import describe
from seer.data.storage.index import Manifest
from seer.data.storage.subset import Subset
from seer.distributed import World
from seer.engine.parallel import parallelize
from seer.engine.peers import check_peers
from seer.engine.run import Training, enough_memory, fit, tell
from seer.interop.native import backbone_metadata
from seer.interop.teaching import assign
from seer.pretrain.batches import batches_of
from seer.pretrain.length import with_steps
from seer.pretrain.partly import restrict
from seer.pretrain.planned import planned_beside
from seer.pretrain.recipe import Pretrain, check_run_dir
from seer.pretrain.rehearsal import TOO_LARGE, announce, build_method, check, initialise, sizes
from seer.pretrain.scoring import scored
from seer.pretrain.taken_images import experts_of, identity_of, manifest_of
from seer.rundir.names import CHOSEN, CONFIG, CROPS, IMAGES, MANIFEST
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
        manifest = manifest_of(config)
        config = with_steps(config, manifest.samples)
        check(config, manifest, world)
        training = set_up(config, manifest, world, remarks)
        check_run_dir(config)
        distributed.barrier()  # no rank writes before every rank has looked
        with scored(training, config.score, world.is_main, tell):
            return fit(training, world)


def set_up(
    config: Pretrain, manifest: Manifest, world: World, remarks: Sequence[str] = ()
) -> Training:
    """A pretraining as the engine takes it."""
    run_dir = Path(config.run_dir)
    with enough_memory(world.device, TOO_LARGE):
        method = build_method(config, manifest.samples)
        experts = experts_of(config, manifest)
        assign(method, experts)
        origin = initialise(method, config)
        restrict(method, config.trains)
        module = parallelize(method, config.parallel, world, config.precision)
    batches, picture = batches_of(config, manifest, world)
    batches.identity = identity_of(manifest, experts)

    def prepare() -> None:
        (run_dir / IMAGES).mkdir(exist_ok=True)
        configuration.save(config, run_dir / CONFIG)

    def begin(start: int) -> None:
        if start == 0:
            tell(*origin, *remarks, *sizes(config, manifest))
        if start == 0 or not (run_dir / MANIFEST).is_file():  # a checkpoint may come from a store
            manifest.save(run_dir)
            if isinstance(manifest, Subset):
                manifest.save_chosen(run_dir / CHOSEN)
            picture().save(run_dir / IMAGES / CROPS)

    def weights(step: int) -> dict[str, str]:
        size = max(view.size for view in config.views.values() if view.count)
        about = {"step": step, "config_hash": configuration.identity(config)}
        return backbone_metadata(config.backbone, size, config.mean, config.std, about)

    return Training(
        config=config,
        learner=method,
        module=module,
        batches=batches,
        prepare=prepare,
        sees=describe(config.views),
        announce=partial(announce, config),
        begin=begin,
        weights=weights,
        keys_of=partial(audit.keys_of_step, run_dir),
        beside=partial(planned_beside, config, world),
    )
