"""Finetuning at the points of a grid: what is chosen, what is trained again, and what goes on where it
stopped.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from seer.errors import InputError
from seer.eval.data.splitting import train_and_test
from seer.eval.probes.holdout import choosing
from seer.eval.protocols import protocols
from seer.eval.task import evaluate
from seer.eval.trained import selection
from seer.eval.trained.finetune import configure, run
from seer.processes import spawn
from seer.rundir.names import POINTS, VALIDATION, latest
from seer.rundir.rundir import last_step
from seer.verbs.preview import preview
from tests.eval.conftest import small_model
from tests.kit import owners

QUICK = [
    "batch_size=24",
    "steps=12",
    "loader.workers=0",
    "log.every=1",
    "log.tensorboard=false",
    "device=cpu",
]
GRID = "grid={schedule.peak: [1e-4, 0.3], crop: [random, centre]}"


@contextmanager
def little() -> Iterator[None]:
    """Any MODEL is the little network of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("seer.eval.trained.finetune", "seer.eval.task"):
            patch.setattr(f"{module}.load_model", lambda spec: small_model())
        yield


def finetune(data: Path, folder: Path, *options: str) -> list[dict]:
    place = [f"run_dir={folder}", *options]
    with little():
        return evaluate("finetune", "net", data, [*QUICK, *place], folder / "results.jsonl")


def test_a_misspelt_option_of_a_grid_is_told_before_images_are_read(tmp_path):
    with pytest.raises(InputError, match=r"^grid: .*schedule\.peek"):
        configure("finetune", "net", str(tmp_path / "none"), ["grid={schedule.peek: [1, 2]}"])


def test_a_grid_whose_options_are_all_given_is_none_and_that_is_told(data, tmp_path, capfd):
    given = ["schedule.peak=0.1", "crop=centre", f"run_dir={tmp_path}"]
    with little():
        config = configure("finetune", "net", str(data), [*QUICK, GRID, *given])
    assert (config.grid, config.crop) == ({}, "centre")
    assert "no grid: crop, schedule.peak given, and one training is made" in capfd.readouterr().err


def outcomes(folder: Path) -> list[dict]:
    paths = sorted((folder / POINTS).glob(f"*/{VALIDATION}"))
    return [json.loads(path.read_text()) for path in paths]


def trained(folder: Path) -> bytes:
    checkpoint = latest(folder)
    assert checkpoint is not None
    return b"".join(path.read_bytes() for path in sorted(checkpoint.glob("state/*")))


def losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A grid that one command trained, and its row."""
    folder = tmp_path_factory.mktemp("grid") / "whole"
    (row,) = finetune(data, folder, GRID)
    return folder, row


def test_the_best_point_on_held_out_images_is_trained_again_on_all(data, tmp_path, whole):
    folder, row = whole
    points = outcomes(folder)
    assert [point["setting"] for point in points] == [
        {"schedule.peak": rate, "crop": crop}
        for rate in (1e-4, 0.3)
        for crop in ("random", "centre")
    ]
    assert len({point["value"] for point in points}) > 1
    best = max(points, key=lambda point: point["value"])  # the first of the highest
    assert row["details"] == {
        "images": 60,
        "steps": 12,
        "chosen": best["setting"],
        "chosen_on": "24 training images held out",
        "validation": best["value"],
        "points": 4,
    }
    assert "crop" not in row["options"]  # which the grid decides on
    chosen = [f"{key}={value}" for key, value in best["setting"].items()]
    (plain,) = finetune(data, tmp_path / "plain", *chosen)
    assert row["value"] == plain["value"]
    assert trained(folder) == trained(tmp_path / "plain")
    assert not any(latest(path) for path in (folder / POINTS).iterdir())  # done with


def test_a_points_value_is_of_the_images_held_out_and_it_sees_no_others(data, tmp_path, whole):
    """As a finetuning on the images kept, tested on those that were held out, laid out by hand."""
    images, _ = train_and_test(data)
    kept, held, _ = choosing(images, 0.2, 0)
    for split, rows in {"train": kept, "test": held}.items():
        for i in rows.tolist():
            path = Path(images.source.name(i))
            (tmp_path / split / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / split / path.parent.name / path.name)
    (row,) = finetune(tmp_path, tmp_path / "plain", "schedule.peak=0.3", "crop=centre")
    folder, _ = whole
    assert outcomes(folder)[3]["value"] == row["value"]
    assert losses(folder / POINTS / "04") == losses(tmp_path / "plain")


def test_points_one_by_one_and_the_final_one_are_the_one_command(data, tmp_path, whole, capfd):
    """As a job array and what follows it."""
    folder, row = whole
    for point in (3, 1, 4, 2):
        assert finetune(data, tmp_path / "part", GRID, f"point={point}") == []
    assert not (tmp_path / "part" / "config.yaml").exists()
    assert last_step(tmp_path / "part") == 4 * 12  # so that an attempt is known to have got on
    capfd.readouterr()
    (again,) = finetune(data, tmp_path / "part", GRID)
    assert "point 1 of 4: schedule" not in capfd.readouterr().err  # none is trained again
    assert again["value"] == row["value"]
    assert again["details"] == row["details"]
    assert trained(tmp_path / "part") == trained(folder)
    with pytest.raises(InputError, match="point=5: the grid has 4 points"):
        finetune(data, tmp_path / "part", GRID, "point=5")
    with pytest.raises(InputError, match="point=1: the grid has 0 points"):
        finetune(data, tmp_path / "none", "point=1")


def test_an_interrupted_grid_goes_on(data, tmp_path, whole, monkeypatch, capfd):
    _, row = whole
    keep = selection.grid.write

    def die(outcome, run_dir):
        if outcome.point == 2:
            raise KeyboardInterrupt
        keep(outcome, run_dir)

    monkeypatch.setattr(selection.grid, "write", die)
    with pytest.raises(KeyboardInterrupt):
        finetune(data, tmp_path / "part", GRID)
    monkeypatch.setattr(selection.grid, "write", keep)
    capfd.readouterr()
    (again,) = finetune(data, tmp_path / "part", GRID)
    told = capfd.readouterr().err
    assert "point 1 of 4: schedule" not in told
    assert f"{POINTS}/02, continued after step 12" in told
    assert (again["value"], again["details"]) == (row["value"], row["details"])


def test_a_point_that_diverges_has_failed_and_the_others_count(data, tmp_path, capfd):
    grid = "grid={schedule.peak: [1e30, 0.3]}"
    (row,) = finetune(data, tmp_path / "run", grid, "crop=centre")
    assert row["details"]["chosen"] == {"schedule.peak": 0.3}
    assert row["details"]["failed_points"] == [1]
    assert "point 1 of 2: failed (step 4: " in capfd.readouterr().err
    with pytest.raises(InputError, match="all 1 points of the grid failed, the first: step 4"):
        finetune(data, tmp_path / "all", "grid={schedule.peak: [1e30]}")


def test_without_retraining_the_best_point_itself_is_tested(data, tmp_path):
    short = ["retrain=false", "grid={crop: [random, centre]}", "schedule.peak=0.3"]
    (row,) = finetune(data, tmp_path / "run", *short)
    assert not (tmp_path / "run" / "config.yaml").exists()
    assert row["details"]["images"] == 60
    (again,) = finetune(data, tmp_path / "run", *short)
    assert again["value"] == row["value"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (VALIDATION, "{", "validation.json: is damaged .not readable as JSON"),
        ("config.yaml", "seed: [", "config.yaml: not readable as YAML"),
        ("config.yaml", "seed: 7\nmodel: m\ndata: d\n", "belongs to another configuration"),
    ],
)
def test_a_damaged_point_is_one_line(data, tmp_path, whole, file, text, message):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    (folder / POINTS / "02" / file).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        finetune(data, folder, GRID)
    assert "\n" not in str(error.value)
    assert f"{POINTS}/02" in str(error.value)


def test_another_grid_or_other_images_in_its_place_are_refused(data, tmp_path, whole):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    with pytest.raises(InputError, match=r"grid\.crop is .* there and .* here"):
        finetune(data, folder, GRID, "grid.crop=[random]")
    other = shutil.copytree(data, tmp_path / "data")
    short = ["steps=1", "grid={crop: [centre]}"]
    finetune(other, tmp_path / "short", *short)
    next((other / "train" / "moss").iterdir()).unlink()
    with pytest.raises(InputError, match="is of other images"):
        finetune(other, tmp_path / "short", *short)


def test_decays_divided_by_the_rate(data, tmp_path):
    shared = ["batch_size=12", "schedule.per=24", "schedule.peak=0.2", "steps=3"]
    finetune(data, tmp_path / "divided", "optim.weight_decay=0.05", "decay_over_rate=true", *shared)
    finetune(data, tmp_path / "plain", "optim.weight_decay=0.5", *shared)
    assert losses(tmp_path / "divided") == losses(tmp_path / "plain")
    with pytest.raises(InputError, match="divided by a rate of 1e-09 is above 100"):
        finetune(data, tmp_path / "x", "decay_over_rate=true", "schedule.peak=1e-9")


def test_a_data_set_is_scored_as_its_users_do(tmp_path):
    owners.pets(tmp_path / "pets")
    options = ["batch_size=2", "steps=1", "holdout=0.5", "grid={crop: [centre]}"]
    top1, mean = finetune(tmp_path / "pets", tmp_path / "run", *options)
    assert [row["metric"] for row in (top1, mean)] == ["top1", "mean_per_class"]
    assert [row["headline"] for row in (top1, mean)] == [False, True]
    assert mean["details"]["chosen"] == {"crop": "centre"}
    assert outcomes(tmp_path / "run")[0]["metric"] == "mean_per_class"


def test_a_launched_point_has_its_own_directory(data, tmp_path):
    words = ["eval", "finetune", "--model", "net:random", "--data", str(data), GRID, *QUICK]
    words += [f"run_dir={tmp_path / 'run'}", "parallel.mode=ddp"]
    with little():
        assert preview(words, 1) == tmp_path / "run"
        assert preview([*words, "point=2"], 1) == tmp_path / "run" / POINTS / "02"
        with pytest.raises(InputError, match="batch_size=24 does not divide among 7 processes"):
            preview(words, 7)
        with pytest.raises(InputError, match="in pairs, and batch_size=24 gives 3 to each of 8"):
            preview([*words, "mixup=0.2"], 8)


@pytest.mark.parametrize("name", protocols("finetune"))
def test_every_protocol_runs(data, tmp_path, name):
    """Two steps of it, and of its grid one axis."""
    less = ["size=16", "steps=2", "schedule.peak=0.01", "optim.weight_decay=1e-3"]
    (row,) = finetune(data, tmp_path / "run", f"protocol={name}", *less)
    assert row["protocol"] == name
    assert row["details"]["steps"] == 2
    assert row["details"].get("points", 0) == len(row["options"]["grid"].get("crop", []))


def test_processes_train_a_grid_together(data, tmp_path):
    options = ["precision=fp64", "size=24", "steps=1", "batch_size=8", "mixup=0.4", *QUICK[2:]]
    options += ["grid={label_smoothing: [0.0, 0.1]}", "schedule.peak=0.1"]
    details = []
    for nproc, mode in ((1, "none"), (2, "ddp")):
        place = [f"parallel.mode={mode}", f"run_dir={tmp_path / mode}"]
        config = configure("finetune", "regnety_tiny:random", str(data), [*options, *place])
        (score,) = run(config) if nproc == 1 else spawn(run, nproc, config, device="cpu")[0]
        details.append((score.value, score.details))
    assert details[0] == details[1]
    for point in (f"{POINTS}/01", f"{POINTS}/02", ""):
        one, two = (losses(tmp_path / mode / point) for mode in ("none", "ddp"))
        np.testing.assert_allclose(one, two, rtol=1e-9)
