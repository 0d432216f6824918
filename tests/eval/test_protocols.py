"""Protocols: files of options between a task's own and what is given."""

import pytest

from seer.config import layer, parse_overrides
from seer.errors import InputError
from seer.eval.probes.linear import factor, total_steps
from seer.eval.protocols import layers_of, protocols
from seer.eval.task import evaluate
from seer.eval.tasks import TASKS
from tests.kit.pictures import write_images

PUBLISHED = [(task, name) for task in TASKS for name in protocols(task)]
# What a few steps of a task are.
FEW = {"knn": [], "linear": ["steps=3", "sgd_batch=32"], "logreg": ["count=3"]}

IMAGENET = 1_281_167
# The linear probes: images, rate of the first step, epochs (or steps), where the rate falls tenfold.
RATES = {
    "swav": (IMAGENET, 0.3, 100, []),
    "swav_places205": (2_448_873, 0.01, 28, [7, 14, 21]),
    "swav_inat18": (437_513, 0.01, 84, [21, 42, 63]),
    "vissl": (IMAGENET, 0.01, 28, [8, 16, 24]),
    "seer": (IMAGENET, 0.01, 28, [8, 16, 24]),
    "moco": (IMAGENET, 30.0, 100, [60, 80]),
    "mocov3": (IMAGENET, 0.4, 90, []),
    "byol": (IMAGENET, 0.8, 80, []),
    "relicv2": (IMAGENET, 1.2, 100, []),
    "hpt": (18_900, 30.0, 5000, [1651, 3333]),
}


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """210 training images, so that 200 neighbours can be."""
    root = tmp_path_factory.mktemp("many")
    write_images(root / "train", 70, seed=0, size=16)
    write_images(root / "test", 5, seed=1, size=16)
    return root


@pytest.mark.parametrize(("task", "name"), PUBLISHED)
def test_every_file_of_a_protocol_holds_options_of_its_task(task, name):
    words = {"model": "m", "data": "d"} | ({"target": "t"} if task == "mme" else {})
    given = layer(words) if TASKS[task].trained else {}
    config = TASKS[task].resolve(given, parse_overrides([f"protocol={name}"]))
    assert config.protocol == name


@pytest.mark.parametrize(("task", "name"), [pair for pair in PUBLISHED if pair[0] in FEW])
def test_every_protocol_of_a_probe_scores(task, name, many, tmp_path):
    options = [f"protocol={name}", *FEW[task]]
    rows = evaluate(task, "pixels:8", many, options, tmp_path / "results.jsonl")
    assert {row["protocol"] for row in rows} == {name}
    assert all(row["value"] > row["chance"] for row in rows if row["headline"])


@pytest.mark.parametrize("name", protocols("linear"))
def test_the_rates_of_a_linear_probe_are_those_that_were_published(name):
    images, rate, length, falls = RATES[name]
    config = TASKS["linear"].resolve(parse_overrides([f"protocol={name}"]))
    unit = 1 if config.steps else -(-images // config.sgd_batch)
    total = total_steps(images, config)
    assert total == length * unit
    assert config.lrs[0] * factor(0, total, config) == pytest.approx(rate)
    for number, fall in enumerate(falls):
        before, after = (factor(step, total, config) for step in (fall * unit - 1, fall * unit))
        assert after / before == pytest.approx(0.1)
        assert config.lrs[0] * before == pytest.approx(rate * 0.1**number)
    if not falls:
        assert factor(total // 2, total, config) == pytest.approx(
            factor(0, total, config) / 2, 1e-3
        )
    assert factor(total - 1, total, config) == pytest.approx(
        factor(0, total, config) * 0.1 ** len(falls) if falls else 0.0, abs=1e-3
    )


def test_a_protocol_may_have_a_file_for_each_percentage(monkeypatch, tmp_path, caplog):
    for name, k in (("few_1", 1), ("few_10", 10), ("other", 3), ("other_x", 30)):
        (tmp_path / f"knn_{name}.yaml").write_text(f"k: [{k}]\n")
    monkeypatch.setattr("seer.eval.protocols._folder", lambda: tmp_path)

    def k_of(*words):
        (values,) = layers_of("knn", [parse_overrides(list(words))])
        return values["k"][0].text

    assert k_of("protocol=few", "percent=1.0") == "1"
    assert k_of("protocol=few", "percent=10") == "10"
    assert k_of("protocol=few_1", "percent=10") == "1"
    assert k_of("protocol=other", "percent=10") == "3"
    assert not caplog.text
    assert k_of("protocol=few", "percent=5") == "10"
    assert (
        "protocol=few has values for percent=1 and 10; those for 10 are taken for 5" in caplog.text
    )
    assert k_of("protocol=few", "percent=2") == "1"
    # What is no percentage, the option itself refuses.
    assert [k_of("protocol=few", f"percent={word}") for word in ("0", "101", "x", "nan")] == [
        "1"
    ] * 4
    assert "101" not in caplog.text


def test_epochs_that_are_given_count_whatever_a_protocol_says_of_steps():
    def steps(*options):
        config = TASKS["linear"].resolve(parse_overrides(["protocol=hpt", *options]))
        return total_steps(5120, config)

    assert (steps(), steps("epochs=3"), steps("epochs=3", "steps=7")) == (5000, 30, 7)


def test_a_protocol_stands_between_the_tasks_own_options_and_what_is_given(data, tmp_path):
    file = tmp_path / "few.yaml"
    file.write_text("k: [3]\ntemperature: 0.2\n")
    given = [f"protocol={file}", "temperature=0.3"]
    (row,) = evaluate("knn", "pixels:8", data, given, tmp_path / "results.jsonl")
    assert (row["protocol"], row["title"]) == (str(file), f"kNN top-1, k = 3 ({file})")
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
