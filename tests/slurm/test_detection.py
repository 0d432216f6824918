"""A detector's training on a real SLURM: evicted by a job of higher priority, it goes on as if nothing
had happened.
"""

import json

import pytest

from tests.kit import boxes
from tests.slurm.conftest import Cluster, command, step

pytest.importorskip("faster_coco_eval")

STEPS = 12
OPTIONS = [
    f"steps={STEPS}",
    "batch_size=2",
    "short_sides=[64]",
    "long_side=96",
    "test_size=64",
    "samples=16",
    "proposals=16",
    "width=32",
    "anchor_scale=4",
    "batchnorm=sync",
    "parallel.mode=ddp",
    "loader.workers=1",
    "log.every=1",
    "log.tensorboard=false",
]
PLACE = ("--time", "20", "--backoff", "0", "--set", "cpus_per_task=1", "--tasks-per-node", "2")
LOW = ("--partition", "low", "--set", "sbatch={nodelist: 'node4'}")


def launched(cluster: Cluster, name: str, data: str, *place: str) -> str:
    """The job of a training of that name."""
    own = [f"run_dir={cluster.work / name}", *OPTIONS]
    task = ["eval", "detect", "--model", "regnety_002:random", "--data", data]
    results = ["--out", str(cluster.work / f"{name}.jsonl")]
    (job,) = cluster.launch(*PLACE, *place, "--", *task, *own, *results)
    return job


def outcome(cluster: Cluster, name: str) -> tuple[list[dict], dict[str, str], bytes]:
    """The losses of each step, what the files of the last checkpoint hash to, and what was found."""
    run = cluster.work / name
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    losses = [{key: row[key] for key in row if key.startswith("loss")} for row in rows]
    last = run / f"checkpoints/step-{STEPS:09d}/header.json"
    files = json.loads(last.read_text())["files"]
    digests = {file: about["sha256"] for file, about in files.items()}
    return losses, digests, (run / "predictions.json").read_bytes()


def test_a_training_that_is_preempted_equals_an_undisturbed_one(cluster):
    data = str(boxes.both(cluster.work / "boxes", 8, 2))
    whole = launched(cluster, "whole", data, "--set", "sbatch={nodelist: 'node3'}")
    job = launched(cluster, "evicted", data, *LOW)
    cluster.until(lambda: step(cluster.work / "evicted") >= 3, job)
    urgent = ["-p", "main", "-w", "node4", "-N1", "--exclusive", "-o", "/dev/null"]
    command("sbatch", *urgent, "--wrap", "sleep 1")
    cluster.until(lambda: cluster.state(job) != "RUNNING", job)
    assert step(cluster.work / "evicted") < STEPS
    cluster.wait(job)
    cluster.wait(whole)
    evicted = outcome(cluster, "evicted")
    whole_run = outcome(cluster, "whole")
    for ours, theirs in zip(evicted, whole_run, strict=True):
        assert ours == theirs
