"""The server that processes fork from: a clean interpreter, once for all, that has imported what
they need.

Forking a process with threads and a process group is unsafe, and a fresh interpreter takes seconds
to import torch. This module imports nothing of that itself, so that a verb can start the server
first, and both import at the same time.
"""

import signal
import sys
from collections.abc import Sequence
from multiprocessing import forkserver, get_context, resource_tracker
from multiprocessing.context import ForkServerContext

# Schedulers and terminals send these to every process of a job. The trainer alone answers; what
# helps it must live to the checkpoint.
SHIELDED = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP}
QUIET = "ignore:resource_tracker:UserWarning"  # what a process that is ended at once leaves, the tracker removes
# What a loader's workers import.
LOADING = ["seer.data.workers", "seer.data.crops.resize", "seer.data.crops.kernel"]
# What processes import that measure a frozen model together.
PROBING = ["seer.eval.task", "seer.eval.probes.knn", "seer.processes"]
TRAINING = [
    "seer.pretrain.run",
    "seer.processes",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint",
    "torch._dynamo",
]


def start(modules: Sequence[str]) -> ForkServerContext:
    """The context of processes that fork from the server, which is started with `modules` if it is
    not there yet.

    They begin with the signals of `SHIELDED` blocked, as the server has them.
    """
    if QUIET not in sys.warnoptions:  # which the tracker and the server inherit
        sys.warnoptions.append(QUIET)
    context = get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        for ensure_running in (resource_tracker.ensure_running, forkserver.ensure_running):
            # Inherited; the first of the two unblocks some.
            signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED)
            ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return context
