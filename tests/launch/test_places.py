"""Whole launches on this host: alone, by torchrun, and after failures."""

import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch import attempts, torchrun
from launch.cli import app
from launch.cli import torchrun as verb
from launch.job import Job, Resources
from seer import distributed
from seer.pretrain.recipe import load_config
from seer.pretrain.run import run
from tests.kit.runs import SMALL, losses

ROOT = str(Path(distributed.__file__).parent.parent)


def launch(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_nothing_is_lost(tiny, shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = _watch_processes(monkeypatch)
    settings = [f"data={shards}", "steps=12", *SMALL, "precision=fp64", "device=cpu"]
    run(load_config(tiny, [*settings, "run_dir=whole"]))

    def kill() -> None:
        metrics = tmp_path / "parts/metrics.jsonl"
        while not metrics.is_file() or len(metrics.read_bytes().splitlines()) < 3:
            time.sleep(0.005)
        os.kill(started[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    arguments = (
        "local",
        "--tasks-per-node",
        "2",
        "--backoff",
        "0",
        "--",
        "pretrain",
        tiny,
        *settings,
        "checkpoint.every=2",
        "parallel.mode=ddp",
        "run_dir=parts",
    )
    result = launch(*arguments, "--then", "report", "{run}")
    thread.join()
    assert result.exit_code == 0, result.exception
    folder = sorted((tmp_path / "jobs").iterdir())[-1]
    assert [a.code for a in attempts.read(folder, "0-0")] == [1, 0]
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-9)
    assert (tmp_path / "parts/report.html").is_file()


def _watch_processes(monkeypatch) -> list[int]:
    """The ids of the processes that `spawn` starts from now on."""
    from seer import processes

    started: list[int] = []
    collect = processes._collect

    def note(processes, pipes):
        started.extend(process.pid for process in processes)
        return collect(processes, pipes)

    monkeypatch.setattr(processes, "_collect", note)
    return started


@pytest.mark.slow
def test_the_same_step_failing_thrice_stops_the_job(tiny, shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEER_HANG_SECONDS", "0.001")  # every step takes longer, and is held to hang
    result = launch("local", "--backoff", "0", "--", "pretrain", tiny, f"data={shards}", "steps=30", "device=cpu",
                    "run_dir=run")  # fmt: skip
    assert result.exit_code == 1
    assert "failed 3 times before its first step" in result.stderr
    (folder,) = (tmp_path / "jobs").iterdir()
    assert [a.code for a in attempts.read(folder, "0-0")] == [1, 1, 1]


def test_a_run_that_diverged_is_not_tried_again(tiny, shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    diverging = [
        "schedule.peak=1e30",
        "schedule.start=1e30",
        "schedule.final=1e30",
        "optim.larc=false",
    ]
    result = launch("local", "--backoff", "0", "--", "pretrain", tiny, f"data={shards}", "steps=30", "device=cpu",
                    "run_dir=run", *diverging)  # fmt: skip
    assert result.exit_code == 1
    assert "another attempt would end alike" in result.stderr
    (folder,) = (tmp_path / "jobs").iterdir()
    assert [a.code for a in attempts.read(folder, "0-0")] == [2]


def test_gpus_that_are_not_there_are_refused_before_anything_is_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("local", "torchrun"):
        result = launch(
            place, "--gpus-per-node", "512", "--tasks-per-node", "1", "--", "report", "r"
        )
        assert "--gpus-per-node 512: PyTorch sees" in str(result.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_torchrun_on_two_hosts(tiny, shards, tmp_path, monkeypatch):
    """Both are this machine; each runs the same command with a number of its own."""
    monkeypatch.setenv("PYTHONPATH", ROOT)
    monkeypatch.chdir(tmp_path)
    short = ["steps=2", "schedule.warmup=0", *SMALL, "backbone.name=regnety_002"]
    where = [f"data={shards}", "run_dir=run", "parallel.mode=ddp", "device=cpu"]

    def host(number: int) -> None:
        verb(
            ["pretrain", tiny, *short, *where],
            2,
            number,
            "localhost:29613",
            jobs=Path(f"jobs{number}"),
        )

    with ThreadPoolExecutor() as hosts:
        list(hosts.map(host, range(2)))
    assert len(losses(tmp_path / "run")) == 2
    assert json.loads((tmp_path / "run/environment.json").read_text())["processes"] == 2


def test_the_command_of_one_host():
    job = Job("pretrain", ("r",), Resources(4, 8, 8), folder="/f")
    words = torchrun.command(job, "host0:29500", 3)
    for word in (
        "--nnodes=4",
        "--nproc-per-node=8",
        "--node-rank=3",
        "--rdzv-endpoint=host0:29500",
    ):
        assert word in words
    assert words[-5:] == ["-m", "launch", "job", "/f", "0-0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--nodes", "2"), "--endpoint: more than one"),
        (("--node-rank", "1"), "--node-rank 1"),
        (("--nodes", "2", "--endpoint", "localhost:http"), "--endpoint localhost:http: no port"),
        (
            ("--nodes", "2", "--endpoint", "192.0.2.1:29500"),
            "--endpoint 192.0.2.1:29500: cannot assign",
        ),
    ],
)
def test_hosts_need_a_place_to_meet(options, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert message in str(launch("torchrun", *options, "--", "report", "r").exception)


def test_a_port_in_use_is_refused_where_the_hosts_would_meet(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
        told = launch(
            "torchrun", "--nodes", "2", "--endpoint", endpoint, "--", "report", "r"
        ).exception
    assert f"--endpoint {endpoint}: address already in use; give" in str(told)
