"""Jobs in processes of this host."""

import os
import time
from itertools import count

from launch import attempts, holder
from launch.job import Job
from launch.launches import Launch
from seer.errors import TOLD, InputError, StoppedError
from seer.processes import RankError, spawn
from seer.terminal import warn


def run(launch: Launch) -> None:
    """Run every job of a launch here, one after another; failures are tried again, as often as
    `launch.attempts` says.

    Raises:
        InputError, StoppedError: as the job's verb.
        RankError: a job that is not worth another attempt.
    """
    launch.settle()
    launch.save()
    with holder.holding(launch.folder):
        for job in launch.jobs:
            _attend(job)


def _attend(job: Job) -> None:
    device = next(
        (a.removeprefix("device=") for a in reversed(job.arguments) if a.startswith("device=")),
        "auto",
    )
    for number in count(1):
        os.environ["SEER_ATTEMPT"] = f"local.{number}"
        try:
            spawn(job, job.resources.tasks_per_node, device=device)
            attempts.conclude(job.folder, job.name, job.run_dir, 0)
            return
        except (*TOLD, RankError) as error:
            code = getattr(error, "exit_code", 1)
            last = str(error).strip().splitlines()[-1]
            past = attempts.conclude(
                job.folder, job.name, job.run_dir, code, last if code == 1 else ""
            )
            verdict = attempts.verdict(past, job.retries, job.backoff)
            if isinstance(error, StoppedError | InputError):
                raise
            if not verdict.again:
                raise RankError(verdict.why) from error
            warn(f"{last}; again in {verdict.wait:g} s")
            time.sleep(verdict.wait)
