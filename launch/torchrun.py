"""Jobs by torchrun, on one host or on several; each host runs the same command with its own
`--node-rank`.
"""

import os
import signal
import socket
import subprocess
import sys

from launch import holder
from launch.job import Job
from launch.launches import Launch
from seer.errors import InputError, StoppedError

RESTARTS = 3  # torchrun's own, agreed among the hosts


def run(launch: Launch, node_rank: int, endpoint: str) -> None:
    """Run every job of a launch, one after another, in this host's part of it.

    Raises:
        InputError: bad input, which rank 0 has told already.
    """
    launch.settle()
    launch.save()
    with holder.holding(launch.folder):
        for job in launch.jobs:
            if (
                not node_rank or job.run_dir
            ):  # what trains nothing is one process, on the first host
                _run(job, node_rank, endpoint)


def _run(job: Job, node_rank: int, endpoint: str) -> None:
    from seer.processes import forwarding  # imports torch, and what is wrong has been told by now

    # In a session of its own: Ctrl-C and a closed terminal reach it once, through this process.
    process = subprocess.Popen(
        command(job, endpoint, node_rank),
        env={**os.environ, "SEER_ATTEMPT": "torchrun"},
        start_new_session=True,
    )
    with forwarding([process]):
        code = process.wait()
    if code in (-signal.SIGTERM, StoppedError.exit_code):
        raise StoppedError(f"{job.verb}: stopped as asked")
    if code:
        raise InputError(
            f"{job.verb}: failed on this host or another; its own message stands above"
        )


def check_endpoint(endpoint: str) -> None:
    """On the first host, where all meet: raise `InputError` unless `HOST:PORT` is free and this
    host's own.
    """
    host, _, port = endpoint.rpartition(":")
    try:
        socket.create_server((host, int(port))).close()
    except (OSError, ValueError, OverflowError) as error:
        why = (getattr(error, "strerror", None) or "no port").partition(" (")[0].lower()
        raise InputError(
            f"--endpoint {endpoint}: {why}; give a name of this host and a free port"
        ) from error


def command(job: Job, endpoint: str, node_rank: int) -> list[str]:
    """The command of one host: torchrun, with as many processes as the job has per node."""
    needs = job.resources
    rendezvous = [
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={endpoint}",
        f"--rdzv-id=seer-{job.name}",
    ]
    place = ["--standalone"] if needs.nodes == 1 else [*rendezvous, f"--node-rank={node_rank}"]
    counts = [
        f"--nnodes={needs.nodes}",
        f"--nproc-per-node={needs.tasks_per_node}",
        f"--max-restarts={RESTARTS}",
    ]
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *counts,
        *place,
        "-m",
        "launch",
        "job",
        job.folder,
        job.name,
    ]
