"""`seer launch`: parses, calls, prints. Everything else in this package is imported when a command
runs.
"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seer.errors import InputError, quoted
from seer.terminal import AllowEnv, Json, emit, example, finite, say, warn

if TYPE_CHECKING:
    from launch.launches import Launch

app = typer.Typer(
    help="Run any verb as a job: here, by torchrun, or on SLURM.", no_args_is_help=True
)

Command = Annotated[
    list[str], typer.Argument(metavar="-- VERB ARGS... [--then VERB ARGS...]", show_default=False)
]
Jobs = Annotated[
    Path,
    typer.Option("--jobs", envvar="SEER_JOBS", help="Where launches are recorded, logs included."),
]
Sweep = Annotated[
    list[str] | None,
    typer.Option(help="key=[a,b]: a job for each value, in a run directory of its own."),
]
Array = Annotated[
    int,
    typer.Option(
        help="So many jobs; {i} and {n} in their arguments are number (from 1) and count.",
        min=1,
        max=10_000,
    ),
]
Gpus = Annotated[
    int,
    typer.Option(
        min=0, help="GPUs per node; as many tasks, unless --tasks-per-node says otherwise."
    ),
]
Tasks = Annotated[int, typer.Option(min=0, help="Processes per node.")]
Retries = Annotated[
    int, typer.Option(min=0, help="How often a job may fail, or not get on, in a row.")
]
Backoff = Annotated[
    float,
    typer.Option(
        min=0, callback=finite, help="Seconds to wait after a failure; doubled at the same step."
    ),
]
What = Annotated[
    str, typer.Argument(metavar="JOB", help="A job's id, an array's id, or a launch's folder.")
]


def _plan(
    place: str,
    jobs: Path,
    command: list[str],
    nodes: int,
    tasks: int,
    gpus: int,
    time: str,
    sweep: list[str] | None,
    array: int,
    retries: int,
    backoff: float,
    dry: bool = False,
) -> "Launch":
    from launch.job import Resources
    from launch.launches import Launch, new_folder, plan
    from launch.queue import minutes

    resources = Resources(nodes, tasks or gpus or 1, gpus, minutes(time))
    if command[0] == "study":
        from launch.arms import plan_study

        links = plan_study(command, resources, sweep or [], array, retries, backoff)
    elif command[0] == "hpt":
        from launch.arms import plan_chains

        links = plan_chains(command, resources, sweep or [], array, retries, backoff)
    else:
        links = plan(command, resources, sweep or [], array, retries, backoff)
    if place != "slurm":
        _check_gpus(gpus)  # imports torch
    folder = jobs.absolute() / "DRY-RUN" if dry else new_folder(jobs, command[0])
    return Launch(folder, place, links)


@app.command(
    epilog=example(
        "seer launch slurm --cluster v100 --nodes 64 --gpus-per-node 8 --time 72:00:00 "
        "-- pretrain swav_regnety_256gf data=s3://bucket/shards",
        "seer launch slurm --sweep 'optim.weight_decay=[1e-5,1e-4]' -- pretrain swav_small data=shards/ "
        "--then eval knn --model {run} --data cifar10 --then report {run}",
        "seer launch slurm --array 64 -- shards build urls.parquet --out shards --part {i}/{n}",
        "seer launch slurm --cluster v100 --nodes 16 --gpus-per-node 8 -- study runs/parameters",
    )
)
def slurm(
    command: Command,
    cluster: Annotated[
        str, typer.Option(envvar="SEER_CLUSTER", help="A profile: its name or a YAML file.")
    ] = "",
    nodes: Annotated[int, typer.Option(min=1)] = 1,
    gpus_per_node: Gpus = 0,
    tasks_per_node: Tasks = 0,
    time: Annotated[
        str, typer.Option(help="Time limit, as SLURM writes it; the run outlives it.")
    ] = "24:00:00",
    partition: Annotated[str, typer.Option(help="As --set partition=...")] = "",
    account: Annotated[str, typer.Option(help="As --set account=...")] = "",
    qos: Annotated[str, typer.Option(help="As --set qos=...")] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field of the profile: key=value.")
    ] = None,
    sweep: Sweep = None,
    array: Array = 1,
    at_once: Annotated[int, typer.Option(help="Jobs of an array that run at a time.", min=1)] = 256,
    requeue: Annotated[
        bool, typer.Option(help="Queue the same job again, or submit a new one.")
    ] = True,
    retries: Retries = 10,
    backoff: Backoff = 30.0,
    jobs: Jobs = Path("jobs"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the batch scripts; queue nothing.")
    ] = False,
    allow_env: AllowEnv = False,
) -> None:
    """Queue a job, an array or a chain on SLURM. It saves itself before its time is over, and goes
    on by itself.
    """
    from launch import profile
    from launch import slurm as place

    given = {"partition": partition, "account": account, "qos": qos}
    settings = profile.load(cluster, [*(f"{key}={value}" for key, value in given.items() if value), *(set_ or [])],
                            allow_env)  # fmt: skip
    launch = _plan("slurm", jobs, command, nodes, tasks_per_node, gpus_per_node, time, sweep, array, retries, backoff,
                   dry_run)  # fmt: skip
    if dry_run:
        for number, _ in enumerate(launch.links):
            print(place.script(launch, number, settings, requeue))
        return
    try:
        place.submit(launch, settings, requeue, at_once)
    except InputError:
        _forget(launch.folder)
        raise
    _tell(launch)


@app.command(
    epilog=example(
        "seer launch torchrun --gpus-per-node 8 -- pretrain swav_regnety_16gf data=shards/",
        "seer launch torchrun --nodes 2 --node-rank 0 --endpoint host0:29500 --gpus-per-node 8 "
        "-- pretrain swav_regnety_16gf data=shards/",
    )
)
def torchrun(
    command: Command,
    nodes: Annotated[int, typer.Option(min=1)] = 1,
    node_rank: Annotated[int, typer.Option(min=0, help="Which of the nodes this host is.")] = 0,
    endpoint: Annotated[
        str, typer.Option(help="HOST:PORT of the first node, for more than one.")
    ] = "",
    gpus_per_node: Gpus = 0,
    tasks_per_node: Tasks = 0,
    jobs: Jobs = Path("jobs"),
) -> None:
    """Run a job here by torchrun; on several hosts, run the same command on each."""
    from launch import torchrun as place

    if nodes > 1 and ":" not in endpoint:
        raise InputError(
            "--endpoint: more than one node meet at HOST:PORT of the first, for instance host0:29500"
        )
    if node_rank >= nodes:
        raise InputError(
            f"--node-rank {node_rank}: {nodes} nodes are numbered from 0 to {nodes - 1}"
        )
    if nodes > 1 and not node_rank:
        place.check_endpoint(endpoint)
    launch = _plan(
        "torchrun", jobs, command, nodes, tasks_per_node, gpus_per_node, "365-0", None, 1, 0, 0
    )
    place.run(launch, node_rank, endpoint)


@app.command(
    epilog=example("seer launch local --tasks-per-node 2 -- pretrain swav_small data=shards/")
)
def local(
    command: Command,
    gpus_per_node: Gpus = 0,
    tasks_per_node: Tasks = 0,
    sweep: Sweep = None,
    array: Array = 1,
    retries: Retries = 10,
    backoff: Backoff = 30.0,
    jobs: Jobs = Path("jobs"),
) -> None:
    """Run a job, an array or a chain here, one after another, and again after a failure."""
    launch = _plan(
        "local",
        jobs,
        command,
        1,
        tasks_per_node,
        gpus_per_node,
        "365-0",
        sweep,
        array,
        retries,
        backoff,
    )
    from launch import local as place  # imports torch, and what is wrong has been told by now

    try:
        place.run(launch)
    except place.RankError as error:
        warn(str(error).strip().splitlines()[-1])
        raise typer.Exit(1) from None


@app.command(epilog=example("seer launch status", "seer launch status 4711"))
def status(
    what: Annotated[
        str, typer.Argument(metavar="[JOB]", help="A job, an array or a launch; all by default.")
    ] = "",
    jobs: Jobs = Path("jobs"),
    json_target: Json = "",
) -> None:
    """A table of launches: one row per job and array task."""
    from launch.status import rows, table

    found, unread = rows(jobs, what)
    if json_target != "-":
        table(found)
    warn(*unread)
    emit(found, json_target)


@app.command(epilog=example("seer launch logs 4711", "seer launch logs 4711_3 --rank 1"))
def logs(
    what: What,
    rank: Annotated[int, typer.Option(min=0)] = 0,
    lines: Annotated[int, typer.Option(min=1, help="Of each file, the last so many.")] = 40,
    jobs: Jobs = Path("jobs"),
) -> None:
    """Print the end of a job's logs: its output, its errors, and what its batch script says."""
    from launch.status import log_end, log_files

    for path in log_files(jobs, what, rank):
        say(f"==> {path}", *log_end(path, lines))


@app.command(epilog=example("seer launch cancel 4711"))
def cancel(what: What, jobs: Jobs = Path("jobs")) -> None:
    """Cancel a job, a task of an array, or a whole launch, and what waits for it."""
    from launch.status import cancel as stop

    say(f"cancelled {' '.join(stop(jobs, what)) or 'nothing: all of it is over'}")


@app.command(epilog=example("seer launch resubmit 4711"))
def resubmit(what: What, jobs: Jobs = Path("jobs")) -> None:
    """Queue again whatever of a launch is over and did not succeed; runs go on from their
    checkpoints.

    Only launches that you recorded there are: what such a record holds is run.
    """
    from launch.profile import recorded
    from launch.slurm import submit
    from launch.status import unfinished

    launch = unfinished(jobs, what)
    try:
        submit(launch, recorded(launch.cluster))
    except InputError:
        _forget(launch.folder)
        raise
    _tell(launch)


def _tell(launch: "Launch") -> None:
    for link in launch.links:
        for id, job in zip(link.ids, link.jobs, strict=True):
            say(f"{id:12} {shlex.join(job.command)}")
    first_job = launch.links[0].ids[0].partition("_")[0]
    say(f"status  seer launch status {quoted(first_job)}    records and logs in {launch.folder}")


def _forget(folder: Path) -> None:
    """Remove the folder of a launch of which nothing was queued."""
    import shutil

    from launch.launches import RECORD, Launch

    if not (folder / RECORD).is_file() or not any(link.ids for link in Launch.load(folder).links):
        shutil.rmtree(folder, ignore_errors=True)


def _check_gpus(asked: int) -> None:
    """Before anything is started here."""
    if asked:
        import torch

        present = torch.cuda.device_count()
        if asked > present:
            raise InputError(
                f"--gpus-per-node {asked}: PyTorch sees {present or 'none'} here; see nvidia-smi"
            )
