"""Hierarchical pretraining (Reed et al. 2022, arXiv:2103.12718): from what its recipe says to the stages
of all chains, each trained once however many strategies go over it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seer.adapt.carrying_out import left
from seer.adapt.options import SOURCE, STRATEGIES, SUFFIX, HptConfig, Strategy, Variant
from seer.backbones import build
from seer.data.storage.index import MANIFEST
from seer.errors import InputError
from seer.eval.tasks import TASKS, check_options
from seer.interop.initial import load_initial
from seer.pretrain.length import check_images
from seer.pretrain.recipe import Pretrain, check_run_dir, check_settings, load_config
from seer.pretrain.rehearsal import rehearse
from seer.pretrain.taken_images import manifest_of
from seer.rundir.chains import Chains, Result, Stage, words_of


def plan(config: HptConfig) -> Chains:
    """The chains of a recipe. Raises `InputError` where their names do not serve as folders'."""
    stages: dict[str, Stage] = {}
    points = []
    for variant_name, variant in (config.variants or {"": Variant()}).items():
        for name in config.strategies:
            strategy = STRATEGIES[name]
            lengths = [config.statistics_steps] if strategy.flat else config.steps
            for steps in lengths:
                chain = _chain(config, strategy, variant_name, variant, steps)
                stages |= {stage.name: stage for stage in chain if stage.name not in stages}
                length = 0 if strategy.flat else steps
                points.append(Result(name, variant_name, length, chain[-1].name))
    return Chains(
        config.title, config.labelled, list(config.evaluations), list(stages.values()), points
    )


def _chain(
    config: HptConfig, strategy: Strategy, variant_name: str, variant: Variant, steps: int
) -> list[Stage]:
    """The stages of a strategy, the last of which has so many steps."""
    chain: list[Stage] = []
    name = "b" if strategy.base else ""
    prefix = f"{variant_name}." if variant_name else ""
    for number, (place, trains) in enumerate(strategy.stages, 1):
        trains = trains or config.bn
        last = number == len(strategy.stages)
        length = steps if last else config.source_steps or steps
        name += f"{'+' if name else ''}{place[0]}{length}{SUFFIX[trains]}"
        after = chain[-1].name if chain else ""
        own = config.source_set if place == SOURCE else config.target_set
        share = 1.0 if place == SOURCE else variant.share
        overrides = [
            f"data={getattr(config, place)}",
            *config.set,
            *own,
            *variant.set,
            f"steps={length}",
            *([f"trains={trains}"] if trains != "all" else []),
            *([f"share={share:g}"] if share != 1 else []),
            *([f"init={variant.init or config.init}"] if strategy.base and not after else []),
        ]
        chain.append(Stage(prefix + name, config.recipe, overrides, after, length))
    return chain


def check(chains: Chains, folder: Path, ranks: int) -> None:
    """Refuse, before anything is trained, what a stage or an evaluation would.

    Raises:
        InputError: in one line, what, and of which stage.
    """
    for text in chains.evaluations:
        task, *options = words_of(text)
        check_options(task, "pixels", chains.labelled, options)
        TASKS[task].splitting().check_layout(chains.labelled, TASKS[task].several)
    configs = {stage.name: _resolved(stage, folder) for stage in chains.stages}
    first = next(iter(configs))
    for name, config in configs.items():
        if config.backbone != configs[first].backbone:
            raise InputError(
                f"stages {first} and {name} have different backbones, {configs[first].backbone.name} and "
                f"{config.backbone.name}; a chain is of one network: set backbone.name for all of them, in set="
            )
    rehearsed = set()
    for stage in chains.stages:
        config = configs[stage.name]
        with _named(stage):
            check_settings(config, ranks)
            if os.path.isfile(Path(config.data) / MANIFEST):  # else shards are made of it
                check_run_dir(config)
                check_images(config, manifest_of(config).samples)
            kind = (config.trains, repr(config.method), repr(config.views))
            if kind not in rehearsed:
                rehearse(config)
                rehearsed.add(kind)
    _check_bases(chains, configs)


def _resolved(stage: Stage, folder: Path) -> Pretrain:
    _, recipe, *overrides = stage.command(folder)
    with _named(stage):
        return load_config(recipe, overrides)


def _check_bases(chains: Chains, configs: dict[str, Pretrain]) -> None:
    """Raise `InputError` where a base model's weights are not those of the stages' network."""
    tried = set()
    for stage in chains.stages:
        config = configs[stage.name]
        if not stage.after and config.init and config.init not in tried:
            tried.add(config.init)
            try:
                load_initial(build(config.backbone), config.init)
            except InputError as error:
                raise InputError(f"init: {error}") from None


@contextmanager
def _named(stage: Stage) -> Iterator[None]:
    """Within it, what is refused is refused of a stage by its name."""
    try:
        yield
    except InputError as error:
        raise InputError(f"stage {stage.name}: {error}") from None


def described(chains: Chains, folder: Path) -> list[str]:
    """For a terminal: the stages, what each goes on from, and what is done."""
    width = max(len(stage.name) for stage in chains.stages)
    lines = [f"{chains.title}: {len(chains.stages)} stages"]
    for stage in chains.stages:
        start = f"after {stage.after}" if stage.after else _start(stage)
        done = "done" if stage.is_done(folder) else ""
        lines.append(f"{stage.name:{width}}  {stage.steps:8,} steps  {start}  {done}".rstrip())
    total = sum(stage.steps for stage in chains.stages)
    to_do = sum(stage.steps for stage in chains.stages if not stage.is_done(folder))
    measures = len(chains.measured()) * len(chains.evaluations)
    lines.append(
        f"{'together':{width}}  {total:8,} steps, {to_do:,} of them left; "
        f"{measures} evaluations, {len(list(left(chains, folder)))} left"
    )
    return lines


def _start(stage: Stage) -> str:
    inits = [word.removeprefix("init=") for word in stage.overrides if word.startswith("init=")]
    return f"from {inits[-1]}" if inits else "from random weights"
