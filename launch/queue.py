"""What SLURM's own commands tell: partitions, accounts, the states of jobs."""

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass

from seer.errors import InputError

# Until somebody releases it.
HELD = {"REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
# From one state to the next.
PASSING = {"COMPLETING", "CONFIGURING", "REQUEUED", "RESIZING", "SIGNALING", "STAGE_OUT"}
ACTIVE = {"PENDING", "RUNNING", "STOPPED", "SUSPENDED"} | HELD | PASSING  # every other one is over


@dataclass(frozen=True)
class Partition:
    """One partition. `gpus` is the most that a node of it has, `cpus` the fewest, `minutes` its
    longest time limit.
    """

    name: str
    nodes: int
    gpus: int
    cpus: int
    minutes: float
    default: bool


@dataclass(frozen=True)
class State:
    """Where a job is: SLURM's state, how long it has run, and on which nodes (or why it waits)."""

    state: str
    elapsed: str = ""
    place: str = ""

    @property
    def active(self) -> bool:
        return self.state in ACTIVE


def tell(*command: str) -> str | None:
    """The output of a SLURM command; None where it is absent or refuses."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def partitions() -> dict[str, Partition]:
    """Every partition that this user sees, by name."""
    if shutil.which("sbatch") is None:
        raise InputError(
            "no SLURM here: sbatch is not on the PATH; use `seer launch torchrun` or `local`, or --dry-run"
        )
    text = tell("sinfo", "-h", "-o", "%P|%D|%G|%c|%l")
    if text is None:
        raise InputError("sinfo: SLURM's controller does not answer; try `scontrol ping`")
    found: dict[str, Partition] = {}
    for line in text.splitlines():  # one for each kind of node in a partition
        marked, nodes, gres, cpus, limit = line.split("|")
        new = Partition(
            marked.rstrip("*"),
            int(nodes),
            _gpus(gres),
            int(cpus.rstrip("+")),
            _limit(limit),
            "*" in marked,
        )
        old = found.get(new.name, new)
        count = new.nodes if old is new else old.nodes + new.nodes
        found[new.name] = Partition(
            new.name,
            count,
            max(old.gpus, new.gpus),
            min(old.cpus, new.cpus),
            old.minutes,
            old.default,
        )
    return found


def _gpus(gres: str) -> int:
    """`gpu:a100:8(S:0-1),nvme:1` → 8"""
    counts = [
        part.partition("(")[0].rpartition(":")[2]
        for part in gres.split(",")
        if part.startswith("gpu")
    ]
    return sum(int(count) if count.isdigit() else 1 for count in counts)


def _limit(text: str) -> float:
    return float("inf") if text in ("infinite", "n/a") else minutes(text)


def minutes(text: str) -> int:
    """A time as SLURM writes it, in minutes, rounded up: `90`, `90:00`, `72:00:00`, `3-0`,
    `3-00:00`, `3-00:00:00`.
    """
    days, dash, rest = text.rpartition("-")
    try:
        parts = [int(part) for part in rest.split(":")]
        if len(parts) > 3 or bool(dash) != bool(days) or min(parts) < 0:
            raise ValueError
        if dash:
            hours, mins, seconds = [*parts, 0, 0][:3]
        elif len(parts) == 3:
            hours, mins, seconds = parts
        else:
            hours, mins, seconds = 0, *[*parts, 0][:2]
        total = int(days or 0) * 24 * 60 + hours * 60 + mins + -(-seconds // 60)
    except ValueError as error:
        raise InputError(
            f"--time {text}: expected minutes, hours:minutes:seconds or days-hours:minutes"
        ) from error
    if total < 1:
        raise InputError(f"--time {text}: must be at least a minute")
    return total


def accounts() -> set[str]:
    """The accounts that this user may charge; empty where the cluster keeps none."""
    text = tell("sacctmgr", "-n", "-P", "show", "assoc", f"user={user()}", "format=account")
    return set((text or "").split())


def qualities() -> set[str]:
    """The qualities of service that there are; empty where the cluster keeps none."""
    return set((tell("sacctmgr", "-n", "-P", "show", "qos", "format=name") or "").split())


def states(ids: list[str]) -> dict[str, State]:
    """The state of each job that SLURM still knows: from the queue, and from the accounting where
    there is one.
    """
    found: dict[str, State] = {}
    account = "JobID,State,Elapsed,NodeList"
    if numbers := sorted({id.partition("_")[0] for id in ids}):
        text = tell("sacct", "-X", "-n", "-P", "-o", account, "-j", ",".join(numbers)) or ""
        found |= _states(text)
    text = tell("squeue", "-h", "-r", "-t", "all", "-u", user(), "-o", "%i|%T|%M|%R") or ""
    found |= _states(text)
    return {id: found[id] for id in ids if id in found}


def _states(text: str) -> dict[str, State]:
    rows = (line.split("|", 3) for line in text.splitlines())
    # "CANCELLED by 0", says the accounting.
    return {
        id: State(state.split()[0], elapsed, place) for id, state, elapsed, place in rows if state
    }


def cancel(ids: list[str]) -> None:
    """Cancel jobs; those that are over already do not mind."""
    done = subprocess.run(["scancel", *ids], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"scancel: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
