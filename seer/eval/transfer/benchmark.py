"""A transfer benchmark, planned and run: one data set, model and task after the other, each result
written as soon as it is there.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from seer.config import parse_overrides, resolve
from seer.errors import DivergedError, InputError, LostWorkerError, first_line
from seer.eval.probes.options import FeatureConfig
from seer.eval.task import evaluate
from seer.eval.tasks import TASKS, option_names
from seer.eval.transfer.agenda import Agenda, Cell, Gap
from seer.eval.transfer.contestants import Contestant, Timing, contestants, timing
from seer.eval.transfer.forecast import Estimate, Forecast
from seer.eval.transfer.journal import Journal, results_name
from seer.outputs import check_folder_writable
from seer.results import check_results, shown, title_of
from seer.rundir.names import DETECTIONS, IMAGES, MAPS

PICTURES = "pictures"  # of the results
PICTURED = {"picture", "neighbours"}  # options that say where a picture goes
TRAINED = "trained"  # the folder of trainings, below that of the results
# What says nothing of the other tasks; the memory may do for another model.
FAILURES_OF_A_TASK = (
    InputError,
    DivergedError,
    LostWorkerError,
    MemoryError,
    torch.OutOfMemoryError,
)

Tell = Callable[[str], None]
Group = tuple[str, str]  # a data set and a model: their tasks share features, and so a process


@dataclass
class Plan:
    """What is to be done.

    Attributes:
        models: by their `--model`.
        pending: what is not measured yet, with an estimate each; of this process's part.
        done: cells that are there.
        timing: when and on what the models were timed.
    """

    agenda: Agenda
    models: dict[str, Contestant]
    journal: Journal
    pending: list[Estimate]
    done: int
    timing: Timing

    @property
    def seconds(self) -> float:
        return sum(estimate.seconds for estimate in self.pending)


def plan(
    agenda: Agenda,
    specs: Sequence[str],
    overrides: Sequence[str],
    out: Path,
    part: tuple[int, int] = (1, 1),
) -> Plan:
    """Load and time the models, and see what is there.

    Args:
        part: which of how many parts is this process's, from 1.

    Raises:
        InputError: a model that cannot be loaded, two of one name, or a folder that cannot be written to.
    """
    check_folder_writable(out, "--out")
    config = feature_options(overrides)
    timed = timing(config)
    models = {model.spec: model for model in contestants(specs, config)}
    journal = Journal(out)
    cells = [(cell, models[cell.model]) for cell in agenda.cells]
    pending = [(cell, model) for cell, model in cells if not journal.rows_of(cell, model)]
    done = len(cells) - len(pending)
    number, of = part
    own = groups(agenda)[number - 1 :: of]
    pending = [(cell, model) for cell, model in pending if group(cell) in own]
    forecast = Forecast(journal, config.device)
    return Plan(agenda, models, journal, list(forecast.of(pending)), done, timed)


def run(work: Plan, tell: Tell, part: str = "") -> None:
    """Measure what is pending. What fails is told in one line and recorded, and the others go on.

    Raises:
        InputError: results cannot be written.
        StoppedError: a training was asked to stop; the same command goes on.
    """
    path = work.journal.out / results_name(part)
    check_results(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, estimate in enumerate(work.pending, 1):
        cell = estimate.cell
        model = work.models[cell.model]
        label = f"[{number}/{len(work.pending)}] {cell.place.name}, {model.title}, {cell.task}"
        try:
            rows = evaluate(cell.task, cell.model, cell.place.data, arguments(cell, path), path)
        except FAILURES_OF_A_TASK as error:
            check_results(path)  # if that is what failed, everything would
            work.journal.fail(Gap(cell.place.name, cell.task, model.name, first_line(error)))
            tell(f"{label}: not measured: {first_line(error)}")
            continue
        work.journal.enter(path, rows)
        first = next((row for row in rows if row["headline"]), rows[0])
        tell(f"{label}: {title_of(first)} {shown(first)}, {first['seconds']:.1f} s")


def arguments(cell: Cell, path: Path) -> list[str]:
    """The options of a cell; its run directory or pictures stand beside the results, under names of
    its own: those of a run would be overwritten by the next data set.
    """
    options = list(cell.options)
    told = json.dumps([cell.model, cell.place.data, options])
    name = f"{cell.task}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    given = {option.partition("=")[0] for option in options}
    if TASKS[cell.task].trained and "run_dir" not in given:
        options.append(f"run_dir={path.parent / TRAINED}/{name}")
    for option in PICTURED & set(option_names(cell.task)) - given:
        options.append(f"{option}={path.parent / PICTURES}/{name}.png")
    return options


def picture_of(cell: Cell, path: Path) -> str:
    """Where the picture of a cell lies whose result stands in `path`, below that folder; "" if it has none."""
    for key, _, place in (option.partition("=") for option in arguments(cell, path)):
        names = [f"{place}/{IMAGES}/{name}" for name in (MAPS, DETECTIONS)]
        for picture in names if key == "run_dir" else [place] if key in PICTURED else []:
            if Path(picture).is_file():
                return os.path.relpath(picture, path.parent)
    return ""


def gaps(work: Plan) -> list[Gap]:
    """What is not measured, and why: what could not be, and what failed and is still not there."""
    reasons = {(gap.dataset, gap.task, gap.model): gap for gap in work.journal.gaps()}
    missing = list(work.agenda.gaps)
    for cell in work.agenda.cells:
        model = work.models[cell.model]
        if not work.journal.rows_of(cell, model):
            waiting = Gap(cell.place.name, cell.task, model.name, "not measured yet")
            missing.append(reasons.get((cell.place.name, cell.task, model.name), waiting))
    return missing


def groups(agenda: Agenda) -> list[Group]:
    return list(dict.fromkeys(map(group, agenda.cells)))


def group(cell: Cell) -> Group:
    return cell.place.data, cell.model


def feature_options(overrides: Sequence[str]) -> FeatureConfig:
    """How models are timed: the given options that all probes have."""
    names = FeatureConfig.__dataclass_fields__
    chosen = [each for each in overrides if each.partition("=")[0] in names]
    return resolve(FeatureConfig, [parse_overrides(chosen)])
