"""Jobs on SLURM, by submitit: the batch script, the checks before it, and what it does when its
step is over.

Within the job, every task is a rank (`seer.distributed` reads SLURM's variables). submitit ships
the `Job`, writes the script and keeps the logs. Its own requeueing interrupts a task in the middle
of a step. Ours is the script's end, which sees how tasks ended, killed ones included: stopped as
asked (exit code 75) → queued again at once; failed → again after a while, so often
(`launch.attempts`); done, or wrong input → over.
"""

import fcntl
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import NamedTemporaryFile

import submitit
from submitit.helpers import clean_env

from launch import queue
from launch.job import Job, Resources
from launch.launches import Launch
from launch.profile import Profile
from seer import files, inputs
from seer.errors import InputError, nearest, quoted
from seer.rundir.kinds import OWNER_KIND
from seer.rundir.names import OWNER, SUBMIT

# The batch shell must outlive the signals that its tasks get.
BEFORE = "trap : TERM USR1 USR2"

# `{conclude}` is `python -m launch conclude FOLDER NAME`, within the container if there is one.
AFTER = """
code=$?
array=${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}
job=${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}
# Cancelled, or queued again: nothing to decide. Out of time before all was saved: go on.
decided() {{
    case "$(squeue -h -j "$SLURM_JOB_ID" -o '%T %r' 2>/dev/null)" in
    COMPLETING*TimeLimit | RUNNING* | "") return 1 ;;
    esac
}}
decided && exit $code
wait=$({conclude} "$code") || exit $code
sleep "$wait"
{requeue}
# Requeueing is forbidden, or scontrol absent: a new job in its place, which inherits what waits for this one.
cd {slurm} || exit $code
new=$(sed '/^#SBATCH --dependency/d' "${{job}}_submission.sh" |
    sbatch --parsable --chdir="$OLDPWD" ${{SLURM_ARRAY_TASK_ID:+--array=$SLURM_ARRAY_TASK_ID}}) || exit $code
new=${{new%%;*}}
cp "${{job}}_submission.sh" "${{new}}_submission.sh"
cp "$job${{array}}_submitted.pkl" "$new${{array}}_submitted.pkl"
echo "$job$array $new$array" >> resubmitted
echo "seer: $job$array goes on as $new$array"
if [ -e "after-$job" ]; then
    cp "after-$job" "after-$new"
    scontrol update JobId="$(cat "after-$job")" Dependency=afterok:"$new"
fi
exit 0
""".strip()

# What ends the job may end scontrol before it has its answer; then the job is queued again all the
# same.
REQUEUE = """
(trap "" TERM; exec scontrol requeue "$job$array") && exit $code
decided && exit $code
""".strip()


class _Executor(submitit.SlurmExecutor):
    """As submitit's, but made where there is no SLURM, too, to show the script."""

    @classmethod
    def affinity(cls) -> int:
        return 2


def submit(launch: Launch, profile: Profile, requeue: bool = True, at_once: int = 256) -> None:
    """Queue every link of a launch, and record their ids.

    Raises:
        InputError: the cluster cannot run it (nothing is queued then), or one of its runs is in the queue already.
    """
    found = queue.partitions()
    profile = check(profile, launch.links[0].jobs[0].resources, found)
    check_shared(
        [launch.folder, *(Path(job.run_dir) for job in launch.jobs if job.run_dir)], profile, found
    )
    launch.cluster = asdict(profile)
    launch.settle()
    _test(launch, profile, requeue)
    with ExitStack() as stack:
        for run_dir in sorted({job.run_dir for job in launch.jobs if job.run_dir}):
            stack.enter_context(unclaimed(run_dir))
        launch.save()
        for number, link in enumerate(launch.links):
            executor = _executor(launch, number, profile, requeue, at_once)
            with clean_env():
                link.ids = _queue(executor, link.jobs)
            launch.save()
            for id, job in zip(link.ids, link.jobs, strict=True):
                if job.run_dir:
                    owner = {"job": id, "launch": str(launch.folder)}
                    files.write(Path(job.run_dir) / OWNER, json.dumps(owner) + "\n")
            if number and not link.each:
                before = _array_id(launch.links[number - 1].ids[0])
                (launch.folder / "slurm" / f"after-{before}").write_text(
                    _array_id(link.ids[0]) + "\n"
                )


def _queue(executor: submitit.SlurmExecutor, jobs: list[Job]) -> list[str]:
    """The ids of `jobs`: one job, or one array."""
    try:
        if len(jobs) == 1:
            return [executor.submit(jobs[0].main).job_id]
        with executor.batch():
            queued = [executor.submit(job.main) for job in jobs]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise InputError(f"sbatch: {' '.join(str(error).split())}") from error
    return [job.job_id for job in queued]


def script(launch: Launch, number: int, profile: Profile, requeue: bool = True) -> str:
    """The batch script of a link."""
    executor = _executor(launch, number, profile, requeue)
    count = len(launch.links[number].jobs)
    executor.parameters |= {"map_count": count} if count > 1 else {}
    return executor._make_submission_file_text(executor._submitit_command_str, "script")


def _executor(
    launch: Launch, number: int, profile: Profile, requeue: bool, at_once: int = 256
) -> submitit.SlurmExecutor:
    link = launch.links[number]
    folder = launch.folder
    needs = link.jobs[0].resources
    python = profile.python or shlex.quote(sys.executable)
    executor = _Executor(folder / "slurm", python=python)
    more = (
        {"kill-on-invalid-dep": "yes"}
        | profile.sbatch
        | ({"requeue": True} if requeue else {"no-requeue": True})
    )
    optional = {
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "gpus_per_node": needs.gpus_per_node,
        "cpus_per_task": profile.cpus_per_task,
        "mem": f"{profile.memory_gb_per_task * needs.tasks_per_node * 1024:.0f}MB"
        if profile.memory_gb_per_task
        else "",
        "dependency": _dependency(launch, number),
    }
    executor.update_parameters(
        job_name=f"seer-{link.jobs[0].verb}",
        time=needs.minutes,
        nodes=needs.nodes,
        ntasks_per_node=needs.tasks_per_node,
        setup=[BEFORE, *profile.setup, *_exports(profile)],
        teardown=_after(folder, number, profile, python, requeue).splitlines(),
        **{key: value for key, value in optional.items() if value},
        signal_delay_s=profile.signal_seconds,
        srun_args=["--kill-on-bad-exit=1", *_step(profile)],
        additional_parameters=more,
        array_parallelism=at_once,
    )
    return executor


def _exports(profile: Profile) -> list[str]:
    variables = {"SEER_HANG_SECONDS": f"{60 * profile.hang_minutes:g}", **profile.environment}
    return [f"export {key}={shlex.quote(str(value))}" for key, value in variables.items()]


def _step(profile: Profile) -> list[str]:
    """Options of srun. Since SLURM 22.05 a step does not take the cores per task from its job."""
    options = [f"--cpus-per-task={profile.cpus_per_task}"] if profile.cpus_per_task else []
    if profile.container:
        options.append(f"--container-image={profile.container}")
        options += [f"--container-mounts={','.join(profile.mounts)}"] if profile.mounts else []
    return options


def _after(folder: Path, number: int, profile: Profile, python: str, requeue: bool) -> str:
    inside = (
        shlex.join(["srun", "--nodes=1", "--ntasks=1", *_step(profile)]) + " "
        if profile.container
        else ""
    )
    name = f"{number}-${{SLURM_ARRAY_TASK_ID:-0}}"
    conclude = f"{inside}{python} -m launch conclude {shlex.quote(str(folder))} {name}"
    return AFTER.format(
        conclude=conclude,
        slurm=shlex.quote(str(folder / "slurm")),
        requeue=REQUEUE if requeue else "",
    )


def _dependency(launch: Launch, number: int) -> str:
    if not number:
        return ""
    before = launch.links[number - 1]
    kind = "aftercorr" if launch.links[number].each else "afterok"
    return f"{kind}:{_array_id(before.ids[0])}" if before.ids else f"{kind}:<the job before>"


def _array_id(id: str) -> str:
    return id.partition("_")[0]


def check(profile: Profile, needs: Resources, found: dict[str, queue.Partition]) -> Profile:
    """The profile with what the cluster decides filled in; `InputError` for what the cluster can
    never run.
    """
    name = profile.partition or next((p.name for p in found.values() if p.default), "")
    if name not in found:
        raise InputError(
            f"partition '{name}': the cluster has none of that name{nearest(name, found)}"
        )
    partition = found[name]
    if needs.nodes > partition.nodes:
        raise InputError(
            f"--nodes {needs.nodes}: partition {name} has {partition.nodes}; use --nodes {partition.nodes}"
        )
    if needs.gpus_per_node > partition.gpus:
        has = f"have {partition.gpus}" if partition.gpus else "have none"
        raise InputError(
            f"--gpus-per-node {needs.gpus_per_node}: the nodes of partition {name} {has}"
        )
    if needs.minutes > partition.minutes:
        raise InputError(
            f"--time: {needs.minutes} minutes; partition {name} allows {partition.minutes:g}, requeue goes on"
        )
    if 60 * needs.minutes <= profile.signal_seconds:
        raise InputError(
            f"--time: {60 * needs.minutes} s leave nothing before the signal, which comes {profile.signal_seconds} s "
            "before the end; use a longer time, or --set signal_seconds=..."
        )
    for what, value, known in (
        ("account", profile.account, queue.accounts()),
        ("qos", profile.qos, queue.qualities()),
    ):
        if value and not known:
            print(
                f"seer: --{what} {value}: not checked, this cluster does not tell which there are",
                file=sys.stderr,
            )
        elif value and value not in known:
            raise InputError(
                f"--{what} {value}: not one of yours on this cluster{nearest(value, known)}"
            )
    cores = profile.cpus_per_task or max(1, partition.cpus // needs.tasks_per_node)
    return replace(profile, partition=name, cpus_per_task=cores)


LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "ramfs", "overlay", "f2fs", "apfs"}


def check_shared(folders: list[Path], profile: Profile, found: dict[str, queue.Partition]) -> None:
    """Raise `InputError` for a folder of this host alone, unless this host is the whole cluster."""
    nodes = (queue.tell("sinfo", "-h", "-p", profile.partition, "-o", "%n") or "").split()
    if set(nodes) == {os.uname().nodename}:
        return
    for folder in folders:
        kind = file_system(folder)
        if kind in LOCAL and not any(
            folder.absolute().is_relative_to(top) for top in profile.shared
        ):
            raise InputError(
                f"{folder}: on a file system of this host alone ({kind}); choose one that all nodes see, or name it "
                f"in the profile, --set 'shared=[{folder.absolute().parent}]', if they do"
            )


def file_system(folder: Path, mounts: str = "/proc/mounts") -> str:
    """The type of the file system that `folder`, which need not exist yet, is or will be on; ""
    where unknown.
    """
    try:
        lines = Path(mounts).read_text().splitlines()
    except OSError:
        return ""
    types = {Path(line.split()[1].replace("\\040", " ")): line.split()[2] for line in lines}
    folder = folder.absolute().resolve()
    return next((types[place] for place in (folder, *folder.parents) if place in types), "")


def _test(launch: Launch, profile: Profile, requeue: bool) -> None:
    """Have SLURM itself look at every link, without queueing it."""
    for number, _ in enumerate(launch.links):
        text = script(launch, number, profile, requeue)
        text = "\n".join(
            line for line in text.splitlines() if not line.startswith("#SBATCH --dependency")
        )
        with NamedTemporaryFile("w", suffix=".sh") as file:
            file.write(text)
            file.flush()
            with clean_env():
                done = subprocess.run(
                    ["sbatch", "--test-only", file.name], capture_output=True, text=True
                )
        if done.returncode:
            raise InputError(
                f"sbatch: {' '.join(done.stderr.split()).removeprefix('allocation failure: ')}"
            )


@contextmanager
def unclaimed(run_dir: str) -> Iterator[None]:
    """While entered, no other launch can take this run; `InputError` if one in the queue already
    has.
    """
    try:
        Path(run_dir).mkdir(parents=True, exist_ok=True)
        lock = files.open_own(Path(run_dir) / SUBMIT, "a+b")
    except OSError as error:
        raise InputError(
            f"{run_dir}: cannot be written: {error.strerror}; choose another run_dir"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        job = ""
        with suppress(FileNotFoundError):
            job = inputs.read_json(
                inputs.inside(Path(run_dir), OWNER), OWNER_KIND, inputs.MEGABYTE
            )["job"]
        state = queue.states([job]).get(job) if job else None
        if state and state.active:
            raise InputError(
                f"{run_dir}: job {job} of it is {state.state.lower()} already; `seer launch cancel {quoted(job)}` "
                "first, or choose another run_dir"
            )
        yield
