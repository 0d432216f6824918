"""Which images are for training and which for testing, and what is refused."""

import hashlib
import logging
import pickle
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest

from seer.data.labelled import load_labelled
from seer.errors import InputError
from seer.eval.data.datasets import DATASETS
from seer.eval.data.several import MultiLabelled
from seer.eval.data.splitting import joined, load, rule_of, some_of_each, train_and_test
from seer.eval.task import evaluate
from seer.results import read_results
from tests.eval.data.test_datasets import contents
from tests.kit import owners
from tests.kit.pictures import write_images


def test_validation_images_are_trained_on(tmp_path):
    wanted = owners.dtd(tmp_path)
    splits = load(tmp_path)
    assert splits.val is not None
    assert sorted(contents(splits.val)) == sorted(wanted["val"])
    train, test = train_and_test(tmp_path)
    assert contents(train) == contents(splits.train) + contents(splits.val)
    assert contents(test) == contents(splits.test)
    assert rule_of(tmp_path) == "train and val together to train on"
    assert contents(pickle.loads(pickle.dumps(train))) == contents(train)
    assert [train.source.name(i) for i in (0, 3)] == [
        splits.train.source.name(0),
        splits.val.source.name(0),
    ]
    assert train.source.key(4) == splits.val.source.key(1)
    assert train.fingerprint not in (splits.train.fingerprint, splits.val.fingerprint)


def test_joining_one_part_changes_nothing(tmp_path):
    images = load_labelled(write_images(tmp_path / "images", 2, seed=0))
    assert joined([images]) is images


def test_caltech_has_thirty_images_of_each_class_to_train_on(tmp_path):
    (whole,) = owners.caltech101(tmp_path).values()
    splits = load(tmp_path)
    assert np.bincount(splits.train.labels).tolist() == [30, 30, 30]
    assert np.bincount(splits.test.labels).tolist() == [2, 3, 4]
    assert sorted(contents(splits.train) + contents(splits.test)) == sorted(whole)
    assert "30 images of each class to train on (seed 0)" in splits.rule
    # By the definition: the smallest digests of seed and name.
    names = [f"accordion/image_{i + 1:04d}.jpg" for i in range(33)]
    digests = {hashlib.sha256(f"0/{name}".encode()).hexdigest(): name for name in names}
    chosen = {digests[digest] for digest in sorted(digests)[:30]}
    keys = [splits.train.source.key(i) for i in np.flatnonzero(splits.train.labels == 1)]
    assert set(keys) == chosen


def test_the_draw_depends_on_the_seed_and_not_on_the_place(tmp_path):
    owners.caltech101(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    chosen = {}
    for folder in ("here", "there"):
        whole = load_labelled(tmp_path / folder / "caltech101/101_ObjectCategories")
        for seed in (0, 1):
            chosen[folder, seed] = contents(some_of_each(whole, 5, seed)[0])
    assert chosen["here", 0] == chosen["there", 0]
    assert chosen["here", 0] != chosen["here", 1]


@pytest.mark.parametrize("name", ["eurosat", "isic", "chestx"])
def test_data_that_their_owners_do_not_split_are_divided(tmp_path, name):
    (whole,) = owners.OWNERS[name](tmp_path).values()
    splits = load(tmp_path)
    assert sorted(contents(splits.train) + contents(splits.test)) == sorted(whole)
    assert len(splits.test) == len(splits.test.classes)  # one of five, at least one of two
    assert splits.rule == "one image in 5 of each class held out"


def test_other_sizes_than_the_owners_are_said(tmp_path, caplog):
    owners.pets(tmp_path)
    with caplog.at_level(logging.WARNING):
        load(tmp_path)
    assert "train 4, test 2 images, and Oxford-IIIT Pets has train 3,680, test 3,669" in caplog.text


def test_images_of_several_classes(tmp_path):
    owners.voc07(tmp_path)
    splits = load(tmp_path)
    for split, images in {"train": splits.train, "val": splits.val, "test": splits.test}.items():
        assert isinstance(images, MultiLabelled)
        assert images.classes == owners.VOC_CLASSES
        assert images.labels.dtype == np.int8
        names = owners.VOC_SPLITS[split]
        assert [int(images.image(i).mean().round()) for i in range(len(images))] == list(
            map(int, names)
        )
        assert images.labels.tolist() == [by_annotation(tmp_path, name) for name in names]
    with pytest.raises(
        InputError, match="has several classes for each image, which this task cannot score"
    ):
        train_and_test(tmp_path)
    train, test = train_and_test(tmp_path, several=True)
    assert train.labels.tolist() == splits.train.labels.tolist() + splits.val.labels.tolist()
    assert test.labels.shape == (2, 3)


def by_annotation(root, name: str) -> list[int]:
    """What the XML beside the lists says: VOC's own rule (devkit, section on classification)."""
    objects = ElementTree.parse(root / f"VOCdevkit/VOC2007/Annotations/{name}.xml").iter("object")
    seen: dict[str, set[str]] = {}
    for item in objects:
        seen.setdefault(str(item.findtext("name")), set()).add(str(item.findtext("difficult")))
    return [
        0 if kind not in seen else 1 if "0" in seen[kind] else -1 for kind in owners.VOC_CLASSES
    ]


def test_an_evaluation_takes_a_folder_as_its_owner_lays_it_out(tmp_path):
    owners.flowers102(tmp_path / "data")
    out = tmp_path / "results.jsonl"
    rows = evaluate("knn", "pixels:8", f"flowers102:{tmp_path / 'data'}", ["k=[1]"], out)
    assert rows[0]["details"]["images"] == 3
    assert rows[0]["options"]["split"] == "train and val together to train on"
    assert (
        rows[0]["value"]
        == evaluate("knn", "pixels:8", tmp_path / "data", ["k=[1]"], out)[0]["value"]
    )


@pytest.mark.parametrize("whole", [True, False])
def test_a_result_names_the_data_set_where_all_of_its_images_were_measured(
    tmp_path, monkeypatch, whole
):
    owners.dtd(tmp_path / "data")
    sizes = {"train": 3, "val": 2, "test": 2 if whole else 3}
    monkeypatch.setitem(DATASETS, "dtd", replace(DATASETS["dtd"], sizes=sizes))
    out = tmp_path / "results.jsonl"
    rows = evaluate("logreg", "pixels:8", tmp_path / "data", [], out)
    assert {row.get("dataset") for row in rows} == {"dtd" if whole else None}
    assert read_results(out) == rows


def write_table(folder, text: str):
    folder.mkdir(exist_ok=True)
    for number in range(10, 100, 10):
        owners.write_image(folder / f"images/{number}.jpg", number)
    (folder / "labels.csv").write_text(text)
    return folder / "labels.csv"


def test_a_table_of_one_s_own(tmp_path):
    path = write_table(
        tmp_path,
        "note, label,path,split\n"
        "x,cat,images/10.jpg,train\n"
        '"a ""note"", of two\nlines",dog,images/20.jpg,Training\n'
        ",cat,images/30.jpg,validation\n"
        ",dog,images/40.jpg,test\n",
    )
    splits = load(path)
    assert contents(splits.train) == [(10, "cat"), (20, "dog")]
    assert contents(splits.val) == [(30, "cat")]
    assert contents(splits.test) == [(40, "dog")]
    assert rule_of(path) == "train and val together to train on"


def test_a_table_in_the_folder_where_one_is_is_named_with_its_folder(tmp_path, monkeypatch):
    write_table(tmp_path, "path,label\nimages/10.jpg,a\nimages/11.jpg,b")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"{tmp_path}: 1 of 2 listed images are missing"):
        load("labels.csv")


def test_a_table_without_splits_is_divided(tmp_path):
    rows = [f"images/{number}.jpg,{'ab'[number % 20 // 10]}" for number in range(10, 90, 10)]
    splits = load(write_table(tmp_path, "\n".join(["path,label", *rows])))
    assert len(splits.train) + len(splits.test) == 8
    assert np.bincount(splits.test.labels).tolist() == [1, 1]
    assert splits.rule == "one image in 5 of each class held out"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "its first line names no column 'path'"),
        ("path,labels\nimages/10.jpg,a", r"names no column 'label' \(did you mean 'labels'"),
        ("path,label\nimages/10.jpg,a,b", "line 2: has another number of columns than the header"),
        ("path,label\nimages/10.jpg", "line 2: has another number of columns than the header"),
        ("path,label\nimages/10.jpg,", "line 2: names no class"),
        (
            "path,label,split\nimages/10.jpg,a,trian",
            "split 'trian' is unknown .did you mean 'train'",
        ),
        (
            "path,label\nimages/10.jpg,a\nimages/11.jpg,b",
            "1 of 2 listed images are missing, images/11",
        ),
        ("path,label\n../labels.csv,a", "'../labels.csv', which is no file below it"),
        ("path,label\n/etc/passwd,a", "'/etc/passwd', which is no file below it"),
        ("path,label\n,a", "'', which is no file below it"),
        ('path,label\n"images/10.jpg,a', "line 1: unexpected end of data"),
        ("path,label\nimages/10.jpg,a\nimages/20.jpg,b", "two images of a class"),
        ("path,label,split\nimages/10.jpg,a,train\nimages/20.jpg,a,", "and others none"),
        ("path,label,split\nimages/10.jpg,a,train", "has no test images"),
        ("path,label,split\nimages/10.jpg,a,test", "has no training images"),
        ("path,label\n", "name no image"),
        (
            "path,label,split\nimages/10.jpg,a,train\nimages/10.jpg,a,test",
            "images/10.jpg is listed twice, in train and test",
        ),
        (
            "path,label,split\nimages/10.jpg,a,train\nimages/20.jpg,b,train\nimages/30.jpg,c,test",
            "test class 'c' has no training images",
        ),
    ],
)
def test_a_wrong_table_is_one_line(tmp_path, text, words):
    with pytest.raises(InputError, match=words) as raised:
        train_and_test(write_table(tmp_path, text))
    assert "\n" not in str(raised.value)
