"""The checkpoints of a run, scored as they appear."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from seer import cli
from seer.backbones import build
from seer.engine.checkpoint.header import FORMAT, hash_of
from seer.errors import InputError
from seer.eval import following, outcomes, pixels
from seer.eval.following import Scorer, score_run
from seer.eval.paired import Difference, mcnemar
from seer.eval.task import evaluate
from seer.files import sha256
from seer.interop.models import save_backbone
from seer.rundir.lock import locked, locked_for_scoring
from seer.rundir.names import BACKBONE, HEADER, checkpoint_name
from seer.rundir.rundir import RunDir
from tests.kit import networks  # noqa: F401  # the backbone

QUICK = ["k=[5]", "lrs=[0.1]", "epochs=2"]
MEAN = [0.5, 0.4, 0.3]
STD = [0.2, 0.3, 0.4]


def write_checkpoint(run: Path, step: int, seed: int | None = None) -> Path:
    """A finished checkpoint of a backbone with weights by its seed, else by its step."""
    torch.manual_seed(step if seed is None else seed)
    backbone = build("regnety_tiny")
    folder = run / "checkpoints" / checkpoint_name(step)
    folder.mkdir(parents=True)
    file = folder / BACKBONE
    save_backbone(file, backbone.state_dict(), backbone.config, 16, MEAN, STD, {"step": step})
    header = {"format": FORMAT, "step": step, "files": {BACKBONE: {"sha256": sha256(file)}}}
    (folder / HEADER).write_text(json.dumps(header | {"sha256": hash_of(header)}))
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of 50 steps with checkpoints after 10 and 20."""
    path = tmp_path / "a run"
    path.mkdir()
    config = {
        "seed": 7,
        "steps": 50,
        "backbone": {"name": "regnety_tiny"},
        "views": {"large": {"size": 16, "count": 2}},
        "mean": MEAN,
        "std": STD,
        "checkpoint": {"every": 10},
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    write_checkpoint(path, 10)
    write_checkpoint(path, 20)
    return path


@pytest.fixture
def loaded(monkeypatch) -> list[str]:
    """The models that are loaded, by their last words."""
    specs: list[str] = []
    load = pixels.load

    def noted(spec, train):
        specs.append(spec.rpartition(":")[2])
        return load(spec, train)

    monkeypatch.setattr(pixels, "load", noted)
    return specs


def score(run: Path, data: Path, **options) -> tuple[list[dict], list[str]]:
    """The rows of a run once it is scored, and what was said."""
    told: list[str] = []
    rows = score_run(run, str(data), QUICK, tell=told.append, **options)
    kept = {row["comparable"] for row in rows}
    assert rows == [row for row in RunDir(run).scores() if row["comparable"] in kept]
    return rows, told


def test_scores_are_those_of_eval_with_their_step_and_paired_differences(run, data, tmp_path):
    rows, told = score(run, data)
    assert [(row["step"], row["task"]) for row in rows] == [
        (step, task) for step in (0, 0, 10, 20) for task in ("knn", "linear")
    ]
    assert [row["model"] for row in rows[:4]] == ["a run untrained"] * 2 + ["pixels:24"] * 2
    assert not (run / "results.jsonl").exists()
    assert not (run / "images").exists()  # whose picture is of what was evaluated by itself
    out = tmp_path / "elsewhere" / "results.jsonl"
    expected = evaluate("knn", f"{run}:step-20", data, QUICK[:1], out)[0]
    row = rows[6]
    same = ("value", "low", "high", "model", "config_hash", "comparable", "title", "options")
    assert {key: row[key] for key in same} == {key: expected[key] for key in same}
    evaluate("knn", "pixels", data, QUICK[:1], out)
    hits = outcomes.read(out, expected)["hits"]
    raw = outcomes.read(run / "scores.jsonl", rows[2])["hits"]
    difference = mcnemar(hits, raw)
    assert row["against"]["pixels"]["difference"] == pytest.approx(row["value"] - rows[2]["value"])
    assert row["against"]["pixels"]["p"] == difference.p
    assert row["against"].keys() == {"untrained", "pixels"}
    assert "untrained" in told[-1]
    assert "raw pixels" in told[-1]


def test_one_below_raw_pixels_is_told_from_half_of_the_run_on(run, data, monkeypatch):
    monkeypatch.setattr(following, "compare", lambda *_: Difference(-0.2, -0.3, -0.1, 0.001))
    write_checkpoint(run, 30)
    _, told = score(run, data, tasks=["knn"])
    assert [line[:8] for line in told[:3]] == ["step 10:", "step 20:", "step 30:"]
    assert "below raw pixels by more than chance: -20.0 [-30.0, -10.0], p = 0.001; " in told[3]
    assert len(told) == 4


def test_what_is_scored_is_not_scored_again_but_other_weights_of_a_step_are(run, data, loaded):
    score(run, data)
    loaded.clear()
    score(run, data)
    assert loaded == []
    write_checkpoint(run, 30)
    shutil.rmtree(write_checkpoint(run, 40).with_name(checkpoint_name(20)))
    write_checkpoint(run, 20, seed=99)  # the run went back, and came there again
    score(run, data)
    assert loaded == ["step-20", "step-30", "step-40"]
    score(run, data, tasks=["knn"])
    score(run, data, every=20)
    assert len(loaded) == 3


def test_only_tasks_that_lack_a_score_are_run(run, data, monkeypatch):
    measured: list[str] = []
    rows_of = following.rows_of

    def counted(task, *measurement):
        measured.append(task)
        return rows_of(task, *measurement)

    monkeypatch.setattr(following, "rows_of", counted)
    score(run, data, tasks=["linear"])
    assert measured == ["linear"] * 4  # untrained, pixels, two checkpoints
    measured.clear()
    score(run, data)
    assert measured == ["knn"] * 4
    lines = (run / "scores.jsonl").read_text()
    (run / "scores.jsonl").write_text(lines[:-20])  # kNN of step 20
    measured.clear()
    rows, _ = score(run, data)
    assert measured == ["knn"]
    assert len(rows) == 8


def test_each_so_many_steps_and_the_last(run, data, loaded):
    write_checkpoint(run, 50)
    score(run, data, every=20)
    assert loaded[2:] == ["step-20", "step-50"]


def test_spacings_that_meet_seldom_are_told(run, data, loaded):
    write_checkpoint(run, 30)
    _, told = score(run, data, every=15)
    assert loaded[2:] == ["step-30"]
    assert told[0] == (
        "checkpoints are saved every 10 steps: of every 15 those of each 30 are scored, and the last"
    )
    assert not any("passed over" in line for line in told)


def test_scores_that_cannot_be_written_are_told_before_any_is_measured(run, data, loaded):
    (run / "scores.jsonl").mkdir()
    with pytest.raises(
        InputError, match=r"^scores .*scores\.jsonl: cannot be written \(it is a folder"
    ):
        score(run, data)
    assert not loaded


def test_a_checkpoint_that_is_removed_before_it_is_read(run, data, monkeypatch):
    load = pixels.load

    def removed(spec, train):
        if spec.endswith("step-10"):
            shutil.rmtree(run / "checkpoints" / checkpoint_name(10))
        return load(spec, train)

    monkeypatch.setattr(pixels, "load", removed)
    rows, told = score(run, data)
    assert {row["step"] for row in rows} == {0, 20}
    assert told[0] == "the checkpoint of step 10 was removed before it was read"


def test_a_slow_host_passes_to_the_newest(run, data, loaded):
    for step in (30, 40, 50):
        write_checkpoint(run, step)
    _, told = score(run, data, follow=True)
    assert loaded[2:] == ["step-40", "step-50"]
    assert told[0] == "3 checkpoints before step 40 passed over for newer ones"
    score(run, data)
    assert loaded[4:] == ["step-10", "step-20", "step-30"]


def test_checkpoints_that_were_gone_are_counted(run, data):
    score(run, data)
    for step in (10, 20):
        shutil.rmtree(run / "checkpoints" / checkpoint_name(step))
    write_checkpoint(run, 50)
    _, told = score(run, data)
    assert told[0] == "2 checkpoints before step 50 passed over, removed before their turn"


def test_a_run_is_followed_from_before_it_begins_to_its_end(run, data, loaded, monkeypatch):
    later = run.with_name("later")
    run.rename(later)
    events = [
        lambda: later.rename(run),
        lambda: write_checkpoint(run, 30),
        lambda: write_checkpoint(run, 40),
        lambda: None,
        lambda: write_checkpoint(run, 50),
    ]
    monkeypatch.setattr(following.time, "sleep", lambda seconds: events.pop(0)())
    rows, told = score(run, data, follow=True)
    assert told[0] == f"waiting for {run}, where there is no run yet"
    assert not events
    assert sorted({row["step"] for row in rows}) == [0, 10, 20, 30, 40, 50]


def test_a_run_that_its_health_stopped_is_over(run, data, monkeypatch):
    event = {"step": 25, "event": "diverged", "why": "the loss is not finite"}
    (run / "health.jsonl").write_text(json.dumps(event) + "\n")
    monkeypatch.setattr(following.time, "sleep", lambda seconds: pytest.fail("it waited"))
    score(run, data, follow=True)


@pytest.mark.parametrize("newer", ["config.yaml", "metrics.jsonl"])
def test_one_that_was_continued_is_not_over(run, data, loaded, monkeypatch, newer):
    event = {"step": 15, "event": "paused", "why": "so"}
    (run / "health.jsonl").write_text(json.dumps(event) + "\n")
    (run / "metrics.jsonl").touch()
    for path in run.iterdir():
        os.utime(path, (1000, 1000))
    assert Scorer(run, str(data), QUICK).is_over()
    os.utime(run / newer, (1001, 1001))
    later = [lambda: write_checkpoint(run, 30), lambda: write_checkpoint(run, 50)]
    monkeypatch.setattr(following.time, "sleep", lambda seconds: later.pop(0)())
    score(run, data, follow=True, tasks=["knn"])
    assert loaded[-2:] == ["step-30", "step-50"]


def test_a_run_that_is_gone(run, data, monkeypatch):
    monkeypatch.setattr(following.time, "sleep", lambda seconds: shutil.rmtree(run))
    with pytest.raises(InputError, match="is gone"):
        score(run, data, follow=True)


def test_a_damaged_checkpoint_is_told_and_others_are_scored(run, data):
    with (run / "checkpoints" / checkpoint_name(10) / BACKBONE).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(InputError, match=r"^1 checkpoint cannot be scored: .*damaged"):
        score(run, data)
    assert {row["step"] for row in RunDir(run).scores()} == {0, 20}


def test_half_a_line_of_a_killed_writer_costs_one_score(run, data, loaded):
    score(run, data)
    lines = (run / "scores.jsonl").read_text()
    (run / "scores.jsonl").write_text(lines[:-20])  # the linear probe of step 20
    loaded.clear()
    scorer = Scorer(run, str(data), QUICK)
    assert scorer.next_checkpoint() is not None
    score_run(run, str(data), QUICK, tell=lambda line: None)
    assert loaded == ["step-20"]


def test_rows_that_cannot_be_read_are_told(run, data):
    (run / "scores.jsonl").write_text("{}\n[1]\n")
    told: list[str] = []
    Scorer(run, str(data), QUICK, tell=told.append)
    (remark,) = told
    assert remark.startswith("2 of 2 rows of scores.jsonl are not readable; the first is line 1 (")


def test_one_process_at_a_time_scores_a_run(run, data, capsys):
    with locked(run), locked_for_scoring(run):  # which the training does not keep from it
        with pytest.raises(InputError, match="another process is scoring it; wait for it") as error:
            score(run, data)
        assert type(error.value) is InputError  # no launcher tries again
        assert not (run / "scores.jsonl").exists()
    rows, _ = score(run, data, tasks=["knn"])
    assert {row["step"] for row in rows} == {0, 10, 20}


def test_the_command_line(run, data, capsys):
    cli.app(["score", str(run), f"--data={data}", *QUICK, "--json=-"], standalone_mode=False)
    rows = json.loads(capsys.readouterr().out)
    assert [(row["step"], row["metric"]) for row in rows[4:]] == [
        (step, metric) for step in (10, 20) for metric in ("top1_k5", "top1")
    ]
    assert (run / "tensorboard/score").is_dir()
    cli.app(["score", str(run), f"--data={data}", *QUICK], standalone_mode=False)
    assert capsys.readouterr().out.startswith("score: nothing new; kNN top-1, k = 5 ")
