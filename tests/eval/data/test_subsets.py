"""Which training images count as labelled: shares, numbers and lists."""

import hashlib
import logging

import numpy as np
import pytest

from seer.data.labelled import Labelled, load_labelled, part, say_once
from seer.errors import InputError
from seer.eval.data.splitting import joined
from seer.eval.data.subsets import by_list, by_number, by_percent, names
from tests.kit.shards import write_shards


class Named:
    """Images that are nothing but names."""

    fingerprint = "named"

    def __init__(self, keys: list[str]):
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, i: int) -> str:
        return self.keys[i]

    def name(self, i: int) -> str:
        return f"data/{self.keys[i]}"


def images(**members: int) -> Labelled:
    """So many images of each class: `n01/n01_0.JPEG`, …"""
    keys = [f"{name}/{name}_{i}.JPEG" for name, count in members.items() for i in range(count)]
    labels = np.repeat(np.arange(len(members)), list(members.values()))
    return Labelled(Named(keys), labels, list(members))


def counts(data: Labelled, rows: np.ndarray) -> list[int]:
    assert rows.tolist() == sorted(set(rows.tolist()))
    return np.bincount(data.labels[rows], minlength=len(data.classes)).tolist()


@pytest.fixture(autouse=True)
def nothing_said():
    say_once.cache_clear()


@pytest.fixture
def write(tmp_path):
    def written(*lines: str):
        path = tmp_path / "list.txt"
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return written


@pytest.mark.parametrize(
    ("percent", "expected"),
    [(10, [15, 3, 1, 1]), (1, [2, 1, 1, 1]), (50, [75, 13, 4, 1]), (100, [150, 25, 7, 1])],
)
def test_a_percentage_is_of_each_class_rounded_with_halves_up_and_one_at_least(percent, expected):
    data = images(n01=150, n02=25, n03=7, n04=1)  # 10 %: 15, 2.5, 0.7, 0.1
    assert counts(data, by_percent(data, percent, 0)) == expected


def test_which_ones_is_by_the_smallest_hashes_of_seed_and_name():
    data = images(n01=50, n02=50)
    for seed in (0, 3):
        for label in (0, 1):
            keys = [key for key in data.source.keys if key.startswith(data.classes[label])]
            digests = sorted((hashlib.sha256(f"{seed}/{k}".encode()).hexdigest(), k) for k in keys)
            rows = by_percent(data, 10, seed)
            chosen = {data.source.key(row) for row in rows if data.labels[row] == label}
            assert chosen == {key for _, key in digests[:5]}
    assert set(by_percent(data, 10, 0)) < set(by_percent(data, 20, 0))
    assert set(by_percent(data, 10, 0)) != set(by_percent(data, 10, 3))


def test_less_than_one_image_of_a_class_is_one_and_is_said(caplog):
    data = images(**{f"n{i:02d}": 1 for i in range(30)})
    with caplog.at_level(logging.WARNING):
        assert counts(data, by_percent(data, 1, 0)) == [1] * 30
    assert (
        "1 % is less than one image of 30 of the 30 classes, of which one each is taken: "
        "30 of 30 training images (100 %)" in caplog.text
    )
    caplog.clear()
    by_percent(images(n01=100, n02=100), 1, 0)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(9, [3, 3, 3]), (10, [4, 3, 3]), (3, [1, 1, 1]), (40, [19, 18, 3]), (123, [100, 20, 3])],
)
def test_a_number_of_labels_is_spread_evenly_as_far_as_classes_have_them(labels, expected):
    data = images(n01=100, n02=20, n03=3)
    assert counts(data, by_number(data, labels, 0)) == expected


@pytest.mark.parametrize(
    ("labels", "message"),
    [(2, "labels=2: there are 3 classes; give as many"), (10, "labels=10: there are 9 training")],
)
def test_a_number_of_labels_that_cannot_be_is_refused(labels, message):
    with pytest.raises(InputError, match=message):
        by_number(images(n01=3, n02=3, n03=3), labels, 0)


@pytest.mark.parametrize(
    "lines",
    [
        ["n01_2.JPEG", "n02_0.JPEG"],
        ["n01/n01_2.JPEG", "n02/n02_0.JPEG"],
        ["./n01/n01_2.JPEG", "", "n02/n02_0.JPEG"],
        ["ILSVRC/train/n01/n01_2.JPEG", "ILSVRC/train/n02/n02_0.JPEG"],
    ],
)
def test_a_list_names_files_or_paths(write, lines):
    assert by_list(images(n01=3, n02=3), write(*lines), "data").tolist() == [2, 3]


def test_a_list_of_files_names_samples_of_shards_by_source_or_key(tmp_path, write):
    write_shards(tmp_path / "shards", [3, 3], labels=lambda i: i % 2, classes=["even", "odd"])
    data = load_labelled(tmp_path / "shards")
    for line in ("000000004.jpg", "000000004", "photos/000000004.jpg"):
        assert by_list(data, write("000000001.jpg", line), "shards").tolist() == [1, 4]
    assert names(part(data, np.array([1, 4]))) == ["000000001", "000000004"]


def test_names_are_a_list_that_gives_the_same_images(write, tmp_path):
    data = images(n01=30, n02=30)
    rows = by_percent(data, 20, 0)
    assert by_list(data, write(*names(part(data, rows))), "data").tolist() == rows.tolist()
    # Also where images are numbered in each of several files.
    numbers = Labelled(Named(["0", "1", "2"]), np.array([0, 1, 0]), ["n01", "n02"])
    twice = joined([numbers, numbers])
    assert names(twice) == ["1:0", "1:1", "1:2", "2:0", "2:1", "2:2"]
    assert by_list(twice, write("2:0", "1:1"), "data").tolist() == [1, 3]
    with pytest.raises(InputError, match="1 may be data/1 or data/1; list paths"):
        by_list(twice, write("1"), "data")


@pytest.mark.parametrize("rows", [[1, 4], [0, 1, 2, 4], [3, 4, 5], [0, 5]])
def test_a_part_of_sources_whose_names_repeat_is_read_back_as_the_same_images(write, rows):
    labels = ([0, 1, 0], [1, 0, 1])
    whole = joined(
        [Labelled(Named(["0", "1", "2"]), np.array(own), ["n01", "n02"]) for own in labels]
    )
    chosen = part(whole, np.array(rows))
    assert by_list(whole, write(*names(chosen)), "data").tolist() == rows
    # Also where the whole is itself a part, as of data without a split of their own.
    held = part(whole, np.array([0, 1, 3, 4, 5]))
    chosen = part(held, np.array([1, 2]))
    assert names(chosen) == ["1:1", "2:0"]


def test_other_images_have_other_names(write):
    keys = ["a", "1:a", "a", "b"]
    data = Labelled(Named(keys), np.array([0, 1, 0, 1]), ["n01", "n02"])
    assert names(data) == ["2:a", "1:a", "3:a", "b"]
    assert by_list(data, write("1:a", "3:a"), "data").tolist() == [1, 2]


def test_shards_in_train_and_val_whose_keys_repeat(tmp_path, write):
    for split in ("train", "val"):
        write_shards(tmp_path / split, [4], labels=lambda i: i % 2, classes=["even", "odd"])
    whole = joined([load_labelled(tmp_path / split) for split in ("train", "val")])
    lists = set()
    for rows in ([0, 1], [0, 5], [4, 5], [1, 4]):
        listed = names(part(whole, np.array(rows)))
        assert by_list(whole, write(*listed), "shards").tolist() == rows
        lists.add(tuple(listed))
    assert len(lists) == 4


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "lists no image"),
        (
            ["n01_0.JPEG", "n02_7.JPEG", "n02_8.JPEG", "n02_1.JPEG"],
            "2 of 4 listed images are not among the 6 training images of data, n02_7.JPEG first",
        ),
        (["n01_0.JPEG", "n02_0.JPEG", "n01_0.JPEG"], "n01_0.JPEG is listed twice"),
        (["n01_0.JPEG", "n02_0.JPEG", "n01/n01_0.JPEG"], "n01/n01_0.JPEG is listed twice"),
        (["n01_0.JPEG", "n02/n01_1.JPEG"], "1 of 2 listed images are not among"),
        (["n01_0.JPEG", "n01_1.JPEG"], "no image of 1 of the 2 classes, 'n02' first"),
    ],
)
def test_a_list_that_is_not_of_these_data_is_one_line(write, lines, message):
    with pytest.raises(InputError, match=message) as error:
        by_list(images(n01=3, n02=3), write(*lines), "data")
    assert "\n" not in str(error.value)


def test_an_image_in_another_classes_folder_is_refused(write):
    data = Labelled(Named(["n01/n01_0.JPEG", "n02/n01_1.JPEG"]), np.array([0, 1]), ["n01", "n02"])
    with pytest.raises(
        InputError,
        match=r"n01_1\.JPEG is of class n01 by its name, and data/n02/n01_1\.JPEG is of class n02",
    ):
        by_list(data, write("n01_0.JPEG", "n01_1.JPEG"), "data")
    assert by_list(data, write("n01_0.JPEG", "n02/n01_1.JPEG"), "data").tolist() == [0, 1]


def test_a_list_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.txt is missing"):
        by_list(images(n01=1, n02=1), tmp_path / "nowhere.txt", "data")
