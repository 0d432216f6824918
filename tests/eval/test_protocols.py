"""Protocols: files of options between a task's own and what is given."""

import pytest

from seer.config import layer, parse_overrides
from seer.errors import InputError
from seer.eval.protocols import protocols
from seer.eval.task import evaluate
from seer.eval.tasks import TASKS

PUBLISHED = [(task, name) for task in TASKS for name in protocols(task)]


@pytest.mark.parametrize(("task", "name"), PUBLISHED)
def test_every_file_of_a_protocol_holds_options_of_its_task(task, name):
    given = layer({"model": "m", "data": "d"}) if TASKS[task].trained else {}
    config = TASKS[task].resolve(given, parse_overrides([f"protocol={name}"]))
    assert config.protocol == name


def test_a_protocol_stands_between_the_tasks_own_options_and_what_is_given(data, tmp_path):
    file = tmp_path / "few.yaml"
    file.write_text("k: [3]\ntemperature: 0.2\n")
    given = [f"protocol={file}", "temperature=0.3"]
    (row,) = evaluate("knn", "pixels:8", data, given, tmp_path / "results.jsonl")
    assert row["protocol"] == "few"
    assert (row["options"]["k"], row["options"]["temperature"]) == ([3], 0.3)
    assert "protocol" not in row["options"]
    same = ["k=[3]", "temperature=0.3"]
    (again,) = evaluate("knn", "pixels:8", data, same, tmp_path / "results.jsonl")
    assert again["comparable"] == row["comparable"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("swaw", "protocol=swaw: knn has no such protocol"),
        ("/nowhere/few.yaml", "/nowhere/few.yaml: no such file"),
        ("[1]", r"protocol=\[1\]: knn has no such protocol"),
    ],
)
def test_an_unknown_protocol_is_refused(word, message):
    with pytest.raises(InputError, match=message):
        TASKS["knn"].resolve(parse_overrides([f"protocol={word}"]))


def test_a_file_with_options_of_another_task_is_refused(tmp_path):
    file = tmp_path / "other.yaml"
    file.write_text("lambdas: [1, 2]\n")
    with pytest.raises(InputError, match="lambdas"):
        TASKS["knn"].resolve(parse_overrides([f"protocol={file}"]))
