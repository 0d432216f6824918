"""What is said at the end of a run: that it is over, what limited it, and what comes next. Imports
nothing that takes long, so that a finished run says so at once.
"""

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seer.engine.checkpoint.header import DamagedError, is_intact, read_header
from seer.errors import quoted
from seer.jsonl import Row
from seer.pretrain.recipe import Pretrain
from seer.pretrain.taken_images import experts_of, identity_of, manifest_of
from seer.rundir.kinds import finite
from seer.rundir.names import latest, step_of
from seer.rundir.rundir import RunDir

LIMITING = 0.15  # of the time: less of it is not worth a word
MAKING = {"read": "reading", "decode": "decoding", "crop": "cropping", "augment": "augmenting"}


@dataclass(frozen=True)
class Shares:
    """Where a run's time went, as shares of it: waiting for data, the steps themselves, and the
    seconds that workers spent on the parts of a batch (above 1 where several were at it).
    """

    wait: float
    step: float
    parts: dict[str, float]


def is_finished(config: Pretrain) -> bool:
    """Whether the run's directory has an intact checkpoint of its last step, on the same data.

    What is not as it should be is not finished: going on tells what is wrong with it.

    Raises:
        InputError: there are no such data.
    """
    manifest = manifest_of(config)
    data = identity_of(manifest, experts_of(config, manifest))
    newest = latest(Path(config.run_dir))
    if newest is None or step_of(newest.name) != config.steps:
        return False
    try:
        header = read_header(newest)
        return header.get("data") == data and is_intact(newest, header)
    except DamagedError:
        return False


def last_lines(config: Pretrain) -> list[str]:
    """What was done, what limited it, and the commands that come next."""
    run = RunDir(config.run_dir)
    limit = limited_by(config, shares(run.metrics()), run.environment())
    return [
        f"finished: {config.steps:,} steps of {config.steps:,}",
        f"run     {config.run_dir}",
        *([f"limit   {limit}"] if limit else []),
        f"eval    seer eval all --model {quoted(config.run_dir)} --data LABELLED"
        "   # LABELLED/CLASS/*.jpg, or these in LABELLED/train and LABELLED/test (or val)",
        f"report  seer report {quoted(config.run_dir)}",
    ]


def shares(rows: Sequence[Row]) -> Shares | None:
    """The means over a run's logged rows, by the time that each stands for; None where they tell
    nothing.

    The first row is left out: the first steps of a process pay for memory, kernels and workers.
    """
    seconds = []
    for before, row in itertools.pairwise(rows):
        seconds.append(max(0.0, finite(row.get("seconds")) - finite(before.get("seconds"))))
    total = sum(seconds)
    if not total:
        return None

    def mean(name: str) -> float:
        values = [finite(row.get(name)) for row in rows[1:]]
        products = [weight * value for weight, value in zip(seconds, values, strict=True)]
        return sum(products) / total

    return Shares(
        mean("data_wait"), mean("time_step"), {part: mean(f"time_{part}") for part in MAKING}
    )


def limited_by(config: Pretrain, spent: Shares | None, ran_on: dict[str, Any]) -> str:
    """What took the run's time, and what to change; "" where nothing is known to have limited it.

    Args:
        ran_on: of environment.json: `cores` of a host, its `gpus`, and the run's `processes`.
    """
    if spent is None:
        return ""
    cores = ran_on.get("cores") or 1
    gpus = len(ran_on.get("gpus") or ()) if config.device != "cpu" else 0
    ranks = ran_on.get("processes") or 1
    ranks = min(ranks, gpus) if gpus else ranks  # of this host
    if spent.wait >= LIMITING:
        remedies = _faster_data(config, spent, cores, ranks, bool(gpus))
        waited = f"waiting for data {100 * spent.wait:.0f} % of the time"
    else:
        remedies = _faster_steps(config, ranks, bool(gpus), cores)
        waited = f"the steps themselves, {100 * spent.step:.0f} % of the time"
    return f"{waited}: {' or '.join(remedies)}" if remedies else ""


def _faster_data(
    config: Pretrain, spent: Shares, cores: int, ranks: int, on_gpu: bool
) -> list[str]:
    """What brings batches sooner on a host with so many cores and processes that train."""
    loader = config.loader
    remedies = []
    most = cores // ranks - 1  # a core is the trainer's
    needed = math.ceil(max(1, loader.workers) / max(1 - spent.wait, 0.01))
    workers = min(most, needed)
    if workers > loader.workers:
        remedies.append(f"loader.workers={workers} ({loader.workers} now, {cores} cores)")
    longest = max(spent.parts, key=lambda part: spent.parts[part])
    if spent.parts[longest] == 0:
        return remedies
    if longest in ("crop", "augment") and on_gpu and not loader.device_augment:
        remedies.append(
            f"loader.device_augment=true in a new run_dir ({MAKING[longest]} takes longest)"
        )
    if longest == "decode":
        largest = max(view.size for view in config.views.values() if view.count)
        # Most crops are then still made smaller than they are cut, not larger.
        command = f"seer shards build IMAGES --out SHARDS --shorter-side {quoted(2 * largest)}"
        remedies.append(f"smaller images in a new run_dir, by {command} (decoding takes longest)")
    if longest == "read" and loader.fetch != "shards" and "://" in config.data:
        remedies.append("loader.fetch=shards (reading takes longest)")
    return remedies


def _faster_steps(config: Pretrain, ranks: int, on_gpu: bool, cores: int) -> list[str]:
    """What makes a step itself shorter."""
    if not on_gpu:
        spread = ranks < cores and config.parallel.mode != "none" and config.batch_size % cores == 0
        return [f"--nproc {cores}, a process per core ({ranks} now)"] if spread else []
    remedies = ["precision=bf16 in a new run_dir"] if config.precision == "fp32" else []
    return remedies if config.parallel.compile else [*remedies, "parallel.compile=true"]


def is_alone() -> bool:
    """Whether no launcher has started this process as one of several."""
    return not {"WORLD_SIZE", "SLURM_PROCID"} & os.environ.keys()


def speaks() -> bool:
    """Whether this process is the one of its launcher's that says how a run ended: rank 0, or alone."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
