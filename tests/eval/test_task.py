import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seer.config import parse_overrides, resolve
from seer.errors import InputError
from seer.eval import pixels
from seer.eval.data.datasets import DATASETS
from seer.eval.task import evaluate
from seer.eval.tasks import TASKS
from seer.results import KEYS, measure_of, read_results
from tests.eval.conftest import small_model
from tests.kit import owners
from tests.kit.pictures import COLOURS, write_images


def test_rows_have_the_documented_keys_and_are_appended(data, tmp_path):
    out = tmp_path / "scores" / "results.jsonl"
    rows = evaluate("knn", "pixels", data, ["k=[5,10]", "temperature=0.1"], out)
    assert [row["metric"] for row in rows] == ["top1_k5", "top1_k10"]
    assert all(row.keys() >= set(KEYS) for row in rows)
    assert rows[0]["options"] == {
        "precision": "fp32",
        "size": 0,
        "crop": "centre",
        "k": [5, 10],
        "metric": "cosine",
        "temperature": 0.1,
    }
    assert (rows[0]["model"], rows[0]["pixels"]) == ("pixels:24", 24)
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    more = evaluate("linear", "pixels:8", str(data), ["epochs=2", "lrs=[0.01,0.1]"], out)
    assert read_results(out) == rows + more
    assert [row["chance"] for row in rows + more] == [pytest.approx(1 / 3)] * 3


def test_without_a_place_given_results_go_to_the_run_or_here(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate("knn", "pixels", data, [])
    assert len(read_results("results.jsonl")) == 2
    monkeypatch.setattr(pixels, "load_model", lambda spec: small_model(run_dir=tmp_path / "run"))
    evaluate("knn", "some/run", data, ["k=[1]"])
    (row,) = read_results(tmp_path / "run" / "results.jsonl")
    assert row["pixels"] == 16  # the model's own
    evaluate("knn", "some/run", data, ["k=[1]", "size=20"])
    assert read_results(tmp_path / "run" / "results.jsonl")[1]["pixels"] == 20
    assert (row["model"], row["config_hash"]) == ("net", "abc")


@pytest.mark.parametrize(
    "place", ["file/results.jsonl", "folder", "/proc/none/results.jsonl", "x" * 300]
)
def test_results_that_cannot_be_written_are_refused_before_the_work(
    data, tmp_path, monkeypatch, place
):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()

    monkeypatch.setattr(pixels, "load_model", lambda spec: pytest.fail("the model was loaded"))
    with pytest.raises(InputError, match="cannot be written"):
        evaluate("knn", "some/run", data, [], tmp_path / place)


def test_a_runs_results_that_cannot_be_written_are_refused_before_the_work(
    data, tmp_path, monkeypatch
):
    (tmp_path / "run" / "results.jsonl").mkdir(parents=True)
    model = small_model(run_dir=tmp_path / "run")
    monkeypatch.setattr(pixels, "load_model", lambda spec: model)
    with pytest.raises(InputError, match=r"results file .*results\.jsonl: cannot be written"):
        evaluate("knn", "some/run", data, [])
    assert model.backbone.seen == 0


def test_a_disk_that_fills_meanwhile_costs_no_score(data, tmp_path):
    with pytest.raises(
        InputError, match=r"No space left on device\); they are: knn top1_k5 \d"
    ) as error:
        evaluate("knn", "pixels", data, ["k=[5]"], "/dev/full")
    assert "\n" not in str(error.value)


def test_a_size_that_a_network_does_not_take_is_refused(data, monkeypatch):
    def check(module, inputs):
        # As timm's do.
        assert inputs[0].shape[-1] == 16, "Input height (40) doesn't match model (16)."

    model = small_model()
    model.backbone.register_forward_pre_hook(check)
    monkeypatch.setattr(pixels, "load_model", lambda spec: model)
    with pytest.raises(
        InputError, match=r"size=40: net takes no images of that size \(Input height"
    ):
        evaluate("knn", "some/run", data, ["size=40"])


def test_names_that_are_not_utf8(data, tmp_path):
    root = tmp_path / os.fsdecode(b"donn\xe9es")
    shutil.copytree(data, root)
    for split in ("train", "test"):
        (root / split / "moss").rename(root / split / os.fsdecode(b"mousse \xe0"))
        (root / split / "brick" / "001.png").rename(
            root / split / "brick" / os.fsdecode(b"caf\xe9.png")
        )
    out = root / "results.jsonl"
    (row,) = evaluate("knn", "pixels", root, ["k=[5]"], out)
    (plain,) = evaluate("knn", "pixels", data, ["k=[5]"], tmp_path / "plain.jsonl")
    assert row["value"] == plain["value"]
    assert row["data"].endswith(r"/donn\xe9es")
    assert read_results(out) == [row]


def test_ten_classes_give_a_top5(tmp_path):
    for split in ("train", "val"):
        for label in range(10):
            folder = tmp_path / split / str(label)
            folder.mkdir(parents=True)
            for i in range(2):
                Image.fromarray(np.full((8, 8, 3), 25 * label + i, np.uint8)).save(
                    folder / f"{i}.png"
                )
    rows = evaluate("linear", "pixels", tmp_path, ["epochs=3"], tmp_path / "results.jsonl")
    assert [row["metric"] for row in rows] == ["top1", "top5"]
    assert rows[0]["value"] <= rows[1]["value"]
    assert [row["chance"] for row in rows] == [0.1, 0.5]


@pytest.mark.parametrize(
    ("task", "overrides", "message"),
    [
        ("knnn", [], "did you mean 'knn'"),
        ("knn", ["ks=[1]"], "ks: unknown key"),
        ("knn", ["temprature=1"], "did you mean 'temperature'"),
        ("knn", ["temperature=warm"], "temperature"),
        ("linear", ["epochs=1.5"], "epochs"),
        ("linear", ["k=[1]"], "k: unknown key"),
        ("knn", ["k"], "expected key=value"),
    ],
)
def test_wrong_input_is_one_clear_line(data, task, overrides, message):
    with pytest.raises(InputError, match=message) as error:
        evaluate(task, "pixels", data, overrides)
    assert "\n" not in str(error.value)


def test_a_test_class_without_training_images_is_named(tmp_path):
    write_images(tmp_path / "train", 2, seed=0)
    write_images(tmp_path / "test", 2, seed=0)
    (tmp_path / "test" / next(iter(COLOURS))).rename(tmp_path / "test" / "zebra")
    with pytest.raises(InputError, match="zebra"):
        evaluate("knn", "pixels", tmp_path, ["k=[1]"])


def test_every_task_has_defaults_that_resolve():
    assert {"knn", "linear", "finetune"} <= TASKS.keys()
    for task in TASKS.values():
        needed = ["model=m", "data=d"] if task.trained else []
        needed += ["target=t"] if task.name == "mme" else []
        assert resolve(task.config, [parse_overrides(needed)]).batch_size > 0


def test_results_say_by_which_split_they_are(data, tmp_path):
    (row,) = evaluate("knn", "pixels", data / "train", ["k=[5]"], tmp_path / "a.jsonl")
    assert row["options"]["split"] == "one image in 5 of each class held out"
    assert (row["data"], row["details"]["images"]) == (str(data / "train"), 3 * 8)
    (row,) = evaluate("knn", "pixels", data, ["k=[5]"], tmp_path / "a.jsonl")
    assert "split" not in row["options"]


SMALL = ["loader.workers=0", "log.tensorboard=false", "device=cpu"]


@pytest.mark.parametrize(
    ("task", "options", "as_published"),
    [
        ("logreg", [], True),
        ("logreg", ["cache=false", "threads=1", "count=45"], True),
        ("logreg", ["count=2"], False),
        ("logreg", ["size=12"], False),
        ("linear", ["protocol=own"], True),
        ("linear", ["protocol=own", "epochs=1"], False),
        ("linear", ["protocol=PLACE/own.yaml"], False),
        ("finetune", [*SMALL, "protocol=own"], True),
        ("finetune", [*SMALL, "protocol=own", "steps=3"], False),
        ("lowshot", [*SMALL, "protocol=own", "percent=50"], True),
        ("lowshot", [*SMALL, "protocol=own", "percent=50", "least_steps=3"], False),
    ],
)
def test_a_result_names_its_data_set_where_nothing_is_other_than_the_protocols(
    tmp_path, monkeypatch, task, options, as_published
):
    """Published values of a protocol would stand beside it."""
    place = tmp_path / "configs"
    place.mkdir()
    (place / "linear_own.yaml").write_text("epochs: 2\nlrs: [0.1]\nholdout: 0.0\n")
    for name in ("finetune", "lowshot"):
        text = "epochs: 2.0\nbatch_size: 1\n" + "least_steps: 0\n" * (name == "lowshot")
        (place / f"{name}_own.yaml").write_text(text)
    shutil.copy(place / "linear_own.yaml", place / "own.yaml")
    monkeypatch.setattr("seer.eval.protocols._folder", lambda: place)
    owners.dtd(tmp_path / "data")
    sizes = {"train": 3, "val": 2, "test": 2}
    monkeypatch.setitem(DATASETS, "dtd", replace(DATASETS["dtd"], sizes=sizes))
    for module in ("seer.eval.trained.finetune", "seer.eval.task", "seer.eval.pixels"):
        monkeypatch.setattr(f"{module}.load_model", lambda spec: small_model())
    options = [option.replace("PLACE", str(place)) for option in options]
    options += [f"run_dir={tmp_path / 'run'}"] * (task in ("finetune", "lowshot"))
    rows = evaluate(task, "net", tmp_path / "data", options, tmp_path / "out.jsonl")
    assert {row.get("dataset") for row in rows} == {"dtd" if as_published else None}


def voc(root: Path, images: int = 24) -> Path:
    """VOC2007's classification task in tiny: a class is a channel that is bright where it is to be
    seen, at random.
    """
    generator = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        shown = generator.random((images, 3)) < 0.5
        names = [f"{split}{i:02d}" for i in range(images)]
        for name, classes in zip(names, shown, strict=True):
            pixels = np.where(classes, 200, 40) + generator.integers(0, 30, (16, 16, 3))
            path = root / f"VOCdevkit/VOC2007/JPEGImages/{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95)
        lists = root / "VOCdevkit/VOC2007/ImageSets/Main"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("\n".join(names))
        for number, kind in enumerate(("aeroplane", "bicycle", "bird")):
            marks = np.where(shown[:, number], 1, -1)
            marks[number] = 0  # too difficult to count
            lines = [f"{name} {mark:2d}" for name, mark in zip(names, marks, strict=True)]
            (lists / f"{kind}_{split}.txt").write_text("\n".join(lines))
    return root


@pytest.mark.filterwarnings("ignore:.*no score compares")
def test_images_of_several_classes_are_scored_by_their_ranks(tmp_path, caplog):
    data = voc(tmp_path / "voc")
    out = tmp_path / "results.jsonl"
    (row,) = evaluate("logreg", "pixels", data, ["count=5"], out)
    assert (row["metric"], row["value"]) == ("map11", 1)
    assert row["details"]["images"] == 24
    with pytest.raises(InputError, match="several classes for each image, which this task cannot"):
        evaluate("knn", "pixels", data, [], out)


def test_rows_of_other_images_are_other_measures(data, tmp_path):
    fewer = tmp_path / "fewer"
    shutil.copytree(data, fewer)
    (row,) = evaluate("knn", "pixels:8", fewer, ["k=[1]"], tmp_path / "results.jsonl")
    next((fewer / "test").rglob("*.png")).unlink()
    (other,) = evaluate("knn", "pixels:8", fewer, ["k=[1]"], tmp_path / "results.jsonl")
    assert measure_of(other) != measure_of(row)
    again = tmp_path / "elsewhere"
    shutil.copytree(fewer, again)
    (copied,) = evaluate("knn", "pixels:8", again, ["k=[1]"], tmp_path / "results.jsonl")
    assert copied["images"] == other["images"]
