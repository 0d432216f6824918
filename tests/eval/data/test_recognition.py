"""Which data set a folder is, and what is said of one that is not what it is called."""

import os
import shutil

import pytest

from seer.errors import InputError
from seer.eval.data.recognition import locate, named
from seer.eval.data.splitting import load
from tests.kit import owners
from tests.kit.pictures import write_images


def test_a_folder_of_one_s_own_is_none_of_them(tmp_path):
    assert locate(write_images(tmp_path / "plain", 1, seed=0)) is None
    write_images(tmp_path / "split/train", 1, seed=0)
    assert locate(tmp_path / "split") is None
    assert locate(tmp_path / "nowhere") is None
    assert locate("s3://bucket/shards") is None


def test_its_own_split_comes_before_a_data_set_further_down(tmp_path):
    write_images(tmp_path / "train", 2, seed=0)
    write_images(tmp_path / "test", 1, seed=1)
    owners.dtd(tmp_path)
    assert locate(tmp_path) is None
    assert load(tmp_path).train.classes == ["brick", "moss", "slate"]
    located = locate(f"dtd:{tmp_path}")
    assert located is not None
    assert located.entry.name == "dtd"


def test_several_data_sets_ask_for_a_name(tmp_path):
    owners.dtd(tmp_path)
    owners.pets(tmp_path)
    with pytest.raises(InputError, match=r"several data sets; name one: dtd:.*, pets:"):
        load(tmp_path)
    assert len(load(f"pets:{tmp_path}").train) == 4


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("food11:{}", r"data set 'food11' is unknown \(did you mean 'food101'\?\)"),
        (
            "food101:{}",
            "has no meta/train.txt, so it is not Food-101 as its owner lays it out: food-101.tar",
        ),
        ("food101:{}/nowhere", "nowhere does not exist; give the folder of Food-101"),
        ("food101", "no such folder; where the data set of that name lies, say food101:DIR"),
        ("coco:{}/coco", "COCO 2017 has boxes, which the task detect takes"),
        ("pets:{}/pets", "images/ is missing; the owner's archives have it: robots.ox.ac.uk"),
    ],
)
def test_what_is_not_there_is_one_line(tmp_path, data, words):
    (tmp_path / "coco/annotations").mkdir(parents=True)
    (tmp_path / "coco/annotations/instances_train2017.json").touch()
    owners.pets(tmp_path / "pets")
    shutil.rmtree(tmp_path / "pets/oxford-iiit-pet/images")
    with pytest.raises(InputError, match=words):
        load(data.format(tmp_path))


def test_a_folder_whose_name_has_a_colon_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "food101:mine/train", 1, seed=0)
    assert named("food101:mine")[0] == ""
    assert named("food101:other")[0] == "food101"


def test_home_is_written_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    owners.dtd(tmp_path / "sets")
    assert len(load("dtd:~/sets").train) == 3
    assert os.getcwd() != str(tmp_path)
