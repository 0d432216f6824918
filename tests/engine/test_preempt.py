"""Runs that are asked to stop."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from seer.distributed import rank
from seer.engine.preempt import SIGNALS, StopRequest, Watchdog, agree
from seer.errors import StoppedError
from seer.pretrain import run
from seer.pretrain.recipe import load_config
from seer.processes import spawn
from tests.kit.interruptions import Terminal
from tests.kit.runs import SMALL, losses, rows


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopRequest() as asked:
        assert not asked.by
        os.kill(os.getpid(), number)
        assert asked.by == number.name
    assert signal.getsignal(number) is before


def _votes(asked_of: int, bad_on: int):
    loss = torch.tensor(float("nan") if rank() == bad_on else 1.0)
    return tuple(agree(loss, torch.ones(()), asked=rank() == asked_of))[:2]


def test_one_rank_decides_for_all():
    assert spawn(_votes, 2, 1, -1, device="cpu") == [(True, True)] * 2
    assert spawn(_votes, 2, -1, 0, device="cpu") == [(False, False)] * 2


def interrupt_after(run: Path, step: int, number: int) -> threading.Thread:
    """Send this process a signal once the run has logged a step."""

    def wait() -> None:
        metrics = run / "metrics.jsonl"
        while not metrics.is_file() or len(metrics.read_bytes().splitlines()) < step:
            time.sleep(0.005)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
def test_ranks_that_were_stopped_go_on_as_if_they_had_not_been(tiny, shards, tmp_path):
    """tests/test_interruptions.py has runs of one process."""
    settings = [*SMALL, "steps=16", "parallel.mode=ddp"]

    def train(place: str) -> Path:
        config = load_config(tiny, [f"data={shards}", f"run_dir={tmp_path / place}", *settings])
        return spawn(run.run, 2, config, device="cpu")[0]

    whole = train("whole")
    thread = interrupt_after(tmp_path / "parts", 3, signal.SIGTERM)
    with pytest.raises(StoppedError, match=r"stopped after step \d+ as asked"):
        train("parts")
    thread.join()
    done = rows(tmp_path / "parts")[-1]["step"]
    assert 3 <= done < 16
    assert [path.name for path in (tmp_path / "parts/checkpoints").iterdir()] == [
        f"step-{done:09d}"
    ]
    assert losses(train("parts")) == losses(whole)


def test_a_hung_step_ends_with_the_stack_on_stderr(monkeypatch):
    monkeypatch.setenv("SEER_HANG_SECONDS", "0.5")

    def collective_that_never_ends() -> None:
        time.sleep(600)

    def hang() -> None:
        with Watchdog() as watchdog:
            for _ in range(3):
                watchdog.beat()
            collective_that_never_ends()

    terminal = Terminal(hang)
    assert terminal.wait(120) == 1
    assert b"collective_that_never_ends" in terminal.output
    terminal.close()
