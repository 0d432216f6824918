"""A run computes with as many threads as it began with."""

import json

import pytest
import torch

from seer.distributed import World
from seer.engine.threads import keep_threads


@pytest.fixture
def two_threads(monkeypatch):
    """As on two cores, without a word from the user."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("ran_on", "threads"),
    [
        ({"threads": 3, "processes": 1}, 3),
        ({"threads": 3, "processes": 4}, 2),  # its sums were of four processes anyhow
        ({"threads": 10**9, "processes": 1}, 2),  # a stranger's
        ({"processes": 1}, 2),
        (None, 2),
    ],
)
def test_a_continued_run_takes_the_threads_that_it_began_with(
    two_threads, tmp_path, ran_on, threads
):
    if ran_on:
        (tmp_path / "environment.json").write_text(json.dumps(ran_on))
    keep_threads(tmp_path, World())
    assert torch.get_num_threads() == threads


def test_the_user_decides(two_threads, tmp_path, monkeypatch):
    (tmp_path / "environment.json").write_text(json.dumps({"threads": 3, "processes": 1}))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    keep_threads(tmp_path, World())
    assert torch.get_num_threads() == 2


def test_more_threads_than_cores_are_told(two_threads, tmp_path, monkeypatch, caplog):
    (tmp_path / "environment.json").write_text(json.dumps({"threads": 4, "processes": 1}))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    keep_threads(tmp_path, World())
    assert "4 threads as the run began with, and 2 cores here; OMP_NUM_THREADS=2" in caplog.text
