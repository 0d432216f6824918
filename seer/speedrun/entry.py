"""What is entered in a speedrun: a recipe, and whether it can be run."""

from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from seer import config as configuration
from seer.backbones.options import BackboneConfig
from seer.data.crops.options import DEFAULT_VIEWS, View
from seer.engine.options import OptimConfig, ParallelConfig
from seer.engine.schedule import ScheduleConfig
from seer.errors import InputError
from seer.methods import METHOD_CONFIGS
from seer.methods.options import SwAVConfig
from seer.schema import (
    DEVICE,
    SEED,
    WORD,
    Choice,
    Flag,
    Integer,
    ListOf,
    Location,
    Number,
    kind_of,
    option,
    required,
)
from seer.steps import PLACE

RECIPES = configuration.RECIPES / "speedrun"
PICKLED = "cifar-10-batches-py"  # CIFAR-10 as its authors publish it


@dataclass
class Speedrun:
    """What is run. `batch_size` is global; a run has a time and no number of steps.

    Attributes:
        minutes: from the images in memory to the score.
        reserve: seconds kept for the vote and what nobody foresaw; what the features take is measured.
        size: side in pixels of the whole images whose features are compared; 0 is their own.
        whiten: set the first convolution's filters to the main axes of training images' patches, evened out, and
            freeze them.
        whiten_features: power by which the main axes of the training images' features are evened out before the vote: 0
            leaves them, 0.5 makes all equally long.
        every: steps between two looks at the loss, for each of which a GPU has to come to rest.
        graph: on a GPU, record a step's kernels and start them as one.
    """

    name: str = option("speedrun", WORD, incidental=True)
    data: str = required(Location(shortest=1))
    minutes: float = option(3.0, Number(above=0, high=10_000))
    reserve: float = option(2.0, Number(0, 3600))
    size: int = option(0, Integer(0, 1024))
    whiten: bool = option(False, Flag())
    whiten_features: float = option(0.0, Number(0, 0.5))
    every: int = option(20, Integer(1, 10**6), incidental=True)
    graph: bool = option(True, Flag(), incidental=True)
    seed: int = option(0, SEED)
    batch_size: int = option(512, Integer(2, 2**20))
    precision: str = option("fp32", Choice("fp32", "bf16"))
    device: str = option("auto", DEVICE, incidental=True)
    mean: list[float] = option([0.4914, 0.4822, 0.4465], ListOf(Number(0, 1), 3, 3))
    std: list[float] = option([0.247, 0.2435, 0.2616], ListOf(Number(0.001, 1000), 3, 3))
    views: dict[str, View] = field(default_factory=lambda: deepcopy(DEFAULT_VIEWS))
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    method: Any = field(default_factory=SwAVConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)


def load_config(recipe: str, overrides: list[str], allow_env: bool = False) -> Speedrun:
    """The recipe of a class (`cpu`, `gpu`) or of a YAML file under overrides; `InputError` where a
    key or value is wrong.
    """
    of_class = RECIPES / f"{recipe}.yaml"
    path = str(of_class) if of_class.is_file() else recipe
    if not path.endswith((".yaml", ".yml")):
        classes = " or ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        raise InputError(f"speedrun {recipe}: no such class; give {classes}, or a .yaml file")
    given = [f"name={Path(recipe).stem}", *overrides]
    return configuration.load(Speedrun, path, given, {"method": METHOD_CONFIGS}, allow_env)


def check(config: Speedrun, ranks: int) -> None:
    """What can be told without the images; raises `InputError`."""
    if config.batch_size % ranks:
        raise InputError(f"batch_size={config.batch_size} does not divide among {ranks} processes")
    method = config.method
    if method.name == "distill":
        raise InputError(
            "method.name=distill: a speedrun has no teacher from elsewhere (rule 2); take another method"
        )
    check_places(method, config.schedule)


def check_places(method: Any, schedule: ScheduleConfig) -> None:
    """Refuse, with `InputError`, places that are given in steps: a time has no number of them."""
    places = {
        f"method.{declared.name}": getattr(method, declared.name)
        for declared in fields(method)
        if kind_of(declared) == PLACE
    }
    for key, place in {**places, "schedule.warmup": schedule.warmup}.items():
        if place >= 1:
            raise InputError(
                f"{key}={place}: what has a time has no number of steps; give a share of it, below 1"
            )


def check_data(config: Speedrun) -> None:
    """What can be told of the images without looking at one; raises `InputError`."""
    from seer.data.labelled import check_layout  # slow to import

    if pickled(Path(config.data)) is None:
        check_layout(config.data)


def pickled(data: Path) -> Path | None:
    """The folder that holds CIFAR-10's own folder, if `data` is one of both."""
    if data.name == PICKLED and data.is_dir():
        return data.parent
    return data if (data / PICKLED).is_dir() else None
