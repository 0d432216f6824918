"""Whole runs of `seer pretrain` on photographs, with all cores: images/s once they are under way, the
share of the time that is spent waiting for data, and for how long a checkpoint stops the training.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from run import ROOT, Options

from seer.quickstart.pictures import write_quickstart
from seer.rundir.names import LOG, METRICS
from shards.build import BuildOptions, build

MODES = {
    "altered on the device": ["loader.device_augment=true"],
    "decoded on the device": ["loader.device_augment=true", "loader.device_decode=true"],
}
STOPPED = re.compile(r"saved \S+: training stopped for ([\d.]+) s")


def rows(options: Options) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        photographs = options.data or Path(folder, "patches")
        if options.data is None:
            write_quickstart(photographs, size=256, train=4 if options.small else 20, test=1)
        shards = Path(folder, "shards")
        build([photographs], shards, BuildOptions(shard_size=50))
        for number, (name, overrides) in enumerate(MODES.items()):
            yield {"what": name, **trained(shards, Path(folder, str(number)), overrides, options)}
            if options.small:
                return


def trained(shards: Path, run_dir: Path, overrides: list[str], options: Options) -> dict[str, Any]:
    """One run of ResNet-50 and the rows that it logged after its first half."""
    steps, batch = (4, 8) if options.small else (60, 128)
    command = [sys.executable, "-m", "seer", "pretrain", "swav_resnet50_800ep"]
    command += [f"data={shards}", f"run_dir={run_dir}", f"steps={steps}", f"batch_size={batch}"]
    command += ["views.small.count=4", "parallel.mode=none", "precision=bf16", "schedule.warmup=0"]
    command += [
        f"device={options.device.type}",
        "log.every=1",
        "log.tensorboard=false",
        "log.plan=none",
    ]
    command += [
        f"checkpoint.every={steps // 4}",
        "health.spike=0",
        f"loader.workers={workers(options)}",
        *overrides,
    ]
    if options.small:
        command += [
            "backbone.name=regnety_002",
            "views.large.size=32",
            "views.small.size=16",
            "precision=fp32",
        ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if told.returncode:
        return {"failed": (told.stderr.strip().splitlines() or ["no word"])[-1][:200]}
    lines = (run_dir / METRICS).read_text().splitlines()
    late = [json.loads(line) for line in lines][steps // 2 :]
    stops = [float(seconds) for seconds in STOPPED.findall((run_dir / LOG).read_text())]
    return {
        "batch": batch,
        "workers": workers(options),
        "images_per_s": statistics.median(row["images_per_second"] for row in late),
        "data_wait": statistics.median(row["data_wait"] for row in late),
        "checkpoint_stop_s": statistics.median(stops) if stops else float("nan"),
        "loss": late[-1]["loss"],
    }


def workers(options: Options) -> int:
    return 1 if options.small else len(os.sched_getaffinity(0)) - 1
