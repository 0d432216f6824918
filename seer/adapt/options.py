"""What can be said of hierarchical pretraining, and the recipes of `configs/hpt/`."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from seer import config as configuration
from seer.config import RECIPES
from seer.errors import InputError, nearest
from seer.rundir.chains import words_of
from seer.rundir.studies import WORD as NAME
from seer.schema import (
    WORD,
    Choice,
    Integer,
    ListOf,
    Location,
    MismatchError,
    Number,
    Text,
    option,
    required,
)

FOLDER = RECIPES / "hpt"
SOURCE = "source"
TARGET = "target"
STEPS = Integer(1, 10**8)
# Folders begin with it (`seer.rundir.chains.STAGE`).
VARIANT_NAME = Text(
    40,
    1,
    r"[^/.\x00-\x1f\x7f-\x9f][^/\x00-\x1f\x7f-\x9f]*",
    "a name without / that does not begin with a point",
)
SETTINGS = ListOf(Text(100_000, 1), 1000)
SUFFIX = {"all": "", "bn": "-bn", "bn_affine": "-affine", "bn_statistics": "-statistics"}


@dataclass(frozen=True)
class Strategy:
    """A chain of stages.

    Attributes:
        base: whether it begins with the base model, or else with random weights.
        stages: whose images each learns from, and what of the backbone learns; "" is what `HptConfig.bn` says.
        flat: whether it is one training, and not one for each number of steps.
    """

    base: bool
    stages: tuple[tuple[str, str], ...]
    flat: bool = False


STRATEGIES = {
    "Base": Strategy(True, ((TARGET, "bn_statistics"),), flat=True),
    "Target": Strategy(False, ((TARGET, "all"),)),
    "HPT": Strategy(True, ((TARGET, "all"),)),
    "HPT-BN": Strategy(True, ((TARGET, ""),)),
    "B+S": Strategy(True, ((SOURCE, "all"),)),
    "B+T": Strategy(True, ((TARGET, "all"),)),
    "B+S+T": Strategy(True, ((SOURCE, "all"), (TARGET, "all"))),
    "B+S+T-BN": Strategy(True, ((SOURCE, "all"), (TARGET, ""))),
}


@dataclass
class Variant:
    """What else the strategies are tried with.

    Attributes:
        set: keys of every stage's recipe, above the others.
        init: another base model; empty: the study's.
        share: how much of the target's images to learn from.
    """

    set: list[str] = option([], SETTINGS)
    init: str = option("", Location())
    share: float = option(1.0, Number(above=0, high=1))


@dataclass
class HptConfig:
    """Chains of pretrainings: base model → source → target, and what they are worth.

    Attributes:
        run_dir: where the runs of all stages lie, their results and the page.
        recipe: of every stage, as `seer pretrain` takes it.
        set: keys of every stage's recipe.
        source_set: keys of the stages on source images alone.
        target_set: keys of those on target images.
        init: the base model, with which chains begin that have one.
        source: images, or shards, of a source that is nearer to the target than the base model's images are.
        target: images, or shards, to adapt to: training images, since test images are to measure by.
        labelled: labelled images of the target, as `seer eval --data` takes them.
        strategies: which chains there are.
        steps: of the last stage; a training of its own for each.
        source_steps: of the stages before the last; 0: as many as the last has.
        statistics_steps: of Base, of which nothing but BatchNorm's running statistics changes.
        bn: what the strategies in -BN train: `bn`, `bn_affine` or `bn_statistics`.
        evaluations: a task of `seer eval` with its options, each.
        variants: what robustness is tried against, by name; none: everything is made once.
    """

    name: str = option("hpt", WORD)
    run_dir: str = option("runs/${name}", Location(shortest=1))
    title: str = option("Hierarchical pretraining", Text(200, 1))
    recipe: str = required(NAME)
    set: list[str] = option([], SETTINGS)
    source_set: list[str] = option([], SETTINGS)
    target_set: list[str] = option([], SETTINGS)
    init: str = option("", Location())
    source: str = option("", Location())
    target: str = option("", Location())
    labelled: str = option("", Location())
    strategies: list[str] = option(
        list(STRATEGIES), ListOf(Choice(*STRATEGIES), len(STRATEGIES), 1, distinct=True)
    )
    steps: list[int] = option([50, 500, 5000, 50000], ListOf(STEPS, 100, 1, distinct=True))
    source_steps: int = option(0, Integer(0, 10**8))
    statistics_steps: int = option(50, STEPS)
    bn: str = option("bn", Choice("bn", "bn_affine", "bn_statistics"))
    evaluations: list[str] = option(
        ["linear protocol=hpt", "lowshot protocol=hpt"], ListOf(Text(100_000, 1), 100, 1)
    )
    variants: dict[str, Variant] = field(default_factory=dict)


def recipes() -> dict[str, Path]:
    """Those that come with seer, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def load_config(recipe: str, overrides: list[str]) -> HptConfig:
    """The options of a recipe (a name or a path) under overrides.

    Raises:
        InputError: a key or value is wrong, or something is missing that its strategies need.
    """
    known = recipes()
    path = known.get(recipe, Path(os.path.expanduser(recipe)))
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(
            f"'{recipe}' is no recipe of `seer hpt`{nearest(recipe, known)}; or give the path of a .yaml file"
        )
    config = configuration.load(HptConfig, str(path), [f"name={path.stem}", *overrides])
    _check(config)
    return config


def _check(config: HptConfig) -> None:
    chosen = [STRATEGIES[name] for name in config.strategies]
    needed = {TARGET: True, "labelled": True}
    needed[SOURCE] = any(place == SOURCE for strategy in chosen for place, _ in strategy.stages)
    for key, is_needed in needed.items():
        if is_needed and not getattr(config, key):
            raise InputError(f"{key}: not set; {_MEANINGS[key]}")
    if any(strategy.base for strategy in chosen) and not config.init:
        lacking = [name for name, variant in config.variants.items() if not variant.init]
        if lacking or not config.variants:
            key = f"variants.{lacking[0]}.init" if lacking else "init"
            raise InputError(f"{key}: not set; give MODEL, for instance {key}=torchvision:resnet50")
    for name in config.variants:
        try:
            VARIANT_NAME.check(name, "variants")
        except MismatchError as error:
            raise InputError(str(error)) from None
    tasks = [words_of(text)[0] for text in config.evaluations]
    for task in tasks:
        if tasks.count(task) > 1:
            raise InputError(
                f"evaluations: {task} stands there twice; a task measures a stage once"
            )


_MEANINGS = {
    SOURCE: "give a folder of images or shards, or strategies without S",
    TARGET: "give a folder of the target's training images, or shards of these",
    "labelled": "give labelled images of the target, as seer eval --data takes them",
}
