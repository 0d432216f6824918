import os
import pickle

import numpy as np
import pytest
from PIL import Image

from seer.data.labelled import load_labelled, part, splits
from seer.errors import InputError
from tests.kit.fuzzing import within_memory
from tests.kit.pictures import coloured_jpeg
from tests.kit.shards import write_shards

FILES = {
    "cat/1.jpg": 10,
    "cat/deep/er/2.JPEG": 20,
    "dog/1.png": 30,
    "dog/2.jpg": 40,
    "zebra/a/1.jpg": 50,
}


def write_folders(root, files=FILES):
    for name, grey in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.new("L", (8, 8), grey).save(path)
        else:
            path.write_bytes(coloured_jpeg(grey))
    return root


def contents(data) -> list[tuple[str, int]]:
    return [
        (data.classes[data.labels[i]], int(data.image(i).mean().round())) for i in range(len(data))
    ]


def test_class_folders_of_any_depth(tmp_path):
    write_folders(tmp_path)
    for name in (
        "cat/.hidden.jpg",
        "dog/notes.txt",
        ".cache/x.jpg",
        "dog/.thumbs/1.jpg",
        "loose.jpg",
        "empty/readme",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(coloured_jpeg(99))
    data = load_labelled(tmp_path)
    assert data.classes == ["cat", "dog", "zebra"]
    assert contents(data) == [("cat", 10), ("cat", 20), ("dog", 30), ("dog", 40), ("zebra", 50)]
    assert data.labels.dtype == np.int64
    assert data.bytes(0) == coloured_jpeg(10)
    assert data.image(0).shape == (16, 16, 3)
    assert contents(pickle.loads(pickle.dumps(data))) == contents(data)


def test_images_of_kinds_that_are_not_read_are_told_of(tmp_path, caplog):
    write_folders(tmp_path)
    for name in ("IMG_1.HEIC", "IMG_2.heic"):
        (tmp_path / "dog" / name).write_bytes(b"x")
    assert len(load_labelled(tmp_path)) == 5
    assert f"{tmp_path}: left out 2 images of kinds that are not read, as IMG_1.HEIC" in caplog.text


def test_links_are_followed_but_not_in_circles(tmp_path):
    write_folders(tmp_path / "data", {"cat/1.jpg": 10, "dog/2.jpg": 20})
    write_folders(tmp_path, {"elsewhere/deep/3.jpg": 30})
    (tmp_path / "data/dog/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/deep/back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/cat/all").symlink_to(tmp_path / "data/cat")
    (tmp_path / "elsewhere/deep/other").mkdir()
    (tmp_path / "elsewhere/deep/other/way").symlink_to(tmp_path / "crossed")
    (tmp_path / "crossed").mkdir()
    (tmp_path / "crossed/way").symlink_to(tmp_path / "elsewhere/deep/other")
    (tmp_path / "data/cat/boxes.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    assert contents(load_labelled(tmp_path / "data")) == [("cat", 10), ("dog", 20), ("dog", 30)]
    (tmp_path / "data/cat/4.jpg").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"cat/4.jpg cannot be read \(No such file"):
        load_labelled(tmp_path / "data")
    (tmp_path / "data/cat/4.jpg").unlink()
    os.mkfifo(tmp_path / "data/cat/4.jpg")
    with pytest.raises(InputError, match=r"cat/4.jpg cannot be read \(not a regular file"):
        load_labelled(tmp_path / "data")


def test_labelled_shards(tmp_path):
    labels = {0: 1, 1: 0, 2: None, 3: 1, 4: 0}
    write_shards(
        tmp_path,
        [2, 3],
        image=lambda i: coloured_jpeg(10 * i),
        labels=labels.get,
        classes=["ant", "bee"],
    )
    data = load_labelled(tmp_path)
    assert contents(data) == [("bee", 0), ("ant", 10), ("bee", 30), ("ant", 40)]
    assert contents(pickle.loads(pickle.dumps(data))) == contents(data)


def test_shards_without_class_names_number_them(tmp_path):
    write_shards(tmp_path, [4], labels=lambda i: 2 * (i % 2))
    data = load_labelled(tmp_path)
    assert data.classes == ["0", "2"]
    assert data.labels.tolist() == [0, 1, 0, 1]


def test_huge_numbers_without_class_names_cost_nothing(tmp_path):
    write_shards(tmp_path, [4], labels=[7, 999_999_999, 7, 2**31 - 1].__getitem__)
    with within_memory(2**26):
        data = load_labelled(tmp_path)
    assert data.classes == ["7", "999999999", "2147483647"]
    assert data.labels.tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize("label", [2, 999_999_999, -7])
def test_labels_that_are_none_of_the_classes_are_named(tmp_path, label):
    write_shards(tmp_path, [3], labels=[0, label, 1].__getitem__, classes=["ant", "bee"])
    with pytest.raises(
        InputError, match=rf"sample 1 of .* has label {label}, which is none of the 2 classes|label"
    ):
        load_labelled(tmp_path)


@pytest.mark.parametrize("test_folder", ["test", "val"])
def test_splits(tmp_path, test_folder):
    write_folders(tmp_path / "train")
    # No dogs: numbers still agree.
    write_folders(tmp_path / test_folder, {"zebra/9.jpg": 90, "cat/8.jpg": 80})
    train, test = splits(tmp_path)
    assert train.classes == test.classes == ["cat", "dog", "zebra"]
    assert contents(test) == [("cat", 80), ("zebra", 90)]
    assert len(train) == 5
    assert contents(load_labelled(tmp_path, "test")) == contents(test)


def test_splits_mix_folders_and_shards(tmp_path):
    write_folders(tmp_path / "train", {"ant/1.jpg": 1, "bee/2.jpg": 2})
    labels, classes = [0, 1], ["bee", "ant"]
    write_shards(
        tmp_path / "test", [2], lambda i: coloured_jpeg(50 + i), labels.__getitem__, classes
    )
    _, test = splits(tmp_path)
    assert contents(test) == [("bee", 50), ("ant", 51)]
    assert test.labels.tolist() == [1, 0]


def test_a_class_only_in_the_test_images_is_an_error(tmp_path):
    write_folders(tmp_path / "train", {"ant/1.jpg": 1})
    write_folders(tmp_path / "test", {"ant/1.jpg": 1, "wasp/1.jpg": 1})
    with pytest.raises(InputError, match="test class 'wasp' has no training images"):
        splits(tmp_path)


def test_a_class_named_without_training_images_is_an_error_too(tmp_path):
    for split, labels in {"train": [0, 1, 0], "test": [0, 1, 2]}.items():
        write_shards(
            tmp_path / split, [3], labels=labels.__getitem__, classes=["ant", "bee", "cow"]
        )
    with pytest.raises(InputError, match="test class 'cow' has no training images"):
        splits(tmp_path)


def test_classes_of_which_there_is_nothing_do_not_count(tmp_path):
    for split, labels in {"train": [3, 1, 3], "test": [3, 3, 1]}.items():
        write_shards(
            tmp_path / split, [3], labels=labels.__getitem__, classes=["ant", "bee", "cow", "dog"]
        )
    train, test = splits(tmp_path)
    assert train.classes == test.classes == ["bee", "dog"]
    assert train.labels.tolist() == [1, 0, 1]
    assert test.labels.tolist() == [1, 1, 0]


def test_a_single_class_cannot_be_scored(tmp_path):
    for split in ("train", "test"):
        write_folders(tmp_path / split, {"ant/1.jpg": 1})
    with pytest.raises(InputError, match="all training images are of class 'ant'"):
        splits(tmp_path)


def test_fingerprint_follows_images_and_labels(tmp_path):
    root = write_folders(tmp_path)
    fingerprint = load_labelled(root).fingerprint
    assert len(fingerprint) == 16
    assert load_labelled(root).fingerprint == fingerprint
    for change in (
        lambda: os.utime(root / "cat/1.jpg", (1, 1)),
        lambda: (root / "cat").rename(root / "cow"),
        lambda: write_folders(root, {"dog/3.jpg": 7}),
    ):
        before = load_labelled(root).fingerprint
        change()
        assert load_labelled(root).fingerprint != before


def test_fingerprint_of_shards_follows_labels(tmp_path):
    roots = [
        write_shards(tmp_path / f"{i}", [3], labels=lambda _, i=i: i).directory for i in (0, 1)
    ]
    assert load_labelled(roots[0]).fingerprint != load_labelled(roots[1]).fingerprint


def test_a_damaged_image_is_named(tmp_path):
    write_folders(tmp_path)
    (tmp_path / "cat/1.jpg").write_bytes(coloured_jpeg(10)[:300])
    (tmp_path / "dog/1.png").write_bytes(b"")
    data = load_labelled(tmp_path)
    with pytest.raises(InputError, match=r"cat/1.jpg cannot be used \(.+\); repair or remove it"):
        data.image(0)
    with pytest.raises(InputError, match=r"dog/1.png cannot be used \(empty file\)"):
        data.image(2)
    os.unlink(tmp_path / "dog/2.jpg")
    with pytest.raises(InputError, match=r"dog/2.jpg cannot be used \(.*No such file"):
        data.image(3)


@pytest.mark.parametrize(
    ("make", "split", "words"),
    [
        (lambda root: root / "nowhere", None, "does not exist"),
        (lambda root: root / "nowhere", "train", "does not exist"),
        (lambda root: root / ("x" * 300), None, "does not exist"),
        (lambda root: root / ("x" * 300), "test", "does not exist"),
        (lambda root: root, None, "no class folders with images; lay them out as"),
        (lambda root: root, "test", "has no folder test/ or val/"),
        (
            lambda root: write_folders(root, {"train/1.jpg": 1, "val/1.jpg": 2}),
            None,
            "holds splits, not classes; give",
        ),
        (lambda root: write_shards(root, [3]).directory, None, "shards without labels"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, make, split, words):
    with pytest.raises(InputError, match=words):
        load_labelled(make(tmp_path), split)


def test_a_label_without_a_name_makes_no_list_of_its_length(tmp_path):
    write_shards(tmp_path, [2], labels=lambda i: 999_999_999 * i)
    images = load_labelled(tmp_path)
    assert images.classes == ["0", "999999999"]
    assert images.labels.tolist() == [0, 1]


def test_data_without_a_split_are_split_by_their_names(tmp_path, caplog):
    files = {f"{name}/{i}.jpg": 10 * i for name in ("cat", "dog") for i in range(10)}
    train, test = splits(write_folders(tmp_path / "pets", files | {"zebra/0.jpg": 200}))
    assert (len(train), len(test)) == (17, 4)
    assert np.bincount(test.labels).tolist() == [2, 2]
    assert sorted(contents(train) + contents(test)) == sorted(
        (name.partition("/")[0], grey) for name, grey in (files | {"zebra/0.jpg": 200}).items()
    )
    assert (
        "one image in 5 of each class is held out; 17 images to train on, 4 to test with"
        in caplog.text
    )
    chosen = contents(test)
    encoded = [test.bytes(i) for i in range(4)]
    moved = tmp_path / "elsewhere"
    (tmp_path / "pets").rename(moved)
    _, held_out = splits(moved)
    assert contents(held_out) == chosen
    assert [held_out.bytes(i) for i in range(4)] == encoded
    # What is added leaves most of the others where they are.
    write_folders(moved, {"cat/new.jpg": 250})
    _, grown = splits(moved)
    assert len(set(contents(grown)) & set(chosen)) >= 3


def test_shards_without_a_split_are_split(tmp_path):
    write_shards(tmp_path, [6, 4], labels=lambda i: i % 2, classes=["even", "odd"])
    train, test = splits(tmp_path)
    assert (len(train), len(test)) == (8, 2)
    assert sorted(grey for _, grey in contents(train) + contents(test)) == list(range(10))
    assert all(
        (grey % 2 == 1) == (name == "odd") for name, grey in contents(train) + contents(test)
    )
    assert train.fingerprint != test.fingerprint


def test_classes_of_one_image_each_cannot_be_split(tmp_path):
    with pytest.raises(InputError, match="two images of a class"):
        splits(write_folders(tmp_path, {"cat/1.jpg": 1, "dog/1.jpg": 2}))


def test_half_a_split_is_no_data_without_one(tmp_path):
    write_folders(tmp_path / "train")
    with pytest.raises(InputError, match="no folder test/ or val/"):
        splits(tmp_path)


def test_a_part_knows_which_of_its_images_are_the_owners_validation_images(tmp_path):
    whole = load_labelled(write_folders(tmp_path))  # of classes 0, 0, 1, 1, 2
    whole.validation = np.array([1, 3, 4])
    whole.metric = "mean_per_class"
    whole.dataset = "pets"
    chosen = part(whole, np.array([0, 3, 2, 4]))
    assert chosen.validation.tolist() == [1, 3]
    assert chosen.labels[chosen.validation].tolist() == [1, 2]
    assert (chosen.metric, chosen.dataset) == ("mean_per_class", "")
    assert part(chosen, np.array([2, 0])).validation.tolist() == []
