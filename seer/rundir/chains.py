"""The record of chains of pretrainings, each from the weights of the one before, and of what is
measured of them.

CHAINS/
    chains.json      the stages, what each starts from, and which of them are whose result
    STAGE/           the run of a stage
    STAGE.jsonl      its results
"""

import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from seer import inputs, outputs
from seer.errors import InputError, first_line, quoted
from seer.rundir.names import latest, step_of
from seer.rundir.studies import ARM_NAME, WORD, check_distinct
from seer.schema import Integer, ListOf, Record, Text

CHAINS = "chains.json"
PAGE = "chains.html"
MOST_STAGES = 10_000
WORDS = ListOf(Text(100_000), 1000)
STAGE = Record(
    {
        "name": ARM_NAME,
        "recipe": WORD,
        "overrides": WORDS,
        "after": Text(80),
        "steps": Integer(1),
    }
)
POINT = Record({"strategy": WORD, "variant": Text(80), "steps": Integer(0), "stage": ARM_NAME})
RECORD = Record(
    {
        "title": Text(200, 1),
        "labelled": WORD,
        "evaluations": ListOf(Text(100_000, 1), 100, 1),
        "stages": ListOf(STAGE, MOST_STAGES, 1),
        "points": ListOf(POINT, MOST_STAGES, 1),
    }
)


@dataclass(frozen=True)
class Stage:
    """A pretraining.

    Attributes:
        overrides: of its recipe, but for what it starts from if that is a stage, and its run directory.
        after: the stage from whose weights it goes on; "" for one that begins a chain.
    """

    name: str
    recipe: str
    overrides: list[str]
    after: str
    steps: int

    def command(self, folder: Path) -> list[str]:
        init = [f"init={folder / self.after}"] if self.after else []
        return ["pretrain", self.recipe, *self.overrides, *init, f"run_dir={folder / self.name}"]

    def is_done(self, folder: Path) -> bool:
        """Whether its run has a checkpoint of its last step."""
        newest = latest(folder / self.name)
        return newest is not None and step_of(newest.name) == self.steps


@dataclass(frozen=True)
class Result:
    """A stage as the result of a strategy after so many steps; 0 where steps are not what it is drawn
    over.

    Attributes:
        variant: what it was made with besides; "" where all are made alike.
    """

    strategy: str
    variant: str
    steps: int
    stage: str


@dataclass(frozen=True)
class Chains:
    """Stages in an order in which they can be trained, and what they are results of.

    Attributes:
        evaluations: each a task and its options, as one text.
    """

    title: str
    labelled: str
    evaluations: list[str]
    stages: list[Stage]
    points: list[Result]

    def levels(self) -> Iterator[list[Stage]]:
        """Stages that may be trained at once: those that begin chains, those that follow these, ..."""
        done = {""}
        while left := [stage for stage in self.stages if stage.name not in done]:
            level = [stage for stage in left if stage.after in done]
            yield level
            done |= {stage.name for stage in level}

    def tasks(self) -> list[str]:
        return [words_of(text)[0] for text in self.evaluations]

    def measured(self) -> list[str]:
        """The names of the stages that are somebody's result."""
        return list(dict.fromkeys(point.stage for point in self.points))

    def evaluation(self, folder: Path, stage: str, text: str) -> list[str]:
        """The command that measures a stage."""
        task, *options = words_of(text)
        words = ["--model", str(folder / stage), "--data", self.labelled]
        return ["eval", task, *words, "--out", str(results_of(folder, stage)), *options]


def words_of(evaluation: str) -> list[str]:
    """A task and its options, as a shell takes them apart. Raises `InputError` where there is no task, or an
    open quote.
    """
    try:
        words = shlex.split(evaluation)
    except ValueError as error:
        words = []
        reason = first_line(error)
    else:
        reason = "names no task"
    if not words:
        raise InputError(
            f"evaluations: {evaluation!r:.100}: {reason}; give a task and its options, as 'knn size=32'"
        )
    return words


def results_of(folder: Path, stage: str) -> Path:
    """Where a stage's results go."""
    return folder / f"{stage}.jsonl"


def is_chains(folder: Path) -> bool:
    return (folder / CHAINS).is_file()


def write_chains(chains: Chains, folder: Path) -> None:
    """Raises `InputError` if it cannot be written, or other chains are there."""
    if is_chains(folder) and read_chains(folder) != chains:
        raise InputError(
            f"{folder}: holds the record of other chains; give another run_dir, or the same values to go on"
        )
    record = json.dumps(asdict(chains), indent=1)
    outputs.write(folder / CHAINS, record + "\n", "the record of the chains")


def read_chains(folder: Path) -> Chains:
    """The chains that a folder records. Raises `InputError` where there are none."""
    try:
        record = inputs.read_json(inputs.inside(folder, CHAINS), RECORD)
    except FileNotFoundError:
        raise InputError(
            f"{folder}: no chains are recorded there; `seer hpt CONFIG ... run_dir={quoted(folder)}` records some"
        ) from None
    stages = [Stage(**{key: row[key] for key in STAGE.required}) for row in record["stages"]]
    points = [Result(**{key: row[key] for key in POINT.required}) for row in record["points"]]
    names = [stage.name for stage in stages]
    check_distinct(names, str(folder / CHAINS))
    for text in record["evaluations"]:
        words_of(text)
    _check_order(stages, folder)
    for point in points:
        if point.stage not in names:
            raise InputError(f"{folder / CHAINS}: there is no stage {point.stage!r}")
    values = {key: record[key] for key in ("title", "labelled", "evaluations")}
    return Chains(**values, stages=stages, points=points)


def _check_order(stages: list[Stage], folder: Path) -> None:
    """Raise `InputError` where a stage comes before the one that it goes on from."""
    before = {""}
    for stage in stages:
        if stage.after not in before:
            raise InputError(f"{folder / CHAINS}: {stage.name!r} comes before {stage.after!r}")
        before.add(stage.name)
