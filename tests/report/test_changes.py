"""What was changed against a recipe, and where runs differ."""

import json
from pathlib import Path

import pytest
import yaml

from seer import config as configuration
from seer.report.changes import changes, differing, partial
from seer.report.runfiles import read_run
from tests.report.conftest import write_run


def recorded(path: Path, config: dict, command: str):
    """A run with a configuration, and the command that its environment tells."""
    write_run(path, steps=1)
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    (path / "environment.json").write_text(json.dumps({"command": command}))
    return read_run(path)


def of_recipe(name: str = "swav_small") -> dict:
    return configuration.read(configuration.find_recipe(name))


def test_keys_of_the_recipe_and_of_the_command_line(tmp_path):
    config = of_recipe() | {"steps": 40, "data": "shards", "seed": 3, "run_dir": "runs/x"}
    config["optim"] |= {"weight_decay": 0.01, "trust": 0.0}
    command = (
        "seer pretrain swav_small data=shards steps=40 seed=3 optim.weight_decay=0.01 --nproc 2"
    )
    found = changes(recorded(tmp_path / "a", config, command))
    assert found.recipe == "swav_small"
    rows = {key: values for key, *values in found.rows}
    assert rows == {
        "steps": ["40", "6000"],
        "optim.weight_decay": ["0.01", "0.0001"],
        "data": ["shards", "not set"],
        "seed": ["3", "not set"],
    }


def test_a_run_as_its_recipe_has_it(tmp_path):
    found = changes(recorded(tmp_path / "a", of_recipe(), "python -m seer pretrain swav_small"))
    assert (found.recipe, found.rows) == ("swav_small", [])


def test_a_section_that_was_given_as_one_word(tmp_path):
    config = of_recipe() | {"health": {"grace": 5, "every": 1}, "log": {"every": 10}}
    command = "seer pretrain swav_small 'health={grace: 5, every: 1}'"
    found = changes(recorded(tmp_path / "a", config, command))
    assert {key for key, *_ in found.rows} == {"health.grace", "health.every"}


def test_without_a_command_the_runs_name_is_the_recipes(tmp_path):
    found = changes(recorded(tmp_path / "a", of_recipe() | {"steps": 7}, ""))
    assert (found.recipe, found.rows) == ("swav_small", [("steps", "7", "6000")])


@pytest.mark.parametrize(
    "command",
    [
        "seer pretrain /etc/hostname steps=5",
        "seer pretrain ../../secret.yaml steps=5",
        "seer pretrain 'an open quote",
        "pretrain",
        "seer pretrain --nproc",
    ],
)
def test_no_file_is_read_that_a_strangers_command_names(tmp_path, command, monkeypatch):
    run = recorded(tmp_path / "a", {"steps": 5}, command)
    monkeypatch.setattr(configuration, "read", lambda path: pytest.fail(f"{path} was read"))
    found = changes(run)
    assert found.recipe == ""
    assert found.rows == ([("steps", "5", "–")] if command.endswith("steps=5") else [])


def test_where_runs_differ(tmp_path):
    a = recorded(tmp_path / "a", {"name": "a", "steps": 5, "optim": {"lr": 0.1, "wd": 0.0}}, "")
    b = recorded(tmp_path / "b", {"name": "b", "steps": 5, "optim": {"lr": 0.2}}, "")
    assert differing([a, b]) == [("optim.lr", ["0.1", "0.2"])]
    assert partial([a, b]) == [("optim.wd", ["0", "–"])]
    assert differing([a, a]) == partial([a, a]) == []


def test_views_that_are_not_used_differ_in_their_count_alone(tmp_path):
    views = [{"small": {"count": count, "size": size}} for count, size in ((0, 96), (2, 16))]
    runs = [recorded(tmp_path / f"{i}", {"views": v}, "") for i, v in enumerate(views)]
    assert differing(runs) == [("views.small.count", ["0", "2"])]
    assert partial(runs) == [("views.small.size", ["–", "16"])]


def test_what_matters_most_comes_first(tmp_path):
    config = of_recipe() | {"log": {"every": 1}, "data": "shards", "seed": 3}
    run = recorded(
        tmp_path / "a", config, "seer pretrain swav_small log.every=1 seed=3 data=shards"
    )
    assert [key for key, *_ in changes(run).rows] == ["data", "seed", "log.every"]
