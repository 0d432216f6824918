"""seer watch: what a run directory tells while someone writes there."""

import io
import json
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from seer import jsonl
from seer.report.watch import TAIL, line, remarks, sparkline, status, table, watch
from tests.report.conftest import metric, result, titled, write_run

NOW = 1_000_000.0


def age(run: Path, seconds: float) -> None:
    """As if everything in `run` had been written so long before `NOW`."""
    for path in [p for p in run.iterdir() if p.is_file()]:
        os.utime(path, (NOW - seconds, NOW - seconds))


def lines(run: Path, *events: dict) -> None:
    (run / "health.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def symptom(step: int, name: str = "collapse") -> dict:
    why = {"why": "all images get nearly the same embedding", "remedy": "lower schedule.peak"}
    return {"step": step, "event": "symptom", "name": name, **why}


@pytest.fixture
def half(tmp_path) -> Path:
    """A run of 100 steps after 50 of them, two seconds and 32 images each."""
    run = write_run(tmp_path / "half", steps=50)
    age(run, 1)
    return run


def test_a_run_under_way(half):
    found = status(half, NOW)
    assert (found.state, found.step, found.steps) == ("training", 50, 100)
    assert found.left == pytest.approx(100)
    assert found.images_per_second == pytest.approx(16)
    assert (found.loss, found.data_wait, found.silent) == (3.5, 0.1, 1.0)
    assert found.signs == {"perplexity": 20.0}
    assert line(found).endswith(
        "step 50 of 100 · loss 3.5 · 16 images/s · waiting for data 10% · 1m 40s left · well"
    )
    assert remarks([found]) == []


def test_a_half_written_line_is_not_there_yet(half):
    with (half / "metrics.jsonl").open("a") as file:
        file.write('{"step": 51, "lo')
    assert status(half, NOW).step == 50


def test_only_the_end_of_a_long_log_is_read(half):
    (half / "config.yaml").write_text("steps: 5000")
    rows = [metric(step) for step in range(1, 3000)]
    jsonl.write(half / "metrics.jsonl", rows)
    assert (half / "metrics.jsonl").stat().st_size > 2 * TAIL
    assert status(half, NOW).step == 2999
    assert jsonl.tail(half / "metrics.jsonl", 10) == []
    assert jsonl.tail(half / "metrics.jsonl", 10**9) == rows
    assert jsonl.tail(half / "nothing.jsonl", 10) == []


def test_a_run_that_says_nothing(half):
    age(half, 61)  # two seconds a step; nobody calls a minute silence
    assert status(half, NOW - 2).state == "training"
    found = status(half, NOW)
    assert (found.state, found.left) == ("silent", None)
    assert "no news for 1m 01s: stopped or died" in remarks([found])[0]
    assert "continues it from the beginning" in remarks([found])[0]
    (half / "checkpoints/step-000000040").mkdir(parents=True)
    (half / "checkpoints/step-000000040/header.json").write_text("{}")
    (half / "checkpoints/.step-000000050.tmp").mkdir()
    assert "continues it after step 40, its newest checkpoint" in remarks([status(half, NOW)])[0]


def test_slow_steps_are_no_silence(tmp_path):
    run = write_run(tmp_path / "slow", steps=3)
    jsonl.write(run / "metrics.jsonl", [metric(step, seconds=300.0 * step) for step in (1, 2, 3)])
    age(run, 2000)
    assert status(run, NOW).state == "training"
    age(run, 3001)
    assert status(run, NOW).state == "silent"


def test_beginnings_and_the_end(tmp_path):
    assert status(tmp_path / "none").state == "missing"
    assert "no such directory" in remarks([status(tmp_path / "none")])[0]
    (tmp_path / "empty").mkdir()
    assert status(tmp_path / "empty").state == "empty"
    assert "neither config.yaml nor metrics.jsonl" in remarks([status(tmp_path / "empty")])[0]
    begun = write_run(tmp_path / "begun", steps=0)
    age(begun, 1000)
    assert (status(begun, NOW).state, status(begun, NOW).step) == ("starting", 0)
    done = write_run(tmp_path / "done", steps=100)
    age(done, 10**5)
    assert (status(done, NOW).state, status(done, NOW).left) == ("done", None)


def test_health(half):
    lines(half, {"step": 3, "event": "not_applied", "why": ""}, {"step": 3, "event": "not_applied", "why": ""},
          symptom(20, "flat_assignments"), symptom(30), symptom(40, "few_prototypes"),
          {"step": 45, "event": "rollback", "why": "", "to": 35, "skipped": [44, 45]},
          {"step": 48, "event": "recovered", "name": "flat_assignments"})  # fmt: skip
    jsonl.write(half / "skipped.jsonl", [{"step": 44}, {"step": 45}])
    found = status(half, NOW)
    assert [a.name for a in found.ailments] == ["collapse"]
    assert found.health() == "collapse, 1 not applied, 1 rolled back, 2 skipped"
    assert remarks([found])[0].endswith("Collapse since step 30: all images get nearly the same embedding; lower "
                                        "schedule.peak")  # fmt: skip


@pytest.mark.parametrize("event", ["paused", "diverged"])
def test_a_run_that_its_health_stopped(half, event):
    lines(half, {"step": 50, "event": event, "why": "so"})
    os.utime(half / "health.jsonl", (NOW - 1, NOW - 1))
    assert status(half, NOW).state == event
    os.utime(half / "config.yaml", (NOW, NOW))  # continued, before its first row
    assert status(half, NOW).state == "training"
    os.utime(half / "config.yaml", (NOW - 1, NOW - 1))
    os.utime(half / "metrics.jsonl", (NOW, NOW))  # continued
    assert status(half, NOW).state == "training"


def test_the_plan_beside_what_came(half):
    jsonl.append(
        half / "metrics.jsonl", [metric(51, planned_images_per_second=20.0, planned_memory_gib=3.0)]
    )
    found = status(half, NOW)
    assert found.of_plan == {"images_per_second": 0.8}
    assert "of plan: images per second 80%" in line(found)


def scored(step: int, value: float, model: str = "", **changes) -> dict:
    row = titled(result(model or f"half step-{step:09d}", value)) | {
        "step": step,
        "comparable": "c",
    }
    return row | changes


def test_the_newest_score_beside_untrained_and_pixels(half):
    rows = [scored(0, 0.3, "half untrained"), scored(0, 0.457, "pixels:24"), scored(40, 0.5)]
    jsonl.write(half / "scores.jsonl", rows)
    age(half, 1)
    newest = "kNN top-1, k = 20 50.0 % at step 40 (untrained 30.0 %, raw pixels 45.7 %)"
    assert f" · {newest}" in line(status(half, NOW))
    assert remarks([status(half, NOW)]) == []
    worse = {"pixels": {"difference": -0.04, "low": -0.06, "high": -0.02, "p": 0.0003}}
    rows += [scored(40, 0.41, against=worse)]
    jsonl.write(half / "scores.jsonl", rows)
    assert remarks([status(half, NOW)]) == []  # networks begin there
    rows += [scored(50, 0.417, against=worse)]
    jsonl.write(half / "scores.jsonl", rows)
    (remark,) = remarks([status(half, NOW)])
    assert "of step 50 is 41.7 %, below raw pixels by more than chance: -4.0 [-6.0, -2.0]" in remark
    out = io.StringIO()
    Console(file=out, width=400).print(table([status(half, NOW)], 400))
    assert "20 41.7 % at step 50 (untrained 30.0 %, raw pixels 45.7 %)" in out.getvalue()


def test_the_course_of_a_loss():
    assert sparkline([1.0, 2.0, 3.0]) == "▁▅█"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([]) == ""
    assert len(sparkline(list(range(100)))) == 16


def shown(width: int = 120, terminal: bool = False, **options) -> str:
    out = io.StringIO()
    watch(console=Console(file=out, force_terminal=terminal, width=width, no_color=True), **options)
    return out.getvalue()


def test_one_table_of_several_runs(tmp_path):
    text = shown(runs=[write_run(tmp_path / "half", steps=50), tmp_path / "none"], once=True)
    header, first, second, remark = text.splitlines()
    assert header.split() == [
        "run",
        "state",
        "step",
        "left",
        "loss",
        "course",
        "images/s",
        "wait",
        "health",
    ]
    assert first.split()[1:7] == ["training", "50", "(50%)", "1m", "40s", "3.5"]
    assert second.split() == [str(tmp_path / "none"), "missing"]
    assert (
        remark
        == f"{tmp_path / 'none'}: no such directory; a job that waits for its turn has none yet"
    )


def test_a_narrow_terminal_shows_all_that_counts(half):
    text = shown(width=70, terminal=True, runs=[half], once=True)
    assert "course" not in text
    assert all(word in text for word in ("50 (50%)", "3.5", "health", "well"))


def test_a_terminal_and_a_log_follow_until_the_end(tmp_path, capsys):
    done = write_run(tmp_path / "done", steps=100)
    assert "done" in shown(terminal=True, runs=[done], every=0.01)
    shown(runs=[done], every=0.01)
    assert capsys.readouterr().out.rstrip().endswith("done: done · step 100 of 100 · loss 3 · 16 images/s · "
                                                     "waiting for data 10% · well")  # fmt: skip


def test_a_log_has_a_line_for_every_change(half, monkeypatch, capsys):
    steps = iter([60, 60, 100])

    def go_on(_: float) -> None:
        step = next(steps)
        jsonl.append(half / "metrics.jsonl", [metric(step)])

    monkeypatch.setattr(time, "sleep", go_on)
    watch([half], console=Console(file=io.StringIO()))
    told = capsys.readouterr().out
    assert [step for step in ("50", "60", "100") if f"step {step} of 100" in told] == [
        "50",
        "60",
        "100",
    ]
    assert told.count("step 60") == 1


def test_the_command_line(half, capsys):
    from seer.cli import app

    with pytest.raises(SystemExit) as ended:
        app(["watch", str(half), "--json", "-"])
    assert ended.value.code == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["run"], found["step"]) == (str(half), 50)
