"""How many threads a run computes with on the CPU: as many as it began with, since sums depend on
how they are divided.
"""

import logging
import os
from pathlib import Path

import torch

from seer.distributed import World
from seer.hardware import usable_cores
from seer.rundir.rundir import RunDir

logger = logging.getLogger("seer")


def keep_threads(run_dir: Path, world: World) -> None:
    """Compute with as many threads as environment.json says that the run did with as many processes.

    A new run takes torch's number, divided among the processes of a host; `OMP_NUM_THREADS` decides
    where it is set.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    ran_on = RunDir(run_dir).environment()
    threads = ran_on.get("threads")
    if not threads or ran_on.get("processes") != world.size:
        return
    torch.set_num_threads(threads)
    cores = usable_cores()
    if world.is_main and threads * world.local_size > cores:
        logger.warning(
            "%d threads as the run began with, and %d cores here; OMP_NUM_THREADS=%d is faster, and alters losses in "
            "their last digits",
            threads * world.local_size,
            cores,
            max(1, cores // world.local_size),
        )
