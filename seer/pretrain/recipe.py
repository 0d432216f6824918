"""What a pretraining run is to be: its configuration. Imports nothing that takes long, so that a
misspelt key is told at once; whether the run can be is told by `rehearsal`.
"""

import os
import re
from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from seer import config as configuration
from seer.backbones import canonical
from seer.backbones.options import BackboneConfig
from seer.config.layers import Scalar, Tree
from seer.data.crops.options import DEFAULT_VIEWS, View, check_views
from seer.data.options import LoaderConfig
from seer.engine.options import INCIDENTAL, RunConfig, check_batch, check_parallel
from seer.engine.schedule import effective, peak_for, value
from seer.errors import InputError, quoted
from seer.hardware import Hardware, find
from seer.inputs import read_text
from seer.interop.spec import check_initial
from seer.methods import METHOD_CONFIGS
from seer.methods.options import SwAVConfig
from seer.pretrain.scoring import ScoreConfig, check_spacing
from seer.rundir.names import CONFIG
from seer.schema import WORD, Choice, ListOf, Location, Number, kind_of, option, required
from seer.steps import PLACE, whole_steps

TRAINED = ("all", "bn", "bn_affine", "bn_statistics")
# What younger options were before they existed, by section and its `name`: an older run goes on as
# it began, or not.
BEFORE = {
    ("optim", "lars"): {"lars_joint_norm": "false"},
    ("method", "simclr"): {"head_bn_shift": "true"},
}


@dataclass
class Pretrain(RunConfig):
    """A pretraining run.

    Attributes:
        data: shards in a folder or a store, or a folder of images, of which shards are made beside the run.
        subset: a file with the keys of the images that are taken, a line each, as `seer cluster` writes them; empty:
            all of them.
        init: what the backbone's weights come from: a MODEL of the command line, or a checkpoint of others, whose SwAV
            head and prototypes come along where they fit; empty: they are random.
        init_partial: take of a checkpoint of others what fits, and leave the rest random.
        trains: what of the backbone learns: `all`; `bn`, its BatchNorms alone; of these `bn_affine` their weights and
            biases, `bn_statistics` their running means and variances. What the method adds to it always learns.
        share: how much of the images to learn from, the first ones of the shards, which `seer shards build` has mixed.
        mean, std: of the images' channels, from 0 to 1, by which they are normalised.
        method.name: the method; its other keys are the method's own.
    """

    name: str = option("pretrain", WORD, incidental=True)
    data: str = required(Location(shortest=1))
    subset: str = option("", Location())
    init: str = option("", Location())
    init_partial: bool = False
    trains: str = option("all", Choice(*TRAINED))
    share: float = option(1.0, Number(above=0, high=1))
    mean: list[float] = option([0.485, 0.456, 0.406], ListOf(Number(0, 1), 3, 3))
    std: list[float] = option([0.229, 0.224, 0.225], ListOf(Number(0.001, 1000), 3, 3))
    views: dict[str, View] = field(default_factory=lambda: deepcopy(DEFAULT_VIEWS))
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    method: Any = field(default_factory=SwAVConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig, metadata=INCIDENTAL)


def load_config(recipe: str, overrides: list[str], allow_env: bool = False) -> Pretrain:
    """The configuration of a recipe under overrides; `InputError` where a key or value is wrong.

    Args:
        allow_env: let `${oc.env:NAME}` in the recipe stand for a variable of the environment.
    """
    named = ["name=" + Path(recipe).stem, *overrides, *_length_not_given(overrides)]
    config = configuration.load(Pretrain, recipe, named, {"method": METHOD_CONFIGS}, allow_env)
    if config.steps and config.epochs:
        raise InputError("steps, epochs: a run has one of them, and both are given; set one to 0")
    if not config.steps and not config.epochs:
        raise InputError(
            "steps: not set, and neither are epochs; give one, for instance epochs=100"
        )
    return config


def _length_not_given(overrides: list[str]) -> list[str]:
    """`steps` and `epochs` say the same thing: what is given replaces the recipe's other one."""
    keys = {override.partition("=")[0] for override in overrides}
    other = {"steps": "epochs", "epochs": "steps"}
    return [f"{other[key]}=0" for key in other if key in keys and other[key] not in keys]


def rate_of_scratch(
    config: Pretrain, recipe: str, overrides: list[str], allow_env: bool = False
) -> list[str]:
    """A line where a run that is given `init=` keeps the rate of a recipe that trains from scratch,
    or a higher one.
    """
    if not any(override.startswith("init=") for override in overrides) or not config.init:
        return []
    others = [override for override in overrides if not override.startswith("schedule.")]
    scratch = load_config(recipe, others, allow_env).schedule
    if peak_for(config.schedule, config.batch_size) < peak_for(scratch, config.batch_size):
        return []
    return [
        f"init: schedule.peak={config.schedule.peak:g} is for training from scratch, and may undo what the weights "
        f"know; try a tenth: schedule.peak={config.schedule.peak / 10:g}"
    ]


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


def check_settings(config: Pretrain, ranks: int) -> None:
    """What can be told of a configuration on `ranks` processes without data or machine; raises
    `InputError`.
    """
    check_batch(config, ranks)
    check_parallel(config.parallel, ranks)
    alone = ranks == 1 or config.parallel.bn_group == 1
    if alone and config.batch_size == config.accumulate * ranks:
        where = " and process (parallel.bn_group=1)" if ranks > 1 else ""
        raise InputError(
            f"batch_size={config.batch_size}: one image at a time{where}, and methods tell images from others, as "
            f"BatchNorm does; use {2 * config.batch_size} or more"
        )
    if config.init and config.parallel.deferred_init:
        raise InputError(
            "init: needs the whole backbone in every process; set parallel.deferred_init=false"
        )
    if config.log.plan not in ("auto", "none"):
        find(config.log.plan, "log.plan")
    check_views(config.views)
    canonical(config.backbone.name)
    value(effective(config.schedule, config.batch_size, config.steps), 0, config.steps)
    whole_places(config)
    check_spacing(config.score, config.checkpoint, config.steps)


def whole_places(config: Pretrain) -> dict[str, int]:
    """The method's places in the run, by option, in steps; raises `InputError`."""
    method = config.method
    places = [declared.name for declared in fields(method) if kind_of(declared) == PLACE]
    return {
        name: whole_steps(getattr(method, name), config.steps, f"method.{name}") for name in places
    }


def check_start(config: Pretrain) -> None:
    """Refuse a run directory that is a file, and of a run that is new, weights that are not there.

    Raises:
        InputError: in one line, which.
    """
    run_dir = Path(config.run_dir)
    if os.path.isfile(run_dir):
        raise InputError(f"{run_dir}: is a file; give another run_dir")
    if config.init and not (run_dir / CONFIG).exists():
        try:
            check_initial(config.init)
        except InputError as error:
            raise InputError(f"init: {error}") from error


def check_run_dir(config: Pretrain) -> None:
    """Refuse a run directory that another configuration has written; nothing in it is changed."""
    path = Path(config.run_dir) / CONFIG
    if not path.is_file():
        return
    saved = saved_config(path)
    differing = _differences(saved, config)
    if differing:
        more = f" (and {len(differing) - 3} more)" if len(differing) > 3 else ""
        longer = ""
        if saved.steps < config.steps:
            longer = f"; to train its weights for longer, run_dir=NEW init={quoted(config.run_dir)}"
        raise InputError(
            f"{config.run_dir}: belongs to another configuration: {'; '.join(map(str, differing[:3]))}{more}; "
            f"choose another run_dir, or give the same values to continue{longer}"
        )


def _differences(saved: Pretrain, config: Pretrain) -> list[str]:
    """Where two configurations mean different things. What follows from other keys, as a warm-up in
    steps does from the run's length, is left out where these are named.
    """
    free = configuration.incidental(Pretrain)
    then = configuration.flatten(configuration.to_dict(saved))
    now = configuration.flatten(configuration.to_dict(config))
    same = {key for key in then.keys() & now.keys() if then[key] == now[key]}
    differing = configuration.differences(meaning(saved), meaning(config), free)
    given = configuration.differences(meaning(saved), meaning(config), free | same)
    return given or differing


def data_of(run_dir: Path | str) -> Path | None:
    """The data that a run was begun with; None where none has begun."""
    path = Path(run_dir) / CONFIG
    return Path(saved_config(path).data) if path.is_file() else None


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
