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
    here = environment()
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    code = hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:12]
    versions = {"python": here["python"], "seer": here["seer"], **here["packages"]}
    return {
        "host": here["host"],
        **versions,
        "the code of seer": f"{code} in {Path(__file__).parents[1]}",
    }


def differs(
    rank: int, first: tuple[float, dict[str, str]], answer: tuple[float, dict[str, str]]
) -> str:
    """How this rank is unlike rank 0, in one line; "" where it is not."""
    first_clock, ours = first
    clock, theirs = answer
    where = f"rank {rank} on {theirs['host']}"
    for key in {**ours, **theirs}:
        version = theirs.get(key, "not installed")
        expected = ours.get(key, "not installed")
        if key != "host" and version.split()[0] != expected.split()[0]:
            return (
                f"{where}: {key} is {version}, and {expected} on {ours['host']} (rank 0); "
                "install the same on all hosts"
            )
    ahead = clock - first_clock
    if abs(ahead) > SKEW:
        return (
            f"{where}: its clock is {ahead:+.0f} s off that of {ours['host']}; "
            "synchronise them (NTP)"
        )
    return ""
