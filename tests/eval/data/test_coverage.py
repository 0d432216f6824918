"""What a folder of data sets can run."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from seer.errors import InputError
from seer.eval.data import coverage
from seer.eval.data.coverage import check, suites, summary
from seer.eval.data.datasets import DATASETS
from seer.eval.tasks import CLASSIFYING, TASKS
from seer.verbs import app
from shards.build import build
from shards.options import BuildOptions
from tests.kit import owners, rooms
from tests.kit.pictures import write_images


def found(root, read_images=False, tick=lambda done, total: None):
    return {finding.name: finding for finding in check(root, read_images, tick)}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Every data set of the table that has a reader, each in a folder of its own."""
    root = tmp_path_factory.mktemp("shelf")
    for name, write in owners.OWNERS.items():
        (root / f"my {name}").mkdir()
        write(root / f"my {name}")
    write_images(root / "bricks/train", 2, seed=0)
    write_images(root / "bricks/test", 1, seed=1)
    return root


def test_an_empty_folder_has_nothing_of_anything(tmp_path):
    findings = found(tmp_path)
    assert findings.keys() == DATASETS.keys()
    assert {finding.state for finding in findings.values()} == {"missing"}
    line = findings["food101"].lines()[0]
    assert line.split() == [
        "missing",
        "food101",
        "Food-101:",
        "food-101.tar.gz",
        "of",
        "ETH",
        "Zürich",
    ]
    with pytest.raises(InputError, match="nowhere is no folder; give one that holds data sets"):
        check(tmp_path / "nowhere", False, lambda done, total: None)


def test_all_that_is_there_is_read_and_counted(shelf):
    findings = found(shelf)
    for name in owners.OWNERS:
        finding = findings[name]
        assert finding.state == "differs", finding
        assert finding.folder.startswith(str(shelf / f"my {name}"))
        assert finding.images.keys() == DATASETS[name].sizes.keys()
        several = name == "voc07"
        assert finding.tasks == [t for t in CLASSIFYING if TASKS[t].several or not several]
    assert "train: its owner has 75,750 images" in findings["food101"].problems
    assert "its owner has 101 classes" in findings["food101"].problems
    yours = findings["bricks"]
    assert (yours.state, yours.images, yours.classes) == ("yours", {"train": 6, "test": 3}, 3)
    assert yours.tasks == list(CLASSIFYING)


def test_a_data_set_is_ready_when_it_has_what_its_owner_has(shelf, monkeypatch):
    entry = replace(DATASETS["pets"], classes=3, sizes={"train": 4, "test": 2})
    monkeypatch.setitem(coverage.DATASETS, "pets", entry)
    findings = list(found(shelf).values())
    assert findings[0].name == "pets"
    assert findings[0].state == "ready"
    assert findings[0].problems == []
    assert suites(findings)["many-shot"]["ready"] == ["pets"]
    assert len(suites(findings)["many-shot"]["missing"]) == 10
    assert summary(findings)[1].startswith("many-shot: 1 of 11 data sets are ready; not food101, ")


def test_what_is_missing_of_one_is_named(tmp_path):
    owners.cars(tmp_path)
    (tmp_path / "stanford_cars/devkit/cars_meta.mat").unlink()
    shutil.rmtree(tmp_path / "stanford_cars/cars_test")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train2017.json").touch()
    (tmp_path / "nyu_depth_v2_labeled.mat").touch()
    (tmp_path / "splits.mat").touch()
    owners.dtd(tmp_path)
    os.unlink(tmp_path / "dtd/dtd/images/banded/banded_0010.jpg")
    findings = found(tmp_path)
    assert findings["cars"].state == findings["coco"].state == findings["dtd"].state == "incomplete"
    assert findings["cars"].problems[:2] == [
        "devkit/cars_meta.mat is missing",
        "cars_test/ is missing",
    ]
    assert "cars_test.tgz" in findings["cars"].problems[2]
    assert findings["coco"].problems[0] == "annotations/instances_val2017.json is missing"
    assert "1 of 3 listed images are missing, images/banded/banded" in findings["dtd"].problems[0]
    assert findings["nyuv2"].state == "incomplete"
    assert "nyu_depth_v2_labeled.mat: " in findings["nyuv2"].problems[0]  # or h5py is not there
    assert findings["nyuv2"].tasks == []


def test_images_are_read_if_wished(tmp_path):
    owners.flowers102(tmp_path)
    folder = tmp_path / "flowers-102/jpg"
    shutil.copy(folder / "image_00001.jpg", folder / "image_00004.jpg")  # of train, of test
    shutil.copy(folder / "image_00006.jpg", folder / "image_00007.jpg")  # both of test
    (folder / "image_00005.jpg").write_bytes(b"no image")
    ticks = []
    finding = found(tmp_path, True, lambda *counts: ticks.append(counts))["flowers102"]
    (damaged,) = [line for line in finding.problems if "decoded" in line]
    (twice,) = [line for line in finding.problems if "two splits" in line]
    assert damaged.startswith("1 images cannot be decoded: ")
    assert "image_00005.jpg (" in damaged
    assert twice.startswith("1 images stand in two splits, byte for byte: ")
    assert "image_00001.jpg of train is " in twice
    assert "image_00004.jpg of test" in twice
    assert ticks[-1] == (8, 8)
    assert not any("decoded" in line for line in found(tmp_path)["flowers102"].problems)
    asked = CliRunner().invoke(app, ["data", "check", str(tmp_path), "--images"])
    assert asked.exit_code == 2
    assert "1 images cannot be decoded" in asked.stdout


def test_a_table_and_a_split_of_one_s_own(tmp_path):
    owners.write_image(tmp_path / "images/1.jpg", 1)
    (tmp_path / "labels.csv").write_text("path,label\nimages/1.jpg,a\n")
    assert found(tmp_path)["labels.csv"].state == "incomplete"
    write_images(tmp_path / "train", 2, seed=0)
    write_images(tmp_path / "test", 1, seed=1)
    findings = found(tmp_path)
    assert findings[tmp_path.name].images == {"train": 6, "test": 3}
    assert "train" not in findings


def test_the_verb_prints_both(tmp_path):
    owners.pets(tmp_path)
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path), "--json", "-"])
    assert result.exit_code == 0
    content = json.loads(result.stdout)
    first = content["data_sets"][0]
    assert (first["name"], first["state"]) == ("pets", "differs")
    assert first["images"] == {"train": 4, "test": 2}
    assert content["suites"]["few-shot"]["ready"] == []
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    lines = result.stdout.splitlines()
    assert lines[0].startswith(
        "differs     pets            train 4, test 2 images, 3 classes; knn,"
    )
    assert lines[-2].startswith("detection, segmentation, normals: 0 of 4 data sets are ready; not")


def test_images_with_maps_of_one_s_own_are_no_classes(tmp_path):
    rooms.split(tmp_path / "walls", 3, 2)
    rooms.frames(tmp_path / "film", 6)
    for number in range(5):
        image = np.zeros((8, 8, 3), np.uint8)
        rooms.picture(tmp_path / f"streets/images/{number}.png", image)
        rooms.picture(tmp_path / f"streets/masks/{number}.png", image[..., 0])
    findings = found(tmp_path)
    assert findings["walls"].images == {"train": 3, "test": 2}
    assert findings["walls"].tasks == ["normals", "depth"]
    assert findings["film"].images == {"train": 5, "test": 1}
    assert findings["film"].lines()[0].split("  ")[-1].startswith("train 5, test 1 images; normals")
    assert findings["streets"].tasks == ["segment", "denselinear"]
    (alone,) = [f for f in found(tmp_path / "film").values() if f.state == "yours"]
    assert (alone.name, alone.tasks) == ("film", ["normals", "depth"])


def test_class_folders_with_a_json_beside_them_and_labelled_shards_are_classes(tmp_path):
    write_images(tmp_path / "named/train", 2, seed=0)
    write_images(tmp_path / "named/test", 1, seed=1)
    (tmp_path / "named/train.json").write_text('{"images": []}')
    (tmp_path / "named/test.json").write_text('{"a": 1}')
    for split in ("train", "test"):
        options = BuildOptions(workers=1, labels=True)
        build([str(tmp_path / "named" / split)], tmp_path / f"shards/{split}", options)
    findings = found(tmp_path)
    for name in ("named", "shards"):
        assert findings[name].images == {"train": 6, "test": 3}
        assert "knn" in findings[name].tasks


def test_a_pipe_called_like_a_coco_file_is_not_waited_for(tmp_path):
    (tmp_path / "pipes").mkdir()
    for name in ("train.json", "val.json"):
        os.mkfifo(tmp_path / "pipes" / name)
    assert "pipes" not in found(tmp_path)
