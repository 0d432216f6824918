"""Runs that diverge: what is taken back, what is passed over, and that nothing else changes."""

import json
import re
from pathlib import Path

import pytest
import torch

from seer import jsonl
from seer.checks.audit import audit, batch
from seer.data import ledger
from seer.data.loader import Loader
from seer.errors import DivergedError, PausedError
from seer.pretrain.recipe import load_config
from seer.pretrain.run import run
from seer.processes import spawn
from seer.report.watch import status
from seer.rundir.names import SKIPPED
from tests.kit.runs import rows

SETTINGS = [
    "precision=fp64",
    "steps=8",
    "checkpoint.every=2",
    "health.patience=2",
    "parallel.mode=ddp",
]
GUILTY = [4, 5, 6]  # steps 5 and 6 are not finite, and step 4 was applied before them


def poisoned_run(config, steps: tuple[int, ...]) -> None:
    """A run in which the last rank's views of `steps` (from 1) are not numbers."""
    iterate = Loader.iterate

    def poisoned(self, start, stop, skipped=()):
        numbers = [step for step in range(start, stop) if step not in skipped]
        for number, views in zip(numbers, iterate(self, start, stop, skipped), strict=True):
            if number + 1 in steps and self.rank == self.task.world_size - 1:
                views.crops[0][0, 0, 0, 0, 0] = float("nan")
            yield views

    Loader.iterate = poisoned
    try:
        run(config)
    finally:
        Loader.iterate = iterate


@pytest.fixture(scope="module")
def make(tiny, shards, tmp_path_factory):
    root = tmp_path_factory.mktemp("rollback")

    def make(
        name: str,
        poisoned: tuple[int, ...],
        *overrides: str,
        nproc: int = 1,
        told: tuple[int, ...] = (),
    ) -> Path:
        config = load_config(
            tiny, [f"data={shards}", f"run_dir={root / name}", *SETTINGS, *overrides]
        )
        if told:
            (root / name).mkdir()
            ledger.skip(root / name, told, "told beforehand")
        if nproc > 1:
            spawn(poisoned_run, nproc, config, poisoned, device="cpu")
        else:
            poisoned_run(config, poisoned)
        return root / name

    make.root = root
    return make


@pytest.fixture(scope="module")
def foreseen(make):
    """The losses of an undisturbed run that was told beforehand which steps to pass over."""
    return {row["step"]: row["loss"] for row in rows(make("foreseen", (), told=GUILTY))}


@pytest.fixture(scope="module")
def poisoned(make):
    """By number of processes, a run that found out itself."""
    return {nproc: make(f"poisoned{nproc}", (5, 6), nproc=nproc) for nproc in (1, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("nproc", [1, 2])
def test_steps_that_are_not_finite_lead_back_and_are_passed_over(poisoned, foreseen, nproc):
    run_dir = poisoned[nproc]
    found = {row["step"]: row["loss"] for row in rows(run_dir)}
    assert found.keys() == {1, 2, 3, 7, 8} == foreseen.keys()
    assert found == (foreseen if nproc == 1 else pytest.approx(foreseen, abs=1e-9))
    (event,) = [row for row in jsonl.read(run_dir / "health.jsonl") if row["event"] == "rollback"]
    assert (event["step"], event["to"], event["skipped"]) == (6, 2, [4, 6])
    skipped = jsonl.read(run_dir / SKIPPED)
    assert [row["step"] for row in skipped] == GUILTY
    for row in skipped:
        assert row["keys"] == [sample["key"] for sample in batch(run_dir, row["step"])]


def test_the_audit_names_what_was_passed_over(poisoned):
    run_dir = poisoned[1]
    key = batch(run_dir, 5)[0]["key"]
    found = audit(run_dir, [key])
    assert found.exact
    assert (found.steps, found.samples, found.skipped) == (8, 40, GUILTY)
    assert found.fingerprints == 5
    assert (found.least, found.most) == (0, 2)  # 64 places, 24 of them passed over, 40 images
    assert 5 in found.found[key]
    text = "\n".join(found.lines())
    assert "steps 4-6: skipped after a rollback, entered in the ledger" in text
    assert f"{key}: " in text
    assert re.search("skipped at .*5.*, entered in the ledger", text)


def test_steps_that_were_taken_after_all_are_noticed(poisoned, tmp_path):
    for name in ("config.yaml", "manifest.parquet", "metrics.jsonl"):
        (tmp_path / name).write_bytes((poisoned[1] / name).read_bytes())
    assert audit(tmp_path).wrong == [7, 8]
    ledger.skip(tmp_path, [3, *GUILTY], "step 3 was taken")
    assert audit(tmp_path).wrong == [3, 7, 8]


def test_without_a_checkpoint_there_is_no_way_back(make):
    with pytest.raises(
        DivergedError, match=r"step 2: 2 steps in a row .* no checkpoint to go back to; lower"
    ):
        make("hopeless", (1, 2))


def test_rollbacks_are_bounded_also_over_restarts(make):
    for _ in range(2):
        with pytest.raises(DivergedError, match=r"after 1 rollbacks \(health.rollbacks=1\)"):
            make("stubborn", (3, 4, 6, 7), "health.rollbacks=1", "health.patience=1")


def test_one_bad_step_is_left_out_and_nothing_else(make):
    run_dir = make("single", (5,))
    found = rows(run_dir)
    assert [row["loss"] is None for row in found] == [step == 5 for step in range(1, 9)]
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in found if row["step"] != 5)
    assert json.loads((run_dir / "health.jsonl").read_text())["event"] == "not_applied"
    assert audit(run_dir).exact


LOOK = [
    "health.every=1",
    "health.grace=0",
    "health.patience=2",
    "schedule.warmup=0",
    "steps=4",
    "checkpoint.every=100",
]


def test_a_collapsed_run_pauses_and_goes_on_when_told_again(make):
    flat = [*LOOK, "method.epsilon=100", "health.act=pause"]
    with pytest.raises(
        PausedError, match=r"paused after step 2: images are assigned to all .*; lower"
    ):
        make("collapsed", (), *flat)
    run_dir = make("collapsed", (), *flat)
    assert [path.name for path in sorted((run_dir / "checkpoints").iterdir())] == [
        "step-000000002",
        "step-000000004",
    ]
    assert [row["step"] for row in rows(run_dir)] == [1, 2, 3, 4]
    assert [a.name for a in status(run_dir).ailments] == ["flat_assignments"]
    assert status(run_dir).state == "done"


def test_a_healthy_run_shows_no_symptom(make):
    run_dir = make("healthy", (), *LOOK)
    assert not (run_dir / "health.jsonl").exists()
    assert all(row["effective_rank"] > 2 for row in rows(run_dir))
    assert status(run_dir).health() == "well"


def test_a_collapse_may_lead_back(make):
    overrides = [
        *LOOK,
        "method.epsilon=100",
        "health.act=rollback",
        "checkpoint.every=1",
        "health.rollbacks=1",
    ]
    with pytest.raises(DivergedError, match="after 1 rollbacks"):
        make("back", (), *overrides)
    (event,) = [
        row for row in jsonl.read(make.root / "back/health.jsonl") if row["event"] == "rollback"
    ]
    assert (event["step"], event["to"], event["skipped"]) == (2, 1, [2, 2])
    (skipped,) = jsonl.read(make.root / "back" / SKIPPED)
    assert skipped.keys() == {"step", "why"}  # no sample in particular is to blame
