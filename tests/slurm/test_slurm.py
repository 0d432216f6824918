"""Jobs on a real SLURM: what becomes of runs that it preempts, requeues, kills, cancels and lets
run out of time.

They are queued at once, as on a shared cluster, and each test waits for what concerns it. The run
that everything happens to comes last: two nodes are its own, and then the cores are, too.
"""

import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from seer.cli import app
from seer.errors import InputError
from seer.pretrain.recipe import saved_config
from seer.rundir.names import CONFIG
from tests.kit.runs import losses, rows
from tests.slurm.conftest import Cluster, command, kill, lose, missing, restart_nodes, started, step

COMMON = ("--time", "20", "--backoff", "0", "--set", "cpus_per_task=1")
OTHERS = (*COMMON, "--set", "sbatch={exclude: 'node[1-2]'}")
ALONE = ("--partition", "low", "--set", "sbatch={nodelist: 'node[1-2]'}")
REPORT = ("--then", "report", "{run}")
TWO = ("--nodes", "2", "--tasks-per-node", "1")
FOUR = ("--nodes", "2", "--tasks-per-node", "2")
MODES = ("ddp", "fsdp")
SWEEP = ("--sweep", f"parallel.mode=[{','.join(MODES)}]")


@dataclass
class Queued:
    """The jobs in the queue, and where they train."""

    work: Path
    undisturbed: list[str]
    limited: str
    sweep: list[str]
    dying: str
    blind: str


def test_bad_input_is_one_line_and_nothing_is_queued(cluster, recipe, shards):
    train = ("--", "pretrain", recipe, f"data={shards}", f"run_dir={cluster.work / 'never'}")
    cases = {
        ("--partition", "mian"): "partition 'mian': the cluster has none .*did you mean 'main'",
        ("--nodes", "8"): "--nodes 8: partition main has 4",
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
    assert not command("squeue", "-h")


@pytest.fixture(scope="module")
def train(cluster, recipe, shards) -> Callable[..., list[str]]:
    """A function that launches a run of a name: the ids of its jobs."""

    def launch(
        name: str, *options: str, config: tuple[str, ...] = (), then: tuple[str, ...] = ()
    ) -> list[str]:
        arguments = (
            "pretrain",
            recipe,
            f"data={shards}",
            f"run_dir={cluster.work / name}",
            *config,
        )
        return cluster.launch(*options, "--", *arguments, *then)

    return launch


@pytest.fixture(scope="module")
def queued(cluster, train) -> Queued:
    # SLURM looks every half a minute which jobs to signal: after 45 to 75 s.
    limit = ("--time", "2", "--set", "signal_seconds=45")
    # By the kernel: importing torch takes more.
    killed = ("--backoff", "1", "--set", "setup=['ulimit -t 1']")
    limited = train("limited", *OTHERS, *limit, config=("steps=5000",))[0]
    return Queued(
        work=cluster.work,
        undisturbed=train("undisturbed", *OTHERS, *TWO, then=REPORT),
        limited=limited,
        sweep=train("sweep", *OTHERS, *FOUR, *SWEEP, config=("steps=3",), then=REPORT),
        dying=train("dying", *OTHERS, *killed)[0],
        blind=train("blind", *OTHERS, "--gpus-per-node", "1")[0],
    )


def test_where_requeueing_is_forbidden_a_new_job_takes_its_place_and_what_waited_waits_for_it(
    cluster, queued, train
):
    first, report = train("forbidden", *COMMON, "--no-requeue", config=("steps=30",), then=REPORT)
    run = cluster.work / "forbidden"
    cluster.until(lambda: step(run) >= 2, first)
    command("scancel", "--signal=USR2", first)
    cluster.wait(first)  # it is over: what it began goes on elsewhere
    assert cluster.history(first)[0].code == 75
    successor = cluster.row(first)["job"]
    assert successor != first
    cluster.wait(successor)
    cluster.wait(report)
    assert len(losses(run)) == 30
    assert (run / "report.html").is_file()


def test_out_of_time_a_run_is_saved_and_goes_on_and_a_cancelled_one_does_not(cluster, queued):
    job, run = queued.limited, cluster.work / "limited"

    def saved() -> list[int]:
        """The steps after which an attempt was out of time; on a slow machine the first may not get
        that far.
        """
        history = cluster.history(job)
        assert {attempt.code for attempt in history} <= {75}
        return [
            attempt.step
            for attempt in history
            if attempt.told.endswith("as asked (SIGUSR2); saved")
        ]

    cluster.until(lambda: bool(saved()) and step(run) > saved()[0], job)
    steps = [row["step"] for row in rows(run)]  # read once: the run goes on
    assert steps == list(range(1, len(steps) + 1))
    assert job in cluster.ask("cancel", job)
    cluster.wait(job, "CANCELLED")
    assert "nothing" in cluster.ask("cancel", job)


def test_a_report_follows_the_run(cluster, queued):
    for job in queued.undisturbed:
        cluster.wait(job)
    assert (cluster.work / "undisturbed" / "report.html").is_file()
    assert cluster.row(queued.undisturbed[0])["state"] == "COMPLETED"


def test_a_sweep_is_an_array_and_a_report_follows_each_of_its_runs(cluster, queued):
    assert [id.partition("_")[2] for id in queued.sweep] == ["0", "1", "0", "1"]
    for id in queued.sweep:
        cluster.wait(id)
    for mode in MODES:
        run = cluster.work / "sweep" / f"parallel.mode={mode}"
        assert saved_config(run / CONFIG).parallel.mode == mode
        assert (run / "report.html").is_file()


def test_four_ranks_on_two_nodes_train_by_ddp_and_by_fsdp(cluster, queued):
    for job in (queued.undisturbed[0], *queued.sweep):
        cluster.wait(job)
    expected = losses(cluster.work / "undisturbed")[:3]
    for mode in MODES:
        run = cluster.work / "sweep" / f"parallel.mode={mode}"
        assert losses(run) == pytest.approx(expected, rel=1e-3)
        assert json.loads((run / "environment.json").read_text())["processes"] == 4


def test_a_rank_killed_thrice_at_the_same_step_stops_the_job(cluster, queued):
    cluster.wait(queued.dying, "FAILED")
    history = cluster.history(queued.dying)
    assert [attempt.code for attempt in history] == [128 + signal.SIGXCPU] * 3
    log = cluster.ask("logs", queued.dying)
    assert (
        "failed 3 times before its first step, the last time: a process was killed by signal 24"
        in log
    )
    first, second, third = (attempt.when for attempt in history)
    assert second - first >= 1  # the backoff, doubled after each
    assert third - second >= 2


def test_gpus_that_pytorch_does_not_see_end_the_job_at_once(cluster, queued):
    cluster.wait(queued.blind, "FAILED")
    (only,) = cluster.history(queued.blind)  # another attempt would end alike
    assert only.code == 2
    assert "1 GPUs per node were asked for and PyTorch" in only.told


def test_a_run_that_went_through_everything_has_the_same_losses(cluster, queued, train):
    cluster.wait(queued.undisturbed[0])
    (job,) = train("disturbed", *COMMON, *TWO, *ALONE)
    run = cluster.work / "disturbed"

    def gets_on() -> int:
        """Wait until it has trained on, in a new attempt; where it is then."""
        before = step(run)
        cluster.until(lambda: step(run) >= before + 2, job)
        return step(run)

    def stops() -> None:
        cluster.until(lambda: cluster.state(job) != "RUNNING", job)

    # The signal that comes before the time limit (which `limited` waits for).
    gets_on()
    command("scancel", "--signal=USR2", job)
    stops()
    # An operator queues it again.
    gets_on()
    command("scontrol", "requeue", job)
    stops()
    # A job of higher priority wants its nodes.
    gets_on()
    command(
        "sbatch",
        "-p",
        "main",
        "-w",
        "node1,node2",
        "-N2",
        "--exclusive",
        "-o",
        "/dev/null",
        "--wrap",
        "sleep 1",
    )
    stops()
    # The node of rank 0 is lost, and comes back.
    gets_on()
    lose("node1")
    stops()
    restart_nodes()
    # A rank dies.
    gets_on()
    kill(job, 1)
    cluster.wait(job)

    codes = [attempt.code for attempt in cluster.history(job)]
    assert codes[0] == 75
    assert codes[-2] in (1, 137)
    assert codes[-1] == 0
    assert losses(run) == losses(cluster.work / "undisturbed")
    assert len(losses(run)) == 80
    audited = CliRunner().invoke(app, ["audit", str(run)])
    assert audited.exit_code == 0, audited.output


def test_a_run_in_the_queue_is_refused_a_second_time(cluster, train):
    (job,) = train("twice", *COMMON, "--set", "sbatch={begin: now+1hour}")
    with pytest.raises(InputError, match=f"job {job} of it is pending already"):
        train("twice", *COMMON)
    assert job in cluster.ask("cancel", job)
    cluster.wait(job, "CANCELLED")


def test_a_cluster_without_accounting(cluster, shards, tmp_path_factory):
    port = str(int(os.environ["SLURM_LAB_PORT"]) + 5000)
    kept = {
        key: os.environ[key] for key in ("SLURM_LAB_DIR", "SLURM_LAB_PORT", "PATH", "SLURM_CONF")
    }
    settings = {
        "SLURM_LAB_ACCT": "none",
        "SLURM_LAB_NODES": "1",
        "SLURM_LAB_NET": "loopback",
        "SLURM_LAB_PORT": port,
    }
    with started(**settings):
        small = Cluster(tmp_path_factory.mktemp("plain"))
        (job,) = small.launch("--time", "10", "--", "shards", "stats", str(shards))
        small.wait(job)
        (bad,) = small.launch("--time", "10", "--", "shards", "stats", str(small.work / "nowhere"))
        small.wait(bad, "FAILED")
        assert small.history(bad)[0].code == 2
        told = small.ask("status")
        assert "COMPLETED" in told
        assert "FAILED" in told
    assert {key: os.environ[key] for key in kept} == kept


def test_the_suite_says_why_it_is_skipped(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    assert "slurmctld" in missing()
