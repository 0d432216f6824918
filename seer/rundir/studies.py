"""The record of a study: several trainings and evaluations that answer one question together.

STUDY/
    study.json       the arms, what is measured of each, and over what it is drawn
    ARM/             the run of an arm
    ARM.jsonl        its results
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from seer import inputs, outputs
from seer.errors import InputError, quoted
from seer.inputs import UnreadableError
from seer.schema import Choice, Flag, Integer, Kind, ListOf, Number, Record, Text

STUDY = "study.json"
PAGE = "study.html"
MOST_ARMS = 1000
WORD = Text(1024, 1)
# The name of a folder, too, beside this record, its page, and results (ARM.jsonl).
ARM_NAME = Text(
    80,
    1,
    r"(?!.*\.(?:jsonl?|html)\Z)[^/.\x00-\x1f\x7f-\x9f][^/\x00-\x1f\x7f-\x9f]*",
    "a name in one line without / that neither begins with a point nor ends in .json, .jsonl or .html",
)
X = Choice("parameters", "images", "arm")
ABOUT: dict[str, Kind] = {
    "title": Text(200, 1),
    "x": X,
    "task": WORD,
    "protocol": Text(1024),
    "metric": Text(1024),
    "dataset": Text(80),
}
ARM = Record(
    {
        "name": ARM_NAME,
        "recipe": WORD,
        "overrides": ListOf(Text(100_000), 1000),
        "scratch": Flag(),
        "backbone": WORD,
        "parameters": Integer(1),
        "images": Integer(0),
        "steps": Integer(0),
        "gpu_hours": Number(0),
        "published": Text(1024),
    },
    {"group": Text(80), "seed": Integer(0)},
)
RECORD = Record(
    {
        **ABOUT,
        "labelled": WORD,
        "options": ListOf(Text(100_000), 1000),
        "arms": ListOf(ARM, MOST_ARMS, 1),
    }
)


@dataclass(frozen=True)
class Arm:
    """One training of a study.

    Attributes:
        scratch: nothing is pretrained: the backbone is measured from random weights.
        parameters: of the backbone alone.
        images: seen in pretraining, repeated ones each time.
        published: the model in the table of published values that is the same; "" if none is.
        group: what it is one of several seeds of; "" where there is one seed. seed: its own.
    """

    name: str
    recipe: str
    overrides: list[str]
    scratch: bool
    backbone: str
    parameters: int
    images: int
    steps: int
    gpu_hours: float
    published: str
    group: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Study:
    """A question and its arms.

    Attributes:
        x: over what scores are drawn: `parameters`, `images`, or `arm`.
        dataset: in the table of data sets; "" of one's own, for which nothing is published.
        options: of the evaluation, its protocol included.
    """

    title: str
    x: str
    task: str
    protocol: str
    metric: str
    dataset: str
    labelled: str
    options: list[str]
    arms: list[Arm]

    def pretraining(self, folder: Path) -> list[list[str]]:
        """A command for each arm that is pretrained."""
        return [
            ["pretrain", arm.recipe, *arm.overrides, f"run_dir={folder / arm.name}"]
            for arm in self.arms
            if not arm.scratch
        ]

    def evaluations(self, folder: Path) -> list[list[str]]:
        """A command for each arm."""
        commands = []
        for arm in self.arms:
            model = f"{arm.backbone}:random" if arm.scratch else str(folder / arm.name)
            out = str(results_of(folder, arm))
            words = ["--model", model, "--data", self.labelled, "--out", out]
            commands.append(["eval", self.task, *words, *self.options])
        return commands


def results_of(folder: Path, arm: Arm) -> Path:
    """Where an arm's results go."""
    return folder / f"{arm.name}.jsonl"


def is_study(folder: Path) -> bool:
    return (folder / STUDY).is_file()


def write_study(study: Study, folder: Path) -> None:
    """Raises `InputError` if it cannot be written, or another study is there."""
    record = asdict(study)
    if is_study(folder) and read_study(folder) != study:
        raise InputError(
            f"{folder}: holds the record of another study; give another --out, or remove {STUDY} there"
        )
    outputs.write(folder / STUDY, json.dumps(record, indent=1) + "\n", "the record of the study")


def read_study(folder: Path) -> Study:
    """The study that a folder records. Raises `InputError` where there is none."""
    try:
        record = inputs.read_json(inputs.inside(folder, STUDY), RECORD)
    except FileNotFoundError:
        raise InputError(
            f"{folder}: no study is recorded there; `seer study NAME --data ... --out {quoted(folder)}` records one"
        ) from None
    keys = [*ARM.required, "group", "seed"]
    arms = [Arm(**{key: arm[key] for key in keys if key in arm}) for arm in record["arms"]]
    check_distinct([arm.name for arm in arms], str(folder / STUDY))
    values = {key: record[key] for key in RECORD.required if key != "arms"}
    return Study(**values, arms=arms)


def check_distinct(names: list[str], where: str) -> None:
    """Raise `UnreadableError` where two arms have one name, which is a folder's."""
    for name in names:
        if names.count(name) > 1:
            raise UnreadableError(f"{where}: two arms are called {name!r}; give each its own name")
