"""Trainings of a detector and of a segmenter on a real SLURM: evicted by a job of higher priority, they go
on as if nothing had happened.
"""

import json

import pytest

from tests.kit import boxes, maps
from tests.slurm.conftest import Cluster, command, step

STEPS = 12
OPTIONS = [
    f"steps={STEPS}",
    "short_sides=[64]",
    "long_side=96",
    "test_size=64",
    "width=32",
    "batchnorm=sync",
    "parallel.mode=ddp",
    "loader.workers=1",
    "log.every=1",
    "log.tensorboard=false",
]
OWN = {
    "detect": ["batch_size=2", "samples=16", "proposals=16", "anchor_scale=4"],
    "segment": ["batch_size=4", "crop=[64,64]"],
}
DATA = {"detect": boxes.both, "segment": maps.both}
FOUND = {"detect": "predictions.json", "segment": "images/maps.png"}
PLACE = ("--time", "20", "--backoff", "0", "--set", "cpus_per_task=1", "--tasks-per-node", "2")
LOW = ("--partition", "low", "--set", "sbatch={nodelist: 'node4'}")


def launched(cluster: Cluster, task: str, name: str, data: str, *place: str) -> str:
    """The job of a training of that name."""
    own = [f"run_dir={cluster.work / name}", *OPTIONS, *OWN[task]]
    words = ["eval", task, "--model", "regnety_002:random", "--data", data]
    results = ["--out", str(cluster.work / f"{name}.jsonl")]
    (job,) = cluster.launch(*PLACE, *place, "--", *words, *own, *results)
    return job


def outcome(
    cluster: Cluster, task: str, name: str
) -> tuple[list[dict], dict[str, str], list, bytes]:
    """The losses of each step, what the files of the last checkpoint hash to, the scores, and what was found."""
    run = cluster.work / name
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    losses = [{key: row[key] for key in row if key.startswith("loss")} for row in rows]
    last = run / f"checkpoints/step-{STEPS:09d}/header.json"
    files = json.loads(last.read_text())["files"]
    digests = {file: about["sha256"] for file, about in files.items()}
    results = map(json.loads, (run / "results.jsonl").read_text().splitlines())
    scores = [(row["metric"], row["value"], row["low"], row["high"]) for row in results]
    return losses, digests, scores, (run / FOUND[task]).read_bytes()


@pytest.mark.parametrize("task", OWN)
def test_a_training_that_is_preempted_equals_an_undisturbed_one(cluster, task):
    if task == "detect":
        pytest.importorskip("faster_coco_eval")
    data = str(DATA[task](cluster.work / f"{task}-data", 8, 2))
    whole = launched(cluster, task, f"{task}-whole", data, "--set", "sbatch={nodelist: 'node3'}")
    evicted = f"{task}-evicted"
    job = launched(cluster, task, evicted, data, *LOW)
    cluster.until(lambda: step(cluster.work / evicted) >= 3, job)
    urgent = ["-p", "main", "-w", "node4", "-N1", "--exclusive", "-o", "/dev/null"]
    command("sbatch", *urgent, "--wrap", "sleep 1")
    cluster.until(lambda: cluster.state(job) != "RUNNING", job)
    assert step(cluster.work / evicted) < STEPS
    cluster.wait(job)
    cluster.wait(whole)
    for ours, theirs in zip(
        outcome(cluster, task, evicted), outcome(cluster, task, f"{task}-whole"), strict=True
    ):
        assert ours == theirs
