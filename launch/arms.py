"""Several trainings as a launch: arrays of those that do not wait for each other, then their evaluations,
then the page.
"""

from dataclasses import replace
from itertools import filterfalse
from pathlib import Path

from launch.job import Job, Resources
from launch.launches import Link, check, plan
from seer.errors import InputError
from seer.eval.tasks import is_trained
from seer.rundir.chains import read_chains
from seer.rundir.names import checkpoints
from seer.rundir.studies import read_study


def plan_study(
    command: list[str],
    resources: Resources,
    sweeps: list[str],
    array: int,
    retries: int,
    backoff: float,
) -> list[Link]:
    """The links of `study FOLDER`, which `seer study` recorded, all checked; `InputError` else.

    Every arm's training has the same resources, since an array has; evaluations that train have
    them, too, and others are one process.
    """
    folder = _folder(command, sweeps, array)
    study = read_study(folder)
    links = [
        _array(study.pretraining(folder), resources, retries, backoff),
        _array(study.evaluations(folder), _of_evaluations(study.task, resources), retries, backoff),
        *_page(folder, resources, retries, backoff),
    ]
    links = _numbered(links)
    if len(links[1].jobs) == len(links[0].jobs) > 1:
        links[1].each = True
    return links


def plan_chains(
    command: list[str],
    resources: Resources,
    sweeps: list[str],
    array: int,
    retries: int,
    backoff: float,
) -> list[Link]:
    """The links of `hpt FOLDER`, which `seer hpt --plan` recorded: an array of the stages that begin
    chains, one of those that follow them, and so on; each kind of evaluation; the page.

    Raises:
        InputError: what any of them would refuse.
    """
    folder = _folder(command, sweeps, array)
    chains = read_chains(folder)
    links = [
        _array([stage.command(folder) for stage in level], resources, retries, backoff)
        for level in chains.levels()
    ]
    for text, task in zip(chains.evaluations, chains.tasks(), strict=True):
        commands = [chains.evaluation(folder, stage, text) for stage in chains.measured()]
        links.append(_array(commands, _of_evaluations(task, resources), retries, backoff))
    return _numbered([*links, *_page(folder, resources, retries, backoff)])


def _folder(command: list[str], sweeps: list[str], array: int) -> Path:
    """The folder of what is recorded as several trainings."""
    verb = command[0]
    if len(command) != 2:
        raise InputError(f"{verb}: expected its folder alone, for instance -- {verb} runs/{verb}")
    if sweeps or array > 1:
        raise InputError(f"--sweep, --array: {verb} is an array already, of its trainings")
    return Path(command[1]).absolute()


def _page(folder: Path, resources: Resources, retries: int, backoff: float) -> list[Link]:
    alone = Resources(minutes=resources.minutes)
    return plan(["report", str(folder)], alone, [], 1, retries, backoff)


def _numbered(links: list[Link]) -> list[Link]:
    """Those that have jobs, each of which is told its place."""
    links = [link for link in links if link.jobs]
    for number, link in enumerate(links):
        link.jobs = [replace(job, name=f"{number}-{place}") for place, job in enumerate(link.jobs)]
    return links


def _array(commands: list[list[str]], resources: Resources, retries: int, backoff: float) -> Link:
    jobs = []
    for verb, *arguments in commands:
        run_dir = check(verb, list(filterfalse(_is_awaited, arguments)), resources)
        jobs.append(
            Job(verb, tuple(arguments), resources, run_dir, retries=retries, backoff=backoff)
        )
    return Link(jobs)


def _is_awaited(argument: str) -> bool:
    """Whether it names a run to start from that an earlier job is to make."""
    key, _, model = argument.partition("=")
    return (
        key == "init"
        and Path(model).is_absolute()
        and not checkpoints(Path(model))
        and not Path(model).is_file()
    )


def _of_evaluations(task: str, resources: Resources) -> Resources:
    if is_trained(task):
        return resources
    gpus = min(1, resources.gpus_per_node)
    return replace(resources, nodes=1, tasks_per_node=1, gpus_per_node=gpus)
