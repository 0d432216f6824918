"""Grids of options: their points, and what is kept of each."""

import pytest

from seer.config import layer, parse_overrides
from seer.errors import InputError
from seer.eval.tasks import TASKS
from seer.eval.trained.grid import (
    Outcome,
    best_of,
    details_of,
    points_of,
    read,
    settings_of,
    without,
    write,
)


def resolved(*overrides: str, **file):
    given = layer({"model": "m", "data": "d", "run_dir": "r", **file})
    return TASKS["finetune"].resolve(given, parse_overrides(list(overrides)))


def test_points_are_all_combinations_the_last_axis_changing_first():
    grid = {
        "schedule.peak": [0.1, 0.01],
        "lengths": [{"steps": 7}, {"epochs": 3, "schedule.gamma": 0.1}],
    }
    config = resolved(grid=grid, steps=5)
    points = points_of(config)
    assert [
        (p.point, p.run_dir, p.schedule.peak, p.steps, p.epochs, p.schedule.gamma) for p in points
    ] == [
        (1, "r/grid_points/01", 0.1, 7, 30, 1),
        (2, "r/grid_points/02", 0.1, 0, 3, 0.1),  # whose epochs count, not the steps of all others
        (3, "r/grid_points/03", 0.01, 7, 30, 1),
        (4, "r/grid_points/04", 0.01, 0, 3, 0.1),
    ]
    assert points_of(resolved()) == []


def test_no_point_goes_on_from_anothers_checkpoint_in_a_store():
    stored = resolved("checkpoint.store=s3://bucket/run/", "grid.crop=[random, centre]")
    stores = [point.checkpoint.store for point in points_of(stored)]
    assert stores == [f"s3://bucket/run/grid_points/0{i}" for i in (1, 2)]


def test_a_command_line_gives_a_grid_whole_or_by_axis():
    by_axis = ["grid.schedule.peak=[0.1, 1e-2]", "grid.crop=[centre]"]
    whole = "grid={schedule.peak: [0.1, 1e-2], crop: [centre]}"
    expected = {"schedule.peak": [0.1, 0.01], "crop": ["centre"]}
    assert resolved(*by_axis).grid == resolved(whole).grid == expected
    replaced = resolved("grid.crop=[random]", grid={"crop": ["centre"], "mixup": [0, 1]}).grid
    assert replaced == {"crop": ["random"], "mixup": [0, 1]}


def test_what_is_given_leaves_the_grid():
    axes = {
        "schedule.peak": [0.1, 0.01],
        "both": [{"optim.momentum": 0.9, "crop": "centre"}, {"optim.momentum": 0.5}],
        "lengths": [{"steps": 7}, {"epochs": 3}],
    }
    assert without(axes, ["batch_size"]) == axes
    assert without(axes, ["schedule.peak", "epochs"]) == {"both": axes["both"]}
    fewer = without(axes, ["optim", "steps", "schedule"])
    assert fewer == {"both": [{"crop": "centre"}]}
    assert settings_of({}) == []


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("[1]", "grid: expected keys with values"),
        ("{crop: random}", "grid.crop: 'random' is not a list of 1 to 1,000"),
        ("{crop: []}", "grid.crop: a list of 0 is not a list of 1 to 1,000"),
        ("{a: [{crop: random}, 1]}", "grid.a: values and mappings beside each other"),
        ("{a: [{}]}", "grid.a: a mapping of 0 sets nothing"),
        ("{crop: [random], a: [{crop: centre}]}", "grid: crop stands in two axes"),
        ("{seed: [1, 2]}", "grid: seed is the same for all points"),
        ("{size: [32, 64]}", "grid: size is the same for all points"),  # a row has one `pixels`
        ("{length: [{steps: 1, test_size: 32}]}", "grid: test_size is the same for all points"),
        ("{schedule.peek: [1]}", "grid: schedule.peek: unknown key .did you mean 'peak'"),
        ("{schedule: [1], schedule.peak: [1]}", "grid: schedule.peak stands in two axes"),
        ("{crop: [middle]}", "grid: crop: 'middle' is unknown"),
        ("{head_rate: [0]}", "grid: head_rate: 0.0 is not a number, above 0"),
        (f"{{mixup: {[*range(1000)]}, head_rate: {[*range(1, 12)]}}}", "11,000 points, more than"),
    ],
)
def test_a_wrong_grid_is_one_line(grid, message):
    with pytest.raises(InputError, match=message) as error:
        points_of(resolved(f"grid={grid}"))
    assert "\n" not in str(error.value)


def outcome(point: int, value: float | None, failed: str = "") -> Outcome:
    return Outcome(point, {"crop": "centre"}, "abc", "top1", value, "9 images", failed)


def test_the_best_point_is_the_first_of_the_highest():
    outcomes = [outcome(1, 0.5), outcome(2, None, "diverged"), outcome(3, 0.7), outcome(4, 0.7)]
    assert best_of(outcomes).point == 3
    assert details_of(outcomes[2], outcomes) == {
        "chosen": {"crop": "centre"},
        "chosen_on": "9 images",
        "validation": 0.7,
        "points": 4,
        "failed_points": [2],
    }
    with pytest.raises(InputError, match="all 1 points of the grid failed, the first: diverged"):
        best_of(outcomes[1:2])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"value": 0.5', '"value": 7', r"is damaged \(value: 7 is not a number"),
        ('"failed"', '"filed"', r"is damaged \('failed' is missing\); remove it"),
        ('"value": 0.5', '"value"', r"is damaged \(not readable as JSON"),
        ('"point": 1', '"point": 77', r"is damaged \(point 77 in the folder of point 1\)"),
        ('"setting": {', '"setting": {"model": "x", ', "another setting than point 1 has"),
        ('"value": 0.5', '"value": null', "either a value or why it failed"),
        ('"abc"', '"abd"', "is of other images or options; give another run_dir, or remove"),
    ],
)
def test_a_damaged_point_is_named(tmp_path, old, new, message):
    kept = outcome(1, 0.5)
    assert read(str(tmp_path), "abc", 1, kept.setting) is None
    write(kept, str(tmp_path))
    assert read(str(tmp_path), "abc", 1, kept.setting) == kept
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message) as error:
        read(str(tmp_path), "abc", 1, kept.setting)
    assert str(path) in str(error.value)
