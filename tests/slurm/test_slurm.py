"""Jobs on a real SLURM: what becomes of runs that it preempts, requeues, kills, cancels and lets run out of time."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from launch import attempts
from tests.conftest import losses, rows
from tests.slurm.conftest import Cluster, missing, started

FOUR = ("--nodes", "2", "--tasks-per-node", "2", "--time", "20", "--backoff", "0")
ONE = ("--time", "20", "--backoff", "0")


def step(run_dir: Path) -> int:
    return rows(run_dir)[-1]["step"] if (run_dir / "metrics.jsonl").is_file() and rows(run_dir) else 0


def history(cluster: Cluster, job: str) -> list[attempts.Attempt]:
    """How the attempts of the first job of a launch ended."""
    row = json.loads(cluster.ask("status", job, "--json", "-"))[0]
    return attempts.read(cluster.work / "jobs" / row["launch"], "0-0")


@pytest.fixture(scope="module")
def undisturbed(cluster, recipe, shards) -> Path:
    """Two nodes with two tasks each train, and a report follows."""
    run = cluster.work / "undisturbed"
    train, report = cluster.launch(
        *FOUR, "--", "pretrain", recipe, f"data={shards}", f"run_dir={run}", "--then", "report", "{run}"
    )
    cluster.wait(train)
    cluster.wait(report)
    return run


def test_two_nodes_train_together_and_a_report_follows(cluster, undisturbed):
    environment = json.loads((undisturbed / "environment.json").read_text())
    assert environment["processes"] == 4
    assert len(losses(undisturbed)) == 60
    assert (undisturbed / "report.html").is_file()
    table = cluster.ask("status")
    assert table.count("COMPLETED") >= 2


def test_a_run_that_went_through_everything_has_the_same_losses(cluster, undisturbed, recipe, shards):
    run = cluster.work / "disturbed"
    (job,) = cluster.launch("--partition", "low", *FOUR, "--", "pretrain", recipe, f"data={shards}", f"run_dir={run}")
    # A job of higher priority wants both nodes.
    cluster.until(lambda: step(run) >= 5)
    command = ["sbatch", "--parsable", "-p", "main", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1"]
    subprocess.run(command, check=True, capture_output=True)
    cluster.until(lambda: len(history(cluster, job)) == 1)
    stopped = step(run)
    assert history(cluster, job)[0].code == 75
    assert 5 <= stopped < 60
    # An operator queues it again.
    cluster.until(lambda: step(run) >= stopped + 5)
    subprocess.run(["scontrol", "requeue", job], check=True)
    cluster.until(lambda: cluster.state(job) == "PENDING")
    # A rank dies of SIGKILL, as when memory runs out.
    again = step(run)
    cluster.until(lambda: cluster.state(job) == "RUNNING" and step(run) >= again + 5)
    os.kill(ranks(run)[1], signal.SIGKILL)
    cluster.wait(job)
    assert [a.code for a in history(cluster, job)][1:] in ([137, 0], [1, 0])
    assert losses(run) == losses(undisturbed)


def ranks(run: Path) -> list[int]:
    """The processes that srun started for this cluster's tests, by their command and environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            named = b"submitit.core._submit" in path.read_bytes()
            local = named and b"SLURM_PROCID=" in (path.parent / "environ").read_bytes()
            ours = local and str(run.parent).encode() in path.read_bytes()
        except OSError:
            continue
        if ours:
            found.append(int(path.parent.name))
    return found


def test_the_time_limit_saves_the_run_and_it_goes_on_as_a_new_job_where_requeueing_is_forbidden(
    cluster, recipe, shards
):
    run = cluster.work / "limited"
    train, report = cluster.launch(
        "--no-requeue", "--set", "signal_seconds=50", "--time", "1", "--", "pretrain", recipe, f"data={shards}",
        "steps=2000", f"run_dir={run}", "--then", "report", "{run}",
    )  # fmt: skip
    cluster.wait(train, seconds=100)  # the first job is over: what it began goes on elsewhere
    assert history(cluster, train)[0].code == 75
    assert cluster.state(report) == "PENDING"
    row = json.loads(cluster.ask("status", train, "--json", "-"))[0]
    assert row["job"] != train
    assert row["state"] in ("PENDING", "RUNNING")
    saved = step(run)
    cluster.until(lambda: step(run) > saved)
    cluster.ask("cancel", train)
    cluster.wait(row["job"], "CANCELLED")
    cluster.wait(report, "CANCELLED")


def test_a_run_in_the_queue_is_refused_a_second_time_and_a_cancelled_one_stays_cancelled(cluster, recipe, shards):
    run = cluster.work / "cancelled"
    command = (*ONE, "--", "pretrain", recipe, f"data={shards}", "steps=2000", f"run_dir={run}")
    (job,) = cluster.launch(*command)
    (line,) = cluster.launch(*command, fails=True)
    assert f"job {job} of it is" in line
    cluster.until(lambda: step(run) >= 2)
    assert "step 1/2000" in cluster.ask("logs", job)
    assert job in cluster.ask("cancel", job)
    cluster.wait(job, "CANCELLED")
    assert "nothing" in cluster.ask("cancel", job)


def test_a_sweep_is_an_array_and_the_failed_task_is_submitted_again(cluster, recipe, shards):
    run = cluster.work / "sweep"
    ids = cluster.launch(
        *ONE, "--sweep", "seed=[1,2]", "--", "pretrain", recipe, f"data={shards}", "steps=2", f"run_dir={run}",
        "--then", "report", "{run}",
    )  # fmt: skip
    assert [id.partition("_")[2] for id in ids] == ["0", "1", "0", "1"]
    for id in ids:
        cluster.wait(id)
    first, second = losses(run / "seed=1"), losses(run / "seed=2")
    assert len(first) == len(second) == 2
    assert first != second
    assert (run / "seed=2" / "report.html").is_file()


def test_bad_input_is_one_line_and_nothing_is_queued(cluster, recipe, shards, tmp_path):
    train = ("--", "pretrain", recipe, f"data={shards}", f"run_dir={cluster.work / 'never'}")
    cases = {
        ("--partition", "mian"): "partition 'mian': the cluster has none .*did you mean 'main'",
        ("--nodes", "3"): "--nodes 3: partition main has 2",
        ("--gpus-per-node", "4"): "--gpus-per-node 4: the nodes of partition main have 2",
        ("--account", "nobody"): "--account nobody: not one of yours",
        ("--qos", "urgent"): "--qos urgent: not one of yours",
        ("--set", "constraint=a100"): "sbatch: .*[Ii]nvalid feature",
        ("--time", "soon"): "--time soon: expected",
        ("--time", "1"): "--time: 60 s leave nothing before the signal",
        ("--tasks-per-node", "3"): "batch_size=8 does not divide among 3 processes",
        ("--set", "shared=[]"): "on a file system of this host alone",
    }
    for options, message in cases.items():
        (line,) = cluster.launch(*options, *train, fails=True)
        assert re.search(message, line), line
    assert not (cluster.work / "never").exists()
    queued = subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout
    assert not queued.strip()


def test_gpus_that_pytorch_does_not_see_end_the_job_at_once(cluster, recipe, shards):
    run = cluster.work / "blind"
    (job,) = cluster.launch(*ONE, "--gpus-per-node", "1", "--", "pretrain", recipe, f"data={shards}", f"run_dir={run}")
    cluster.wait(job, "FAILED")
    (only,) = history(cluster, job)  # another attempt would end alike
    assert only.code == 2
    assert "1 GPUs per node were asked for and PyTorch" in only.told


def test_a_cluster_without_accounting(cluster, shards, tmp_path_factory):
    port = str(int(os.environ["SLURM_LAB_PORT"]) + 5000)
    kept = {key: os.environ[key] for key in ("SLURM_LAB_DIR", "SLURM_LAB_PORT", "PATH", "SLURM_CONF")}
    with started(SLURM_LAB_ACCT="none", SLURM_LAB_NODES="1", SLURM_LAB_NET="loopback", SLURM_LAB_PORT=port):
        small = Cluster(tmp_path_factory.mktemp("plain"))
        (job,) = small.launch("--time", "10", "--", "shards", "stats", str(shards))
        small.wait(job)
        (bad,) = small.launch("--time", "10", "--", "shards", "stats", str(small.work / "nowhere"))
        small.wait(bad, "FAILED")
        assert history(small, bad)[0].code == 2
        told = small.ask("status")
        assert "COMPLETED" in told
        assert "FAILED" in told
    assert {key: os.environ[key] for key in kept} == kept


def test_the_suite_says_why_it_is_skipped(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    assert "slurmctld" in missing()
