"""What a suite measures of what a folder holds, and what it lacks."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from seer.errors import InputError, nearest
from seer.eval.data.coverage import DIFFERS, MISSING, READY, YOURS, Finding, tasks_of
from seer.eval.data.datasets import DATASETS
from seer.eval.tasks import DENSE, TASKS, check_options, is_pixels, option_names
from seer.eval.transfer.suites import APART, Suite

USABLE = (READY, DIFFERS, YOURS)
ABSENT = "is not there"
NO_DATA = "no data set that it takes is there"
NO_NETWORK = "raw pixels are no network"


@dataclass(frozen=True)
class DataPlace:
    """A data set that is there.

    Attributes:
        name: of the table, or of one's own folder or file.
        data: as `--data` takes it.
        state: of `seer.eval.data.coverage`.
        tasks: of the suite, which can run on it.
        images, classes: how many of each.
    """

    name: str
    title: str
    data: str
    state: str
    tasks: tuple[str, ...]
    images: int
    classes: int


@dataclass(frozen=True)
class Cell:
    """One task of one model on one data set, by `key=value` options."""

    place: DataPlace
    model: str
    task: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Gap:
    """What is not measured, and why; `model` is "" where no model could be."""

    dataset: str
    task: str
    model: str
    reason: str


@dataclass
class Agenda:
    """Everything that a suite asks for: data set by data set, model by model, task by task."""

    suite: Suite
    places: list[DataPlace]
    cells: list[Cell]
    gaps: list[Gap] = field(default_factory=list)


def arrange(
    suite: Suite, findings: Sequence[Finding], models: Sequence[str], overrides: Sequence[str]
) -> Agenda:
    """What there is to do.

    Args:
        findings: of `seer.eval.data.coverage.check`.
        overrides: `key=value`, each for the tasks that have the option; `TASK.key=value` for one.

    Raises:
        InputError: no data set of the suite is there; no task has an option.
    """
    options = {task: options_for(task, suite, overrides) for task in suite.tasks}
    for task, chosen in options.items():
        check_options(task, models[0], "data", chosen)
    agenda = Agenda(suite, [], [])
    own = {finding.name.lower() for finding in findings if finding.state == YOURS}
    for finding in findings:
        entry = DATASETS.get(finding.name) if finding.state != YOURS else None
        if entry and suite.sets and not set(entry.suites) & set(suite.sets):
            continue
        if finding.state in USABLE and set(finding.tasks) & set(suite.tasks):
            taken = {place.name for place in agenda.places}
            agenda.places.append(_place(finding, suite, taken))
            agenda.gaps += _unfit(finding, suite)
        elif entry is None or set(tasks_of(entry.kind)) & set(suite.tasks):
            agenda.gaps.append(Gap(finding.name, "", "", _why(finding, own)))
    if suite.whole:
        taken = {task for place in agenda.places for task in place.tasks}
        reasons = {task: NO_DATA for task in suite.tasks if task not in taken} | APART
        agenda.gaps += [Gap("", task, "", reason) for task, reason in reasons.items()]
    if not agenda.places:
        raise InputError(
            f"--suite {suite.name}: none of its data sets is there, nor class folders in train/ and test/; "
            "`seer data check DIR` lists what would be taken"
        )
    for place in agenda.places:
        for model in models:
            for task in place.tasks:
                if is_pixels(model) and (TASKS[task].trained or task in DENSE):
                    agenda.gaps.append(Gap(place.name, task, model, NO_NETWORK))
                    continue
                agenda.cells.append(Cell(place, model, task, tuple(options[task])))
    return agenda


def options_for(task: str, suite: Suite, overrides: Sequence[str]) -> list[str]:
    """The suite's options of a task and, above them, those that are given for it.

    Raises:
        InputError: no task of the suite has an option.
    """
    chosen = list(suite.options.get(task, ()))
    for override in overrides:
        key, _, _ = override.partition("=")
        first, _, rest = key.partition(".")
        if first in suite.tasks and rest:
            check_option(override, rest, (first,))
            if first == task:
                chosen.append(override.removeprefix(f"{first}."))
        else:
            check_option(override, key, suite.tasks)
            if key.partition(".")[0] in option_names(task):
                chosen.append(override)
    return chosen


def check_option(override: str, key: str, tasks: Sequence[str]) -> None:
    """Refuse an option that none of the tasks has."""
    names = set().union(*map(option_names, tasks))
    if key.partition(".")[0] not in names:
        listed = ", ".join(tasks)
        raise InputError(f"{override}: none of {listed} has such an option{nearest(key, names)}")


def _place(finding: Finding, suite: Suite, taken: set[str]) -> DataPlace:
    """A data set under its name, or with its folder where that name is taken."""
    name = f"{finding.name} ({finding.folder})" if finding.name in taken else finding.name
    tasks = tuple(task for task in suite.tasks if task in finding.tasks)
    images = sum(finding.images.values())
    return DataPlace(
        name, finding.title, finding.data, finding.state, tasks, images, finding.classes
    )


def _unfit(finding: Finding, suite: Suite) -> list[Gap]:
    images = {TASKS[task].images for task in finding.tasks}
    tasks = [t for t in suite.tasks if t not in finding.tasks and TASKS[t].images in images]
    reason = "does not score images of several classes each"
    return [Gap(finding.name, task, "", reason) for task in tasks]


def _why(finding: Finding, own: Collection[str]) -> str:
    """Why a data set of the table is not measured; `own` are names of folders of one's own."""
    if finding.state != MISSING:
        return "; ".join(finding.problems)
    reason = f"{ABSENT}; its owner has it: {finding.source}"
    if finding.name.lower() in own:
        return f"a folder of one's own has this name and is scored; what its owner has {reason}"
    return reason
