"""Studies: from a file of `configs/study/` to what each arm is, takes and costs, before anything is
spent.
"""

import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from seer import inputs
from seer.backbones import build
from seer.config import RECIPES
from seer.errors import InputError, first_line, nearest
from seer.eval.tasks import check_options
from seer.hardware import find
from seer.planning.plan import Estimate, Job
from seer.pretrain.length import foreseen
from seer.pretrain.recipe import load_config
from seer.rundir.studies import ABOUT, ARM_NAME, MOST_ARMS, WORD, Arm, Study, check_distinct
from seer.schema import Flag, Integer, ListOf, Record

FOLDER = RECIPES / "study"
# Keys that no arm has of its own.
GIVEN = {"data": "it is given by --data", "run_dir": "every arm's is STUDY/ARM; see --out"}
ANY = ""  # the name of the images of arms that name none
FILE_ARM = Record(
    {"name": ARM_NAME, "recipe": WORD},
    {"set": ListOf(WORD, 1000), "data": WORD, "scratch": Flag(), "published": WORD},
    extra=None,
)
SEEDS = Integer(1, 100)
FILE = Record({**ABOUT, "arms": ListOf(FILE_ARM, MOST_ARMS, 1)}, {"seeds": SEEDS}, extra=None)


@dataclass(frozen=True)
class Asked:
    """What the user says of a study.

    Attributes:
        data: folders of images or shards by the names that arms have for them.
        evaluation: a task and its options in place of the study's own.
        overrides: keys of every arm's recipe.
        seeds: trainings of each arm; 0: as many as the study says.
    """

    name: str
    data: dict[str, str]
    labelled: str
    evaluation: list[str]
    overrides: list[str]
    gpus: int
    gpu: str
    seeds: int = 0


def studies() -> dict[str, Path]:
    """Every study that comes with seer, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def read_file(name: str) -> dict[str, Any]:
    """The study of this name, or of a file. Raises `InputError`."""
    known = studies()
    path = known.get(name, Path(os.path.expanduser(name)))
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(
            f"study '{name}' is unknown{nearest(name, known)}; there are {', '.join(known)}, "
            "or give the path of a .yaml file"
        )
    try:
        values = inputs.read_yaml(path, FILE)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    check_distinct([arm["name"] for arm in values["arms"]], str(path))
    return values


def words_of(evaluation: str) -> list[str]:
    """The words of `--eval`, as a shell takes them apart. Raises `InputError` for an open quote."""
    try:
        return shlex.split(evaluation)
    except ValueError as error:
        raise InputError(
            f"--eval {evaluation}: {first_line(error)}; give a task and its options, as 'knn size=32'"
        ) from None


def sources(given: list[str]) -> dict[str, str]:
    """`["DIR", "curated=DIR2"]` by name, which has no /: folders may have = in theirs. Raises
    `InputError` for one that is given twice, or leads nowhere.
    """
    named: dict[str, str] = {}
    for word in given:
        name, equals, path = word.partition("=")
        key, value = (name, path) if equals and "/" not in name else (ANY, word)
        if not value:
            raise InputError(f"--data {word!r}: names no folder; give DIR or NAME=DIR")
        if key in named:
            raise InputError(f"--data {word}: given twice; one for each name")
        named[key] = value
    return named


def plan_study(asked: Asked) -> tuple[Study, list[Estimate | None]]:
    """The study with the arms' sizes, and what each that is pretrained takes.

    Raises:
        InputError: an arm's recipe, data or evaluation is wrong, which is told before any is planned.
    """
    values = read_file(asked.name)
    task, *options = asked.evaluation or [values["task"]]
    own = not asked.evaluation
    if own and values["protocol"]:
        options = [f"protocol={values['protocol']}"]
    check_options(task, "pixels", asked.labelled, options)
    arms = values["arms"]
    overrides = [_overrides(arm, asked) for arm in arms]
    for arm, words in zip(arms, overrides, strict=True):
        load_config(arm["recipe"], words)
    made = []
    for arm, words in zip(arms, overrides, strict=True):
        made += _seeded(*_arm(arm, words, asked), asked.seeds or values.get("seeds", 1))
    study = Study(
        title=values["title"],
        x=values["x"],
        task=task,
        protocol=values["protocol"] if own else "",
        metric=values["metric"] if own else "",
        dataset=values["dataset"] if own else "",
        labelled=asked.labelled,
        options=options,
        arms=[arm for arm, _ in made],
    )
    return study, [estimate for _, estimate in made]


def _overrides(arm: dict[str, Any], asked: Asked) -> list[str]:
    """What an arm adds to its recipe; the user's own words last."""
    name = arm.get("data", ANY)
    if name not in asked.data:
        needed = f"--data {name}=DIR" if name else "--data DIR"
        raise InputError(f"arm '{arm['name']}' of study {asked.name} needs {needed}")
    words = [*arm.get("set", []), *asked.overrides]
    for key, instead in GIVEN.items():
        if any(word.partition("=")[0] == key for word in words):
            raise InputError(f"{key}=: {instead}")
    return [f"data={asked.data[name]}", *words]


def _arm(arm: dict[str, Any], overrides: list[str], asked: Asked) -> tuple[Arm, Estimate | None]:
    config = load_config(arm["recipe"], overrides)
    with torch.device("meta"):
        backbone = build(config.backbone)
    scratch = arm.get("scratch", False)
    estimate = None
    steps = 0
    if not scratch:
        config = foreseen(config)
        estimate = Job.of(config, asked.gpus, find(asked.gpu)).estimate()
        steps = config.steps
    made = Arm(
        name=arm["name"],
        recipe=arm["recipe"],
        overrides=overrides,
        scratch=scratch,
        backbone=config.backbone.name,
        parameters=sum(weight.numel() for weight in backbone.parameters()),
        images=steps * config.batch_size,
        steps=steps,
        gpu_hours=estimate.gpu_hours if estimate else 0.0,
        published=arm.get("published", ""),
    )
    return made, estimate


def _seeded(arm: Arm, estimate: Estimate | None, seeds: int) -> list[tuple[Arm, Estimate | None]]:
    """An arm once for each seed; one that is not pretrained has none."""
    if seeds == 1 or arm.scratch:
        return [(arm, estimate)]
    name = arm.name
    return [
        (
            replace(
                arm,
                name=f"{name} seed {seed}",
                overrides=[*arm.overrides, f"seed={seed}"],
                group=name,
                seed=seed,
            ),
            estimate,
        )
        for seed in range(seeds)
    ]


def table(study: Study, estimates: list[Estimate | None], asked: Asked) -> list[str]:
    """For a terminal: what each arm is, whether it fits, and what it takes."""
    hours = "core-hours" if asked.gpu == "cpu" else "GPU-hours"
    width = max(len("together"), *(len(arm.name) for arm in study.arms))
    columns = f"{'parameters':>12}{'steps':>10}{'images':>15}{hours:>12}  fits"
    lines = [f"{study.title}: {asked.gpus} × {asked.gpu} for each arm", f"{'arm':{width}}{columns}"]
    for arm, estimate in zip(study.arms, estimates, strict=True):
        fits = "not pretrained" if estimate is None else estimate.why_not or "yes"
        figures = f"{arm.parameters / 1e6:11,.1f}M{arm.steps:10,}{arm.images:15,}"
        lines.append(f"{arm.name:{width}}{figures}{_hours(arm.gpu_hours):>12}  {fits}")
    total = _hours(sum(arm.gpu_hours for arm in study.arms))
    lines.append(f"{'together':{width}}{'':37}{total:>12}  of pretraining, without evaluations")
    return lines


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
