"""A study as a launch: an array of trainings, one for each arm, then their evaluations, then the page."""

from dataclasses import replace
from pathlib import Path

from launch.job import Job, Resources
from launch.launches import Link, check, plan
from seer.errors import InputError
from seer.eval.tasks import is_trained
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
    if len(command) != 2:
        raise InputError("study: expected its folder alone, for instance -- study runs/parameters")
    if sweeps or array > 1:
        raise InputError("--sweep, --array: a study is an array already, of its arms")
    folder = Path(command[1]).absolute()
    study = read_study(folder)
    links = [
        _array(study.pretraining(folder), resources, retries, backoff),
        _array(study.evaluations(folder), _of_evaluations(study.task, resources), retries, backoff),
        *plan(
            ["report", str(folder)], Resources(minutes=resources.minutes), [], 1, retries, backoff
        ),
    ]
    links = [link for link in links if link.jobs]
    for number, link in enumerate(links):
        link.jobs = [replace(job, name=f"{number}-{place}") for place, job in enumerate(link.jobs)]
        link.each = number == 1 and len(link.jobs) == len(links[0].jobs) > 1
    return links


def _array(commands: list[list[str]], resources: Resources, retries: int, backoff: float) -> Link:
    jobs = []
    for verb, *arguments in commands:
        run_dir = check(verb, arguments, resources)
        jobs.append(
            Job(verb, tuple(arguments), resources, run_dir, retries=retries, backoff=backoff)
        )
    return Link(jobs)


def _of_evaluations(task: str, resources: Resources) -> Resources:
    if is_trained(task):
        return resources
    gpus = min(1, resources.gpus_per_node)
    return replace(resources, nodes=1, tasks_per_node=1, gpus_per_node=gpus)
