"""The plan of a run, made while it trains."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, Popen

import torch

from seer.distributed import World
from seer.hardware import recognise
from seer.pretrain.recipe import Pretrain
from seer.rundir.names import CONFIG, PLAN


@contextmanager
def planned_beside(config: Pretrain, world: World) -> Iterator[Popen | None]:
    """Unless it is there, have `RUN/plan.json` made by a process that takes only what time is left,
    as `log.plan` says.

    Yields that process; it does not outlive the context.
    """
    run_dir = Path(config.run_dir)
    on_gpu = world.device.type == "cuda"
    automatic = recognise(torch.cuda.get_device_name(world.device)) if on_gpu else "none"
    gpu = automatic if config.log.plan == "auto" else config.log.plan
    if not world.is_main or gpu in ("", "none") or (run_dir / PLAN).exists():
        yield None
        return
    what = [str(run_dir / CONFIG), f"name={config.name}", "--gpus", str(world.size), "--gpu", gpu]
    command = [sys.executable, "-m", "seer", "plan", *what, "--json", str(run_dir / PLAN)]
    with Popen(
        command,
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as child:
        os.setpriority(os.PRIO_PROCESS, child.pid, 19)
        try:
            yield child
        finally:
            child.terminate()
