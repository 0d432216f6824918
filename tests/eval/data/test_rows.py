"""Lists of text and JSON: what is wrong in one is one line."""

import json
import os

import numpy as np
import pytest

from seer.data.labelled import load_labelled
from seer.errors import InputError
from seer.eval.data.datasets import DATASETS
from seer.eval.data.rows import LARGEST_LIST, Lists, before_number, folder_of, read_list
from seer.eval.data.splitting import load, train_and_test
from tests.kit import owners

FOOD = Lists({"train": "train.txt"}, "images/{}.jpg", folder_of)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            b"a/1\nb/2\n../../secret/3\n",
            r"names 'images/../../secret/3.jpg', which is no file below",
        ),
        (b"a/1\na/1\n", r"images/a/1.jpg is listed twice, in train and train"),
        (
            b"a/1\nb/2\nb/9\nb/8\n",
            r"2 of 4 listed images are missing, images/b/9.jpg first; unpack",
        ),
        (b"loose\n", "'loose' names no class"),
        (b"", "name no image"),
        (b"\xff\xfe/1\n", "not a text in UTF-8"),
        (b"a/" + b"x" * 5000, "a path of 5,0"),
        (b"a/\x001\n", "which is no file below it"),
    ],
)
def test_a_wrong_list_is_one_line(tmp_path, text, words):
    for path in ("a/1", "b/2"):
        owners.write_image(tmp_path / f"images/{path}.jpg", 1)
    (tmp_path / "train.txt").write_bytes(text)
    with pytest.raises(InputError, match=words) as raised:
        FOOD(tmp_path)
    assert str(raised.value).isprintable()


def test_lists_that_are_not_there_or_endless(tmp_path):
    with pytest.raises(
        InputError, match=r"train\.txt is missing; get it from the data set's owner"
    ):
        FOOD(tmp_path)
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(InputError, match="not a regular file"):
        read_list(tmp_path / "pipe.txt")
    with open(tmp_path / "huge.txt", "wb") as file:
        file.truncate(LARGEST_LIST + 1)
    with pytest.raises(InputError, match="larger than 536,870,912 bytes"):
        read_list(tmp_path / "huge.txt")


def test_spaces_and_ends_of_lines_of_other_systems(tmp_path):
    for path in ("a/1", "b/2"):
        owners.write_image(tmp_path / f"images/{path}.jpg", 1)
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbfa/1\r\n\r\n  b/2  \r\n")
    assert FOOD(tmp_path)["train"].classes == ["a", "b"]
    assert before_number("yorkshire_terrier_12", "") == "yorkshire_terrier"


def test_a_class_without_training_images(tmp_path):
    owners.food101(tmp_path)
    owners.write_image(tmp_path / "food-101/images/sushi/1.jpg", 1)
    (tmp_path / "food-101/meta/test.txt").write_text("waffles/1050\nsushi/1\n")
    with pytest.raises(InputError, match="test class 'sushi' has no training images"):
        train_and_test(tmp_path)


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    owners.pets(tmp_path)
    path = tmp_path / "oxford-iiit-pet/images/Birman_30.jpg"
    path.write_bytes(path.read_bytes()[:200])
    train, _ = train_and_test(tmp_path)
    with pytest.raises(
        InputError, match=r"Birman_30.jpg cannot be used \(.+\); repair or remove it"
    ):
        list(map(train.image, range(len(train))))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.pop("annotations"), "'annotations' is missing"),
        (
            lambda content: content["annotations"][0].update(image_id=1),
            "annotates image 1, which it",
        ),
        (lambda content: content["images"][0].update(file_name="/etc/passwd"), "no file below it"),
        (lambda content: content["annotations"].append(content["annotations"][0]), "listed twice"),
        (lambda content: content["annotations"][0].update(category_id="x"), "not a whole number"),
    ],
)
def test_a_wrong_json_is_one_line(tmp_path, change, words):
    owners.inat18(tmp_path)
    path = tmp_path / "train2018.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=words):
        load(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "ISIC_0000010,0.0,1.0",
            "ISIC_0000010,1.0,1.0",
            "line 2: is of 2 classes; each image has one",
        ),
        ("ISIC_0000010,0.0,1.0", "ISIC_0000010,0.0,0.0", "line 2: is of 0 classes"),
        ("MEL", "MELA", "names no column 'MEL' (did you mean 'MELA'"),
    ],
)
def test_a_row_of_several_marks(tmp_path, old, new, words):
    owners.isic(tmp_path)
    path = tmp_path / DATASETS["isic"].marks[0]
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=words.replace("(", r"\(").replace("?", r"\?")):
        load(tmp_path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("000012  2", "'000012 2' is no image's name and 1, 0 or -1"),
        ("000012", "'000012' is no image's name"),
        ("000099  1", "lists other images than aeroplane_train.txt"),
        ("../000012  1", "lists other images than"),
    ],
)
def test_a_wrong_list_of_a_class(tmp_path, line, words):
    owners.voc07(tmp_path)
    path = tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/cat_train.txt"
    path.write_text(f"{line}\n000017 -1\n")
    with pytest.raises(InputError, match=words):
        load(tmp_path)


def test_grey_and_deep_images_are_read(tmp_path):
    for name, pixels in {
        "grey": np.full((8, 8), 100, np.uint8),
        "deep": np.full((8, 8), 100 * 257, np.uint16),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(owners.grey_png(pixels))
    images = load_labelled(tmp_path)
    assert [images.image(i).mean() for i in range(2)] == [100, 100]
    assert images.image(0).shape == (8, 8, 3)
