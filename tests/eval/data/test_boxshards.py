"""Shards with boxes: the same images and objects as the data that they were made of, whatever its layout; and
those that somebody else wrote.
"""

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seer.data.storage.index import Manifest
from seer.errors import InputError
from seer.eval.data import collector, coverage, objects
from seer.eval.data.boxes import rule_of, train_and_test
from seer.eval.data.boxlayouts import halves_of
from seer.eval.data.boxshards import OBJECTS
from seer.eval.data.masks import runs_in
from shards.boxed import build_any
from shards.indexing import index
from shards.options import BuildOptions, SaliencyOptions
from shards.saliency.masked import add_masks
from shards.takedown import remove
from tests.eval.data.test_boxes import thing, voc, voc_xml, yolo
from tests.kit import boxes


def made(data: Path, out: Path, *splits: str, **options: Any) -> Path:
    for split in splits or ("train", "test"):
        folder = out if split == "all" else out / split
        build_any([data], folder, BuildOptions(boxes=split, workers=1, **options))
    return out


def same(first: objects.Annotated, second: objects.Annotated) -> None:
    """The same images in the same order, with the same objects to the last bit."""
    assert first.classes == second.classes
    assert first.listing() == second.listing()
    for name, column in vars(first.objects).items():
        other = getattr(second.objects, name)
        assert column.dtype == other.dtype
        np.testing.assert_array_equal(column, other, err_msg=name)
    assert [first.bytes(i) for i in range(len(first))] == [
        second.bytes(i) for i in range(len(second))
    ]


def coco(folder: Path) -> Path:
    """Polygons, run lengths, crowds, fractions, a negative, an image that EXIF turns; ids in any order."""
    for split, count in (("train", 7), ("val", 3)):
        content = boxes.coco(folder, split, count, count)
        content["images"].reverse()
        content["categories"] = [{"id": 7, "name": "square"}, {"id": 3, "name": "disc"}]
        rows = content["annotations"]
        for number, row in enumerate(rows):
            row["category_id"] = {1: 7, 2: 3}[row["category_id"]]
            row["bbox"][0] += number / 7
            row["bbox"][2] -= 1 / 3
            row["area"] /= 3
        mask = np.zeros((96, 64), np.uint8)
        mask[3:9, 5:60] = 1
        rows[0] |= {
            "iscrowd": 1,
            "segmentation": {"size": [96, 64], "counts": runs_in(mask).tolist()},
        }
        rows[1]["segmentation"].append([1.1, 2.2, 30.3, 4.4, 5.5, 60.6])
        rows[2].pop("segmentation")
        content["annotations"] = [row for row in rows if row["image_id"] != 1] + rows[2:3]
        with Image.open(folder / split / "2.png") as picture:
            picture.load()
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(folder / split / "2.png", exif=exif)  # its annotation says how it is stored
        boxes.write(folder / f"{split}.json", content)
    return folder


def test_coco_stays_what_it_is(tmp_path):
    data = coco(tmp_path / "coco")
    shards = made(data, tmp_path / "shards", shard_size=3)
    for mine, theirs in zip(train_and_test(shards), train_and_test(data), strict=True):
        same(mine, theirs)
        assert mine.counts == theirs.counts
    assert (shards / "train/shard-000002.tar").is_file()
    sent = pickle.loads(pickle.dumps(train_and_test(shards)[0]))  # to workers
    assert sent.bytes(4) == train_and_test(data)[0].bytes(4)
    assert rule_of(shards) == ""
    assert collector.CROWDS in train_and_test(shards)[0].counts


def test_voc_and_yolo_stay_what_they_are(tmp_path):
    hard = "<difficult>1</difficult>"
    files = {
        "a": voc_xml("a", thing("dog", (1, 1, 64, 48)) + thing("cat", (11, 5, 20, 8), hard)),
        "b": voc_xml("b", thing("dog", (3, 3, 9, 9)) + thing("yeti", (3, 3, 9, 9))),
    }
    voc(tmp_path / "voc", files, {"trainval": ["a"], "test": ["b"]})
    yolo(tmp_path / "yolo", ["1 0.5 0.5 0.2 0.4", "0 0.1 0.2 0.3 0.2 0.3 0.6", "0 0.1 0.9 0.3 0.7"])
    for name in ("voc", "yolo"):
        shards = made(tmp_path / name, tmp_path / f"{name}-shards")
        for mine, theirs in zip(
            train_and_test(shards), train_and_test(tmp_path / name), strict=True
        ):
            same(mine, theirs)


def test_a_folder_of_data_sets_tells_which_have_boxes(tmp_path):
    made(boxes.both(tmp_path / "coco", 3, 2), tmp_path / "boxed")
    boxes.coco(tmp_path / "whole", "all", 5)
    files = {name: voc_xml(name, thing("dog", (1, 1, 64, 48))) for name in "ab"}
    voc(tmp_path / "cells/VOC", files, {"trainval": ["a"], "test": ["b"]})
    yolo(tmp_path / "yolo", ["0 0.5 0.5 0.2 0.4"])
    own = [f for f in coverage.check(tmp_path, False, lambda done, total: None) if f.images]
    assert {f.name: f.images for f in own} == {
        "coco": {"train": 3, "test": 2},
        "boxed": {"train": 3, "test": 2},
        "whole": {"train": 4, "test": 1},
        "cells": {"train": 1, "test": 1},
        "yolo": {"train": 1, "test": 1},
    }
    assert all((f.state, f.tasks) == (coverage.YOURS, ["detect"]) for f in own)


def test_data_without_a_split_hold_out_the_same_images(tmp_path):
    boxes.coco(tmp_path / "coco", "all", 10)
    shards = made(tmp_path / "coco", tmp_path / "shards", "all")
    for mine, theirs in zip(train_and_test(shards), train_and_test(tmp_path / "coco"), strict=True):
        same(mine, theirs)
    assert "one image in 5 held out" in rule_of(shards)


def test_what_is_left_out_is_told_by_the_build(tmp_path):
    data = boxes.both(tmp_path / "coco", 4, 2)
    content = json.loads((data / "train.json").read_text())
    content["annotations"][0]["bbox"] = [500, 500, 3, 3]
    boxes.write(data / "train.json", content)
    (data / "train/1.png").unlink()
    options = BuildOptions(boxes="train", workers=1)
    report = build_any([data], tmp_path / "shards", options)
    told = "\n".join(report.lines())
    assert report.samples == 3
    assert f"1 {collector.OUTSIDE}, for example {data}" in told
    assert f"1 {collector.ABSENT_IMAGE}" in told
    assert "2 classes" in told
    assert build_any([data], tmp_path / "shards", options).already_complete
    content["annotations"][1]["bbox"] = [1, 1, 3, 3]  # of no name and no size
    boxes.write(data / "train.json", content)
    with pytest.raises(InputError, match="holds another build"):
        build_any([data], tmp_path / "shards", options)


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        ("all", {}, "has training and test images; build --boxes train and --boxes test"),
        ("train", {"max_side": 40}, "--boxes with --max-side"),
        ("train", {"labels": True}, "--boxes with --labels"),
        ("none", {}, "boxes"),
    ],
)
def test_builds_that_cannot_be_are_one_line(tmp_path, split, options, message):
    data = boxes.both(tmp_path / "coco", 2, 1)
    with pytest.raises(InputError, match=message):
        made(data, tmp_path / "shards", split, **options)
    assert not (tmp_path / "shards").exists()


def test_sources_that_cannot_be_are_one_line(tmp_path):
    boxes.coco(tmp_path / "coco", "single", 3)
    with pytest.raises(InputError, match="has no split of its own; give --boxes all"):
        made(tmp_path / "coco", tmp_path / "out", "train")
    shards = made(tmp_path / "coco", tmp_path / "shards", "all")
    with pytest.raises(InputError, match="holds shards with boxes already"):
        made(shards, tmp_path / "out", "all")
    with pytest.raises(InputError, match="takes one SOURCE, and not 2"):
        build_any([shards, shards], tmp_path / "out", BuildOptions(boxes="all"))
    assert not (tmp_path / "out").exists()


def test_shards_written_anew_keep_their_objects(tmp_path):
    data = boxes.both(tmp_path / "coco", 4, 2)
    shards = made(data, tmp_path / "shards")
    add_masks(shards / "train", tmp_path / "masked", SaliencyOptions(workers=1))
    again = halves_of(tmp_path / "masked").train()
    same(again, halves_of(shards).train())
    gone = tmp_path / "keys.txt"
    gone.write_text("train/2\n")
    remove(tmp_path / "masked", gone, "keys")
    assert len(halves_of(tmp_path / "masked").train()) == 3


def tar(path: Path, samples: dict[str, tuple[bytes, Any]]) -> None:
    """A tar as anybody writes it, indexed: images with their members, None for none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for key, (image, member) in samples.items():
            content = member if isinstance(member, bytes) else json.dumps(member).encode()
            members = {"png": image} | ({} if member is None else {OBJECTS: content})
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    index([str(path.parent)], workers=1)


def square(category: Any, side: int = 9) -> dict[str, Any]:
    return {"category": category, "bbox": [1, 2, side, side]}


def png(exif: Image.Exif | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


PICTURE = png()


def read(folder: Path) -> objects.Annotated:
    return halves_of(folder).train()


def test_tars_of_others_name_their_classes_or_number_them(tmp_path):
    named = {"a": (PICTURE, [square("dog"), square("cat")]), "b": (PICTURE, None)}
    tar(tmp_path / "named/x.tar", named)
    images = read(tmp_path / "named")
    assert images.classes == ["cat", "dog"]
    assert images.objects.labels.tolist() == [1, 0]
    assert images.counts == {collector.EMPTY: 1}
    assert images.with_objects().tolist() == [0]
    numbered = {"a": (PICTURE, {"height": 40, "width": 60, "objects": [square(1), square(5)]})}
    tar(tmp_path / "numbered/x.tar", numbered)
    with pytest.raises(InputError, match=r"classes by number.*write classes.txt there"):
        read(tmp_path / "numbered")
    (tmp_path / "numbered/classes.txt").write_text("cat\ndog\n")
    images = read(tmp_path / "numbered")
    assert images.classes == ["cat", "dog"]
    assert images.objects.labels.tolist() == [1]
    assert images.counts == {objects.NO_CLASS: 1}
    (tmp_path / "numbered/classes.txt").write_text("\n")
    with pytest.raises(InputError, match=r"classes.txt: names no class"):
        read(tmp_path / "numbered")


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (b"{", r"the objects.json of sample 1 \(x.tar/b.png\): not readable as JSON"),
        (b"\xff", "not readable as JSON"),
        ("text", "is not a list of objects, or a mapping"),
        ([1], "is not a list of mappings"),
        ({"height": 4}, "'objects' is missing"),
        ({"height": 40, "objects": []}, "has one of height and width"),
        ({"height": 0, "width": 4, "objects": []}, "height"),
    ],
)
def test_a_damaged_member_is_one_line(tmp_path, member, message):
    tar(tmp_path / "x.tar", {"a": (PICTURE, [square("a")]), "b": (PICTURE, member)})
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_what_is_wrong_with_an_object_is_counted(tmp_path):
    rows = [
        square("a"),
        square("a", -3),
        {"category": "a", "bbox": [1, 2, "x", 4]},
        {"category": "a", "bbox": [100, 2, 3, 4]},
        {"bbox": [1, 2, 3, 4]},
        {"category": ["a"], "bbox": [1, 2, 3, 4]},
        {**square("a"), "segmentation": {"size": [60, 40], "counts": [2400]}},
        {**square("a"), "segmentation": [[1, 2, 3, 4]]},
    ]
    other = {"height": 60, "width": 40, "objects": [square("a")]}
    tar(tmp_path / "x.tar", {"a": (PICTURE, rows), "b": (PICTURE, other)})
    images = read(tmp_path)
    assert images.counts == {
        collector.NO_AREA: 1,
        collector.NO_NUMBERS: 1,
        collector.OUTSIDE: 1,
        objects.NO_CLASS: 2,
        collector.NO_MASK: 1,
        collector.FEW_CORNERS: 1,
        collector.OTHER_SIZE: 1,
    }
    assert len(images) == 1
    assert len(images.objects.labels) == 3


def test_an_image_that_exif_turns_needs_a_size(tmp_path):
    """That of the upright image, in which its boxes are then."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = png(exif)
    sized = {"height": 60, "width": 40, "objects": [square("a")]}
    samples = {"a": (PICTURE, [square("a")]), "b": (turned, [square("a")]), "c": (turned, sized)}
    tar(tmp_path / "x.tar", samples)
    images = read(tmp_path)
    assert images.counts == {collector.TURNED: 1}
    assert images.objects.sizes.tolist() == [[40, 60], [60, 40]]
    assert images.objects.boxes[1].tolist() == [1, 2, 10, 11]


def test_shards_of_anything_else_are_one_line(tmp_path):
    tar(tmp_path / "x.tar", {"a": (PICTURE, None)})
    with pytest.raises(InputError, match=r"no sample of its shards has a member objects\.json"):
        read(tmp_path)
    assert Manifest.load(tmp_path).samples == 1
