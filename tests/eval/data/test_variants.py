"""The variants of ImageNet in their owners' layouts, and which classes they are of."""

import json
import shutil

import numpy as np
import pytest

from seer.errors import InputError
from seer.eval.data import variants
from seer.eval.data.corruptions import CORRUPTIONS, every_image, missing_of, places_of
from seer.eval.data.coverage import check
from seer.eval.data.datasets import DATASETS, ROBUSTNESS
from seer.eval.data.splitting import check_layout
from seer.eval.data.variants import by_numbers, located_in, open_variant
from tests.kit.variants import (
    COLOURS,
    WNIDS,
    class_folders,
    imagenet,
    imagenet_c,
    objectnet,
)

PLACES = {
    "imagenet-r": "imagenet-r",
    "imagenet-a": "imagenet-a",
    "imagenet-sketch": "sketch",
    "imagenetv2": "imagenetv2-matched-frequency-format-val",
}


@pytest.fixture
def three(monkeypatch):
    """An ImageNet of three classes."""
    monkeypatch.setattr(variants, "CLASSES", 3)


@pytest.fixture
def shelf(tmp_path, three):
    for name, place in PLACES.items():
        folders = ("0", "1", "2") if name == "imagenetv2" else WNIDS
        class_folders(tmp_path / place, zip(folders, WNIDS, strict=True))
    imagenet_c(tmp_path / "imagenet-c", {})
    objectnet(tmp_path / "objectnet-1.0")
    imagenet(tmp_path)
    return tmp_path


def opened(root, name, classes=WNIDS):
    there, _ = located_in(root)
    return open_variant(next(each for each in there if each.entry.name == name), classes)


@pytest.mark.parametrize("name", PLACES)
def test_class_folders_are_the_classes_that_they_name_or_number(shelf, name):
    variant = opened(shelf, name)
    assert variant.numbers == [[0], [1], [2]]
    for i, label in enumerate(variant.images.labels.tolist()):
        (number,) = variant.numbers[label]
        assert tuple(variant.images.image(i)[0, 0]) == COLOURS[WNIDS[number]]


def test_numbers_are_places_among_all_of_imagenets_ids(tmp_path):
    ids = [f"n{i:08d}" for i in range(1000)]
    own = sorted(map(str, range(1000)))  # 0, 1, 10, 100, …, as folders are sorted
    assert by_numbers(own, ids, tmp_path) == [[int(name)] for name in own]
    with pytest.raises(InputError, match="the training images have 999; train on all"):
        by_numbers(own, ids[1:], tmp_path)
    with pytest.raises(InputError, match="class folder '1000' is no number from 0 to 999"):
        by_numbers([*own, "1000"], ids, tmp_path)


def test_objectnet_is_the_objects_that_imagenet_has_without_their_border(shelf):
    variant = opened(shelf, "objectnet")
    assert variant.images.classes == ["fish_tank", "ray"]  # no thumbtack
    assert variant.numbers == [[0, 1], [2]]
    assert variant.images.labels.tolist() == [0, 0, 0, 1]
    image = variant.images.image(3)
    assert image.shape == (12, 12, 3)
    assert (image == COLOURS[WNIDS[2]]).all()


def test_the_images_without_border_are_others_to_the_cache(shelf):
    images = opened(shelf, "objectnet").images
    whole = variants.Labelled(images.source, images.labels, images.classes)
    assert images.fingerprint != whole.fingerprint
    assert images.fingerprint == opened(shelf, "objectnet").images.fingerprint


def test_folders_and_maps_of_other_classes_are_named(shelf):
    class_folders(shelf / "imagenet-r", [("n99999999", WNIDS[0])])
    with pytest.raises(
        InputError, match=r"imagenet-r: its class folder 'n99999999' is none of the 3"
    ):
        opened(shelf, "imagenet-r")
    with pytest.raises(InputError, match=r"'n01443537' is none of the 2 classes"):
        opened(shelf, "imagenet-a", (WNIDS[0], WNIDS[2]))
    class_folders(shelf / "objectnet-1.0/images", [("sofa", WNIDS[0])])
    with pytest.raises(InputError, match="'sofa' is not in mappings/folder_to_objectnet_label"):
        opened(shelf, "objectnet")
    shutil.rmtree(shelf / "objectnet-1.0/images/sofa")
    with pytest.raises(
        InputError, match="numbers ImageNet's 3 classes, and the training images have 2"
    ):
        opened(shelf, "objectnet", WNIDS[:2])
    mappings = shelf / "objectnet-1.0/mappings"
    for file, content, message in (
        ("objectnet_to_imagenet_1k.json", {"Fish": "carp"}, "'Fish' is 'carp' of ImageNet"),
        ("pytorch_to_imagenet_2012_id.json", {"0": 1, "7": 2, "2": 0}, "class 2 of ImageNet, 'goldfish', has no place"),
        ("folder_to_objectnet_label.json", ["Fish"], "folder_to_objectnet_label.json"),
    ):  # fmt: skip
        kept = (mappings / file).read_text()
        (mappings / file).write_text(json.dumps(content))
        with pytest.raises(InputError, match=message):
            opened(shelf, "objectnet")
        (mappings / file).write_text(kept)


def test_what_is_missing_is_a_line_each(shelf):
    shutil.rmtree(shelf / "sketch")
    (shelf / "objectnet-1.0/mappings/imagenet_to_label_2012_v2").unlink()
    there, lines = located_in(shelf)
    assert {each.entry.name for each in there} == {
        "imagenetv2",
        "imagenet-r",
        "imagenet-a",
        "imagenet-c",
    }
    assert lines[0].startswith(
        "ImageNet-Sketch: not there, so not measured; its owner has it: github"
    )
    assert lines[1].startswith("ObjectNet: not measured, ")
    assert lines[1].endswith("mappings/imagenet_to_label_2012_v2 is missing")


def test_corruptions_are_found_below_their_kinds_or_without(tmp_path):
    imagenet_c(tmp_path, {})
    assert tuple(places_of(tmp_path)) == CORRUPTIONS
    assert missing_of(tmp_path) == []
    assert len(every_image(tmp_path)["test"]) == 15 * 5 * 3
    (tmp_path / "weather/fog").rename(tmp_path / "fog")
    assert places_of(tmp_path)["fog"] == tmp_path / "fog"
    shutil.rmtree(tmp_path / "fog/4")
    shutil.rmtree(tmp_path / "blur/glass_blur")
    assert missing_of(tmp_path) == ["glass_blur", "severity 4 of fog"]
    with pytest.raises(InputError, match="glass_blur, severity 4 of fog not there; unpack all"):
        every_image(tmp_path)


def test_data_check_knows_them(shelf):
    findings = {each.name: each for each in check(shelf, False, lambda done, total: None)}
    counted = {
        name: sum(findings[name].images.values()) for name in DATASETS if findings[name].images
    }
    assert counted == {
        "imagenet": 24, "imagenetv2": 3, "imagenet-r": 3, "imagenet-sketch": 3, "imagenet-a": 3,
        "imagenet-c": 225, "objectnet": 5,
    }  # fmt: skip
    for name in counted.keys() - {"imagenet"}:
        assert findings[name].tasks == ["robustness"], name
        assert DATASETS[name].suites == (ROBUSTNESS,)
        with pytest.raises(InputError, match="has test images alone; seer eval robustness"):
            check_layout(f"{name}:{shelf}")
    shutil.rmtree(shelf / "imagenet-c/weather/fog/2")
    findings = {each.name: each for each in check(shelf, False, lambda done, total: None)}
    assert findings["imagenet-c"].state == "incomplete"
    assert "severity 2 of fog" in findings["imagenet-c"].problems[0]


def test_an_image_that_is_nothing_but_a_border_is_named(shelf):
    images = opened(shelf, "objectnet").images
    small = np.zeros((4, 9, 3), np.uint8)
    images.source.bytes = lambda i: b""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seer.data.labelled.decode", lambda content: small)
        with pytest.raises(InputError, match=r"fish_tank/0\.png is nothing but a border"):
            images.image(0)
