"""Whether the processes of a run are alike: the same code, the same packages, clocks that agree."""

import hashlib
import time
from pathlib import Path

from seer.distributed import barrier, on_all, size
from seer.engine.metrics import environment
from seer.errors import InputError

SKEW = 60.0  # seconds; signed requests to object stores and munge allow for minutes, logs and retries for less


def check_peers() -> None:
    """Raise the same `InputError` on every rank where a rank's code, packages or clock are not rank
    0's.
    """
    if size() == 1:
        return
    barrier()  # all then read their clocks at once
    found = on_all(lambda: (time.time(), describe()))
    if told := next(
        filter(None, (differs(rank, found[0], found[rank]) for rank in range(1, size()))), ""
    ):
        raise InputError(told)


def describe() -> dict[str, str]:
    """What must be equal in all processes, and, first, the host to name where it is not."""
    here, files = environment(), sorted(Path(__file__).parents[1].rglob("*.py"))
    code = hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:12]
    versions = {"python": here["python"], "seer": here["seer"], **here["packages"]}
    return {
        "host": here["host"],
        **versions,
        "the code of seer": f"{code} in {Path(__file__).parents[1]}",
    }


def differs(
    rank: int, first: tuple[float, dict[str, str]], other: tuple[float, dict[str, str]]
) -> str:
    """How this rank is unlike rank 0, in one line; "" where it is not."""
    ours, theirs = first[1], other[1]
    where = f"rank {rank} on {theirs['host']}"
    for key in [key for key in {**ours, **theirs} if key != "host"]:
        here, there = ours.get(key, "not installed"), theirs.get(key, "not installed")
        if here.split()[0] != there.split()[0]:
            return f"{where}: {key} is {there}, and {here} on {ours['host']} (rank 0); install the same on all hosts"
    if abs(other[0] - first[0]) > SKEW:
        return f"{where}: its clock is {other[0] - first[0]:+.0f} s off that of {ours['host']}; synchronise them (NTP)"
    return ""
