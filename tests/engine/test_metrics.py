import itertools
import json
import logging
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from seer import jsonl
from seer.distributed import World
from seer.engine.metrics import LogConfig, RunLog, log_file, write_environment
from seer.errors import InputError
from seer.processes import spawn


def steps(log: RunLog, first: int, last: int, batch: int = 8) -> None:
    for step in range(first, last + 1):
        place = {"samples": step * batch, "lr": 0.1, "epoch": step / 4}
        log.step(
            step,
            {"loss": torch.tensor(float(step)), "prototypes_used": torch.tensor(3)},
            place,
            7 * step,
            0.25,
            0.5,
        )


def logged(run_dir: Path) -> list[int]:
    return [row["step"] for row in jsonl.read(run_dir / "metrics.jsonl")]


def test_rows_have_the_documented_keys_and_appear_first_every_nth_and_last(tmp_path):
    with RunLog(tmp_path, LogConfig(every=5, tensorboard=False), World(), 12) as log:
        steps(log, 1, 12)
    rows = jsonl.read(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 5, 10, 12]
    contract = {
        "step",
        "loss",
        "samples",
        "images_per_second",
        "data_wait",
        "time_step",
        "lr",
        "epoch",
        "seconds",
    }
    assert all(row.keys() == contract | {"memory_gib", "prototypes_used", "seen"} for row in rows)
    assert all(0.05 < row["memory_gib"] < 50 for row in rows)
    assert [row["loss"] for row in rows] == [1.0, 5.0, 10.0, 12.0]
    assert all(b["seconds"] > a["seconds"] for a, b in itertools.pairwise(rows))


def test_a_plan_stands_beside_what_happens_from_when_it_is_there(tmp_path):
    with RunLog(tmp_path, LogConfig(every=1, tensorboard=False), World(), 3) as log:
        steps(log, 1, 1)
        (tmp_path / "plan.json").write_text('{"chosen": {"images_per')  # half written
        steps(log, 2, 2)
        (tmp_path / "plan.json").write_text(
            '{"chosen": {"images_per_second": 40}, "memory_gib": {"inputs": 1, "activations": 2.5}}'
        )
        steps(log, 3, 3)
    *before, last = jsonl.read(tmp_path / "metrics.jsonl")
    assert not any("planned_memory_gib" in row for row in before)
    assert (last["planned_images_per_second"], last["planned_memory_gib"]) == (40, 3.5)


def test_rates_and_shares_are_those_of_the_window(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("seer.engine.metrics.time.perf_counter", lambda: now[0])
    log = RunLog(tmp_path, LogConfig(every=2, tensorboard=False), World(), 4)
    for step in range(1, 5):
        now[0] += 2.0
        log.step(
            step,
            {"loss": torch.tensor(1.0)},
            {"samples": step * 10},
            seen=0,
            waited=0.5,
            seconds=1.0,
        )
    log.close()
    rows = jsonl.read(tmp_path / "metrics.jsonl")
    assert [row["images_per_second"] for row in rows] == [5.0, 5.0, 5.0]
    assert [row["data_wait"] for row in rows] == [0.25] * 3
    assert [row["time_step"] for row in rows] == [0.5] * 3
    assert [row["seconds"] for row in rows] == [2.0, 4.0, 8.0]


def test_a_continued_run_logs_each_step_once_even_after_a_torn_line(tmp_path):
    with RunLog(tmp_path, LogConfig(every=1, tensorboard=False), World(), 10) as log:
        steps(log, 1, 7)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')
    before = jsonl.read(tmp_path / "metrics.jsonl")[3]["seconds"]
    with RunLog(tmp_path, LogConfig(every=1, tensorboard=False), World(), 10, start=4) as log:
        assert logged(tmp_path) == [1, 2, 3, 4]
        steps(log, 5, 10)
    assert logged(tmp_path) == list(range(1, 11))
    rows = jsonl.read(tmp_path / "metrics.jsonl")
    assert rows[4]["seconds"] > before
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


def test_a_continued_runs_first_rate_counts_only_its_own_samples(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("seer.engine.metrics.time.perf_counter", lambda: now[0])
    jsonl.append(tmp_path / "metrics.jsonl", [{"step": 20, "samples": 200, "seconds": 9.0}])
    log = RunLog(tmp_path, LogConfig(every=10, tensorboard=False), World(), 100, start=25)
    for step in range(26, 31):
        now[0] += 1.0
        log.step(step, {"loss": torch.tensor(1.0)}, {"samples": step * 10}, 0, 0.0, 1.0)
    log.close()
    assert jsonl.read(tmp_path / "metrics.jsonl")[-1]["images_per_second"] == 10.0


def test_the_console_leaves_a_processs_first_steps_out_of_its_pace(tmp_path, monkeypatch, capsys):
    """Ten images a step: 100 s for the first, 10 s for the next nine, then 1 s."""
    now = [0.0]
    monkeypatch.setattr("seer.engine.metrics.time.perf_counter", lambda: now[0])
    start = 100
    with RunLog(tmp_path, LogConfig(every=1, tensorboard=False), World(), 200, start) as log:
        for step in range(start + 1, start + 31):
            taken = step - start
            now[0] += 100.0 if taken == 1 else 10.0 if taken <= 10 else 1.0
            log.step(step, {"loss": torch.tensor(1.0)}, {"samples": 10 * step}, 0, 0.0, 1.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("loss 1.0000 · first step 100.0 s")
    assert lines[1].endswith("1 images/s · waiting for data 0 % · 0:16:20 left")  # 98 steps of 10 s
    assert lines[9].endswith("0:15:00 left")
    assert lines[10].endswith("10 images/s · waiting for data 0 % · 0:01:29 left")
    assert lines[29].endswith("0:01:10 left")


def test_the_first_row_of_a_continued_run_has_the_pace_without_its_first_step(
    tmp_path, monkeypatch, capsys
):
    now = [0.0]
    monkeypatch.setattr("seer.engine.metrics.time.perf_counter", lambda: now[0])
    with RunLog(tmp_path, LogConfig(every=10, tensorboard=False), World(), 40, start=25) as log:
        for step in range(26, 31):
            now[0] += 60.0 if step == 26 else 2.0
            log.step(step, {"loss": torch.tensor(1.0)}, {"samples": 10 * step}, 0, 0.0, 1.0)
    assert "5 images/s · waiting for data 0 % · 0:00:20 left" in capsys.readouterr().err


def test_the_loaders_work_is_logged_as_a_share_of_the_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("seer.engine.metrics.time.perf_counter", lambda: now[0])
    log = RunLog(tmp_path, LogConfig(every=2, tensorboard=False), World(), 4)
    for step in range(1, 5):
        now[0] += 2.0
        log.step(
            step,
            {"loss": torch.tensor(1.0)},
            {"samples": step},
            0,
            0.0,
            1.0,
            {"read": 0.5, "decode": 3.0},
        )
    log.close()
    last = jsonl.read(tmp_path / "metrics.jsonl")[-1]
    assert (last["time_read"], last["time_decode"]) == (0.25, 1.5)


def test_a_loss_that_is_not_a_number_is_null_in_the_file(tmp_path):
    with RunLog(tmp_path, LogConfig(every=1, tensorboard=False), World(), 1) as log:
        log.step(1, {"loss": torch.tensor(float("nan"))}, {"samples": 8}, 0, 0.0, 0.1)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] is None


def test_plain_lines_go_to_stderr_and_seer_log_and_warnings_too(tmp_path, capsys):
    with (
        log_file(tmp_path),
        RunLog(tmp_path, LogConfig(every=1, tensorboard=False), World(), 3) as log,
    ):
        logging.getLogger("seer.data").warning("damaged image a.jpg")
        steps(log, 1, 3)
    out = capsys.readouterr()
    assert out.out == ""
    assert "step 1/3 · loss 1.0000" in out.err
    assert "step 3/3" in out.err
    assert "damaged image" in out.err
    text = (tmp_path / "seer.log").read_text()
    assert "damaged image a.jpg" in text
    assert "step 2/3" in text
    log.close()
    assert not logging.getLogger("seer").handlers


def test_tensorboard_holds_each_step_once_after_continuing(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = LogConfig(every=1)
    with RunLog(tmp_path, config, World(), 6) as log:
        steps(log, 1, 5)
    with RunLog(tmp_path, config, World(), 6, start=3) as log:
        steps(log, 4, 6)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [e.value for e in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def log_on_two_ranks(run_dir: Path) -> None:
    rank = dist.get_rank()
    with RunLog(run_dir, LogConfig(every=2, tensorboard=False), World(rank, 2), 4) as log:
        for step in range(1, 5):
            log.step(
                step, {"loss": torch.tensor(float(rank))}, {"samples": step}, 10 + rank, 0.0, 0.1
            )


def test_metrics_are_means_over_ranks_written_once(tmp_path):
    spawn(log_on_two_ranks, 2, tmp_path, device="cpu")
    rows = jsonl.read(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"], row["seen"]) for row in rows] == [
        (1, 0.5, 21),
        (2, 0.5, 21),
        (4, 0.5, 21),
    ]


def test_environment_names_versions_and_machine(tmp_path):
    write_environment(tmp_path)
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert environment["cores"] >= 1
    assert environment["memory_gib"] > 0.1


@pytest.mark.parametrize("tail", [b"", b'{"half": ', b"[1]\n", b"\xff\xfe\n"])
def test_jsonl_keeps_whole_rows_around_a_torn_line(tmp_path, tail):
    path = tmp_path / "rows.jsonl"
    assert jsonl.read(path) == []
    jsonl.append(path, [{"a": 1}])
    with open(path, "ab") as file:
        file.write(tail)
    jsonl.append(path, [{"a": 2}, {"a": 3}])
    assert jsonl.read(path) == [{"a": 1}, {"a": 2}, {"a": 3}]
    jsonl.write(path, [{"a": 4}])
    assert jsonl.read(path) == [{"a": 4}]


def test_rows_that_are_not_readable_are_kept_beside_when_a_run_goes_on(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    rows = [
        {"step": 1, "loss": 1.0, "seconds": None},
        {"step": 2, "loss": 2.0, "note": {"a": [1]}},
        {"step": 9},
    ]
    path.write_text(
        "\0\0\0\n" + "".join(json.dumps(row) + "\n" for row in rows) + '{"step": "x"}\n{"st'
    )
    old = path.read_bytes()
    with RunLog(tmp_path, LogConfig(tensorboard=False), World(), 12, start=2):
        pass
    assert jsonl.read(path) == rows[:2]
    assert (tmp_path / "metrics.jsonl.until-2").read_bytes() == old
    assert "2 of 5 rows of metrics.jsonl are not readable; the first is line 1" in caplog.text
    with RunLog(tmp_path, LogConfig(tensorboard=False), World(), 12, start=1):
        pass
    assert [path.name for path in tmp_path.glob("*until-1")] == []


@pytest.mark.parametrize(
    "plan", ["{", '{"chosen": {}}', '{"chosen": {"images_per_second": -1}, "memory_gib": {}}', "[]"]
)
def test_a_plan_that_is_not_readable_is_told_once(tmp_path, plan, caplog):
    (tmp_path / "plan.json").write_text(plan)
    with RunLog(tmp_path, LogConfig(every=1, tensorboard=False), World(), 3) as log:
        steps(log, 1, 3)
    assert "planned_memory_gib" not in jsonl.read(tmp_path / "metrics.jsonl")[-1]
    assert caplog.text.count("go without what was planned") == 1


@pytest.mark.parametrize(
    "name", ["seer.log", "metrics.jsonl", "health.jsonl", "checkpoints", ".lock", ".score.lock"]
)
def test_a_run_writes_to_nothing_outside_its_directory(tmp_path, name):
    run = tmp_path / "run"
    run.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (run / name).symlink_to(victim)
    with (
        pytest.raises(InputError, match=f"{name}: leads out of .*, where nothing is written"),
        log_file(run),
    ):
        pass
    assert victim.read_text() == "precious"


def test_rows_go_through_a_link_only_where_the_user_names_the_file(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "metrics.jsonl"
    victim.write_text("mine\n")
    link.symlink_to(victim)
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        jsonl.append(link, [{"step": 1}])
    assert victim.read_text() == "mine\n"
    jsonl.append(link, [{"step": 1}], anywhere=True)
    assert victim.read_text() == 'mine\n{"step": 1}\n'
