"""A launch: a chain of links, each a job or an array of jobs, and the folder that records it.

JOBS/20261122-053012-pretrain/
    launch.json    place, links, jobs, and the ids that the cluster gave them
    slurm/         batch scripts, pickles and logs, as submitit names them
    attempts/      how each attempt ended
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any

from launch.job import Job, Resources
from seer import files, inputs
from seer.errors import InputError, printable
from seer.inputs import UnreadableError
from seer.schema import (
    LONGEST_NAME,
    Choice,
    Flag,
    Integer,
    Kind,
    ListOf,
    MismatchError,
    Number,
    Record,
    Text,
    refuse,
)

RECORD = "launch.json"
THEN = "--then"
PLACES = "slurm", "torchrun", "local"
MOST_JOBS = 10_000  # of one launch
LARGEST = 16 * inputs.MEGABYTE  # of a record: an array of ten thousand jobs


@dataclass(frozen=True)
class Word(Text):
    """An argument of a command: any text, names that are not UTF-8 included."""

    longest: int = 100_000

    def check(self, value: Any, where: str = "") -> str:
        if not isinstance(value, str) or len(value) > self.longest or "\0" in value:
            raise refuse(self, value, where)
        return value

    def says(self) -> str:
        return "an argument of a command"


ID = Text(40, 1, r"\d+(_\d+)?", "the number of a job")
RESOURCES = Record(
    {
        "nodes": Integer(1, 10**6),
        "tasks_per_node": Integer(1, 10**6),
        "gpus_per_node": Integer(0, 10**6),
    }
    | {"minutes": Integer(1)}
)
JOB_FIELDS: dict[str, Kind] = {
    "verb": Text(64, 1),
    "arguments": ListOf(Word()),
    "resources": RESOURCES,
    "run_dir": Word(),
    "folder": Word(),
    "name": Text(20, 3, r"\d{1,9}-\d{1,9}", "the place of a job, as 0-0"),
    "retries": Integer(0),
    "backoff": Number(0),
}
JOB = Record(JOB_FIELDS)
LINK = Record({"jobs": ListOf(JOB, 100_000, 1), "ids": ListOf(ID, 100_000), "each": Flag()})
LAUNCH = Record({"place": Choice(*PLACES), "links": ListOf(LINK, 1000, 1), "cluster": Record({})})


@dataclass
class Link:
    """Jobs that start together; `ids` are the cluster's, one per job. `each`: job i waits for the
    last link's job i.
    """

    jobs: list[Job]
    ids: list[str] = field(default_factory=list)
    each: bool = False


@dataclass
class Launch:
    """A chain: each link starts when the one before it has succeeded."""

    folder: Path
    place: str
    links: list[Link]
    cluster: dict = field(default_factory=dict)

    @property
    def jobs(self) -> list[Job]:
        return [job for link in self.links for job in link.jobs]

    def names(self, link: Link) -> list[str]:
        """What names each job of a link: the cluster's id, or, where it has none, the launch and
        the job's place.
        """
        return link.ids or [f"{self.folder.name}.{job.name}" for job in link.jobs]

    def job(self, name: str) -> Job:
        return next(job for job in self.jobs if job.name == name)

    def settle(self) -> None:
        """Tell every job its launch's folder."""
        for link in self.links:
            link.jobs = [replace(job, folder=str(self.folder)) for job in link.jobs]

    def save(self) -> None:
        """Write the record, visible only when complete."""
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {
            "place": self.place,
            "cluster": self.cluster,
            "links": [asdict(link) for link in self.links],
        }
        files.write(self.folder / RECORD, json.dumps(record, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "Launch":
        """The launch that a folder records. Raises FileNotFoundError, or `UnreadableError`."""
        path = inputs.inside(Path(folder), RECORD)
        record = inputs.read_json(path, LAUNCH, LARGEST)
        links = [
            Link([_job(job) for job in link["jobs"]], link["ids"], link["each"])
            for link in record["links"]
        ]
        try:
            for number, link in enumerate(links):
                _check(link, number)
        except MismatchError as error:
            raise UnreadableError(f"{path}: {error}") from None
        return cls(Path(folder), record["place"], links, record["cluster"])


def _job(values: dict) -> Job:
    """A job, without what only a newer seer knows of it."""
    needs = Resources(**{key: values["resources"][key] for key in RESOURCES.required})
    known = {key: values[key] for key in JOB.required}
    return Job(**{**known, "arguments": tuple(values["arguments"]), "resources": needs})


def _check(link: Link, number: int) -> None:
    """Raise `MismatchError` unless a link's jobs are where they say, and all have an id or none."""
    where = f"links[{number}]"
    if link.ids and len(link.ids) != len(link.jobs):
        counts = f"{len(link.ids):,} ids of {len(link.jobs):,} jobs"
        raise MismatchError(where, counts)
    for place, job in enumerate(link.jobs):
        if job.name != f"{number}-{place}":
            problem = f"'{job.name}' is not its place"
            raise MismatchError(f"{where}.jobs[{place}].name", problem)


def launches(jobs_dir: Path) -> tuple[list[Launch], list[str]]:
    """Every launch recorded under `jobs_dir`, oldest first, and what could not be read, one line
    each.
    """
    found = []
    unread = []
    for folder in sorted(path.parent for path in jobs_dir.glob(f"*/{RECORD}")):
        try:
            found.append(Launch.load(folder))
        except FileNotFoundError:  # removed in this moment
            continue
        except UnreadableError as error:
            unread.append(str(error))
    return found, unread


def select(jobs_dir: Path, what: str) -> tuple[list[tuple[Launch, str, Job]], list[str]]:
    """The (launch, id, job) that `what` names, and what could not be read.

    Args:
        what: a launch's folder, a job's id, an array's id; "" is all of them.

    Raises:
        InputError: nothing is of that name.
    """
    readable, unread = launches(jobs_dir)
    what = what.rstrip("/")
    found = [
        (launch, id, job)
        for launch in readable
        for link in launch.links
        for id, job in zip(launch.names(link), link.jobs, strict=True)
        if what
        in (
            "",
            launch.folder.name,
            str(launch.folder),
            str(launch.folder.absolute()),
            id,
            id.partition("_")[0],
        )
    ]
    if what and not found:
        damaged = next((f"; {line}" for line in unread), "")
        raise InputError(
            f"{printable(what)}: no launch or job of that name in {jobs_dir}; `seer launch status` lists them{damaged}"
        )
    return found, unread


def new_folder(jobs_dir: Path, verb: str) -> Path:
    """A folder that no other launch has, made at once."""
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{verb}"
    for name in (stem, *(f"{stem}-{n}" for n in range(2, 1000))):
        folder = jobs_dir.absolute() / name
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be made: {error.strerror}; choose another --jobs"
            ) from error
        return folder
    raise InputError(f"{jobs_dir}: too many launches in one second")


def plan(
    command: list[str],
    resources: Resources,
    sweeps: list[str],
    array: int = 1,
    retries: int = 10,
    backoff: float = 30,
) -> list[Link]:
    """The links of `VERB ARGS... [--then VERB ARGS...]...`, all checked as far as this host can;
    `InputError` else.

    In the first link, `sweeps` (`key=[a,b]`) give a job for each combination, each with a run
    directory of its own, and `array` gives that many, with their number (from 1) and count for
    `{i}` and `{n}` in the arguments. In later links `{run}` stands for the run directory of the
    first link's job, and gives a job for each; `{runs}` for all of them.
    """
    first, *later = _split(command)
    links = [_first_link(first, resources, _combinations(sweeps), array)]
    runs = [job.run_dir for job in links[0].jobs if job.run_dir]
    for arguments in later:
        each = any("{run}" in argument for argument in arguments)
        if (each or "{runs}" in arguments) and not runs:
            raise InputError(
                f"{THEN} {' '.join(arguments)}: the first verb has no run directory to stand for {{run}}"
            )
        filled = (
            [[a.replace("{run}", run) for a in arguments] for run in runs] if each else [arguments]
        )
        spread = [[b for a in one for b in (runs if a == "{runs}" else [a])] for one in filled]
        # Evaluations and reports are one process each, wherever they are in the chain.
        small = replace(
            resources, nodes=1, tasks_per_node=1, gpus_per_node=min(1, resources.gpus_per_node)
        )
        jobs = [Job(verb, tuple(rest), small, check(verb, rest, small)) for verb, *rest in spread]
        links.append(Link(jobs, each=each and len(jobs) == len(links[-1].jobs) > 1))
    for i, link in enumerate(links):
        link.jobs = [
            replace(j, name=f"{i}-{k}", retries=retries, backoff=backoff)
            for k, j in enumerate(link.jobs)
        ]
    return links


def _split(command: list[str]) -> list[list[str]]:
    """The commands between `--then`s."""
    parts: list[list[str]] = [[]]
    for word in command:
        if word == THEN:
            parts.append([])
        else:
            parts[-1].append(word)
    if not all(parts):
        raise InputError(
            f"{THEN}: expected a verb before and after it, for instance -- pretrain ... {THEN} report {{run}}"
        )
    return parts


def _combinations(sweeps: list[str]) -> list[dict[str, str]]:
    """`["a=[1,2]", "b=[3]"]` → `[{a: 1, b: 3}, {a: 2, b: 3}]`, as written; values may be lists."""
    from seer.config.layers import flow, parse

    values: dict[str, list[str]] = {}
    for sweep in sweeps:
        key, _, text = sweep.partition("=")
        listed = parse(text, f"--sweep {key}", given=True)
        if not key or not isinstance(listed, list) or not listed:
            raise InputError(f"--sweep {sweep}: expected key=[a,b,...]")
        values[key] = [flow(value) for value in listed]
    count = math.prod(map(len, values.values()))
    if count > MOST_JOBS:
        raise InputError(
            f"--sweep: {count:,} combinations are more than {MOST_JOBS:,} jobs; give fewer values"
        )
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]


def _folder_name(words: list[str]) -> str:
    """One plain name for a job of a sweep by what is its own: a value may be a path, or longer than
    a name can be.
    """
    name = ",".join(words).replace("%", "%25").replace("/", "%2F")
    if len(name.encode()) <= LONGEST_NAME:
        return name
    return f"{name[:40]}...{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _first_link(
    command: list[str], resources: Resources, combinations: list[dict[str, str]], array: int
) -> Link:
    verb, *arguments = command
    if array > 1 and not any("{i}" in argument for argument in arguments):
        raise InputError(
            f"--array {array}: no argument has {{i}}, so all of its jobs would do the same"
        )
    if array > 1 and len(combinations) > 1:
        raise InputError("--array and --sweep: one of them")
    jobs = []
    base = ""
    if array > 1:
        for i in range(array):
            own = [a.replace("{i}", str(i + 1)).replace("{n}", str(array)) for a in arguments]
            jobs.append(Job(verb, tuple(own), resources, check(verb, own, resources)))
    for chosen in combinations if array == 1 else []:
        own = arguments + [f"{key}={value}" for key, value in chosen.items()]
        if chosen:  # one run directory for each, below the recipe's own
            base = base or check(verb, arguments, resources)
            own += [f"run_dir={base}/{_folder_name(own[len(arguments) :])}"] if base else []
        jobs.append(Job(verb, tuple(own), resources, check(verb, own, resources)))
    return Link(jobs)


def check(verb: str, arguments: list[str], resources: Resources) -> str:
    """Refuse now what every process would refuse later. Returns the run directory, "" for verbs
    that train none.
    """
    from seer.verbs.preview import TRAINING, preview

    run_dir = preview([verb, *arguments], resources.ranks)
    if run_dir is None and resources.ranks > 1:
        raise InputError(
            f"{verb}: is one process; --nodes and --tasks-per-node are for {', '.join(sorted(TRAINING))}"
        )
    return str(run_dir or "")
