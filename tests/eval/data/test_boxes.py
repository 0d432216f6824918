"""Images with boxes and masks, as their owners lay them out and as they go wrong."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from seer.errors import InputError
from seer.eval.data import collector, coverage, objects, upright
from seer.eval.data.boxes import check_layout, halves_of, rule_of, train_and_test
from seer.eval.data.masks import filled, mask_of, runs_in, runs_of
from tests.kit import boxes

mask_library = pytest.importorskip("faster_coco_eval.core.mask")


def of(images, image=0):
    return [images.objects.at(i) for i in images.objects.of(image)]


def read_one(tmp_path: Path, change, images: int = 1):
    """The training images after a change of their file."""
    content = boxes.coco(tmp_path, "train", images)
    change(content)
    boxes.write(tmp_path / "train.json", content)
    boxes.coco(tmp_path, "val", 2, 1)
    return train_and_test(tmp_path)[0]


def test_coco_boxes_classes_and_polygons(tmp_path):
    content = boxes.coco(tmp_path, "train", 3)
    boxes.coco(tmp_path, "val", 2, 1)
    train, test = train_and_test(tmp_path)
    assert train.classes == test.classes == ["square", "disc"]
    assert (len(train), len(test)) == (3, 2)
    assert not train.counts
    for row, thing in zip(
        content["annotations"], of(train) + of(train, 1) + of(train, 2), strict=True
    ):
        x, y, width, height = row["bbox"]
        np.testing.assert_allclose(thing.box, [x, y, x + width, y + height])
        assert thing.label == row["category_id"] - 1
        assert thing.area == row["area"]
        np.testing.assert_allclose(thing.polygons[0].reshape(-1), row["segmentation"][0], rtol=1e-6)
    assert rule_of(tmp_path) == ""


def annotation(**values):
    def change(content):
        content["annotations"][0].update(values)

    return change


@pytest.mark.parametrize(
    ("change", "count", "left"),
    [
        (annotation(bbox=[500, 500, 10, 10]), collector.OUTSIDE, 1),
        (annotation(bbox=[5, 5, 0, 10]), collector.NO_AREA, 1),
        (annotation(bbox=[25, 25, -10, 10]), collector.NO_AREA, 1),
        (annotation(bbox=[1, 2, 3]), collector.NO_NUMBERS, 1),
        (annotation(bbox=[1, 2, float("nan"), 4]), collector.NO_NUMBERS, 1),
        (annotation(bbox=[1, 2, "3", 4]), collector.NO_NUMBERS, 1),
        (annotation(bbox=[1, 2, 10**400, 4]), collector.NO_NUMBERS, 1),
        (annotation(bbox=[1, 2, 1e400, 4]), collector.NO_NUMBERS, 1),
        (annotation(segmentation=[[1, 1, 5, 5, 10**400, 9]]), collector.FEW_CORNERS, 2),
        (annotation(segmentation=[[1, 1, 5, 5, None, 9]]), collector.FEW_CORNERS, 2),
        (annotation(segmentation={"size": [96, 64], "counts": [10**30]}), collector.NO_MASK, 2),
        (annotation(segmentation={"size": None, "counts": None}), collector.NO_MASK, 2),
        (annotation(bbox=[-9, -9, 40, 40]), collector.CUT, 2),
        (annotation(category_id=7), objects.NO_CLASS, 1),
        (annotation(image_id=99), collector.ABSENT, 1),
        (annotation(iscrowd=1), collector.CROWDS, 2),
        (annotation(iscrowd="0", bbox=[-9, -9, 40, 40]), collector.CUT, 2),
        (annotation(segmentation=[[1, 1, 5, 5]]), collector.FEW_CORNERS, 2),
        (annotation(segmentation={"size": [3, 3], "counts": [9]}), collector.NO_MASK, 2),
        (annotation(segmentation={"size": [96, 64], "counts": [5]}), collector.NO_MASK, 2),
        (annotation(segmentation={"size": [64, 96], "counts": [96 * 64]}), collector.NO_MASK, 2),
        (annotation(segmentation={"size": [96, 64], "counts": "~~"}), collector.NO_MASK, 2),
        (annotation(segmentation={"size": [96, 64], "counts": "\ud800"}), collector.NO_MASK, 2),
        (annotation(bbox=[5, 5, 1e-9, 1e-9]), collector.NO_AREA, 1),
        (annotation(segmentation={"size": [96, 64], "counts": [96 * 64]}), collector.NO_PIXEL, 2),
        (annotation(segmentation=[[1.1, 1.1, 5.2, 5.2, 9.3, 9.3]]), collector.NO_PIXEL, 2),
        (annotation(segmentation=[[500, 500, 600, 500, 600, 600]]), collector.NO_PIXEL, 2),
    ],
)
def test_what_is_wrong_with_an_object_is_counted(tmp_path, change, count, left):
    train = read_one(tmp_path, change, images=2)
    assert train.counts == {count: 1}
    assert len(of(train)) == left


def test_of_several_polygons_those_that_have_pixels_stay(tmp_path):
    """A bow tie has some, whose signed areas cancel out."""
    tie = [0, 0, 20, 20, 20, 0, 0, 20]
    square = [30, 30, 40, 30, 40, 40, 30, 40]
    segmentation = [[1, 1, 5, 5, 9, 9], square, tie]
    train = read_one(tmp_path, annotation(segmentation=segmentation), images=2)
    assert [polygon.reshape(-1).tolist() for polygon in of(train)[0].polygons] == [square, tie]
    assert train.counts == {collector.NO_PIXEL: 1}
    assert all(thing.masked for thing in of(train, 1))


def test_a_box_and_its_polygons_are_cut_to_their_image(tmp_path):
    ring = [[-9, -9, 70, -9, 70, 400]]
    train = read_one(tmp_path, annotation(bbox=[-9, -9, 40, 400], segmentation=ring))
    np.testing.assert_array_equal(of(train)[0].box, [0, 0, 31, 96])
    np.testing.assert_array_equal(of(train)[0].polygons[0], [[0, 0], [64, 0], [64, 96]])


@pytest.mark.parametrize(("area", "expected"), [(7.5, 7.5), (0, 200), (-3, 200), ("7", 200)])
def test_areas_are_the_owners_or_else_the_boxs(tmp_path, area, expected):
    train = read_one(tmp_path, annotation(bbox=[1, 2, 10, 20], area=area))
    assert of(train)[0].area == expected


def test_images_of_crowds_alone_have_nothing_to_learn_and_their_classes_do_not_occur(tmp_path):
    def change(content):
        for row in content["annotations"]:
            row["iscrowd"] = int(row["image_id"] == 0 or row["category_id"] == 2)

    train = read_one(tmp_path, change, images=3)
    assert train.classes == ["square"]
    assert train.with_objects().tolist() == [1, 2]


def test_images_are_looked_for_in_several_folders(tmp_path):
    boxes.both(tmp_path, 2, 1)
    (tmp_path / "images").mkdir()
    (tmp_path / "train/1.png").rename(tmp_path / "images/1.png")
    train, _ = train_and_test(tmp_path)
    assert [train.source.key(i) for i in range(2)] == ["train/0.png", "images/1.png"]


def test_class_numbers_may_have_gaps(tmp_path):
    def change(content):
        content["categories"] = [{"id": 90, "name": "square"}, {"id": 13, "name": "disc"}]
        for row in content["annotations"]:
            row["category_id"] = {1: 90, 2: 13}[row["category_id"]]

    for split in ("train", "val"):
        content = boxes.coco(tmp_path, split, 2)
        change(content)
        boxes.write(tmp_path / f"{split}.json", content)
    train, _ = train_and_test(tmp_path)
    assert train.classes == ["disc", "square"]
    assert [thing.label for thing in of(train)] == [1, 0]


def test_several_parts_and_run_lengths_are_the_librarys_masks(tmp_path):
    parts = [[2, 2, 20, 2, 20, 20, 2, 20], [30, 30, 50, 30, 50, 60], [3, 3, 4, 4]]
    encoded = mask_library.frPyObjects([parts[1]], 96, 64)[0]
    expected = mask_library.decode(encoded)
    runs = runs_of(encoded["counts"].decode(), 96, 64)
    np.testing.assert_array_equal(mask_of(runs, 96, 64), expected)
    np.testing.assert_array_equal(runs_in(expected), runs)
    assert runs_of(runs.tolist(), 96, 64).tolist() == runs.tolist()

    def change(content):
        content["annotations"][0]["segmentation"] = parts
        content["annotations"][1]["segmentation"] = {"size": [96, 64], "counts": runs.tolist()}

    train = read_one(tmp_path, change)
    several, run_lengths = of(train)
    assert [len(polygon) for polygon in several.polygons] == [4, 3]
    np.testing.assert_array_equal(run_lengths.runs, runs)
    assert train.counts == {collector.FEW_CORNERS: 1}


def test_random_run_lengths_survive_the_librarys_compression():
    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width = rng.integers(1, 40, 2).tolist()
        mask = (rng.random((height, width)) < rng.random()).astype(np.uint8)
        text = mask_library.encode(np.asfortranarray(mask))["counts"]
        np.testing.assert_array_equal(mask_of(runs_of(text, height, width), height, width), mask)


def test_polygons_are_filled_where_a_ray_from_the_centre_crosses_them_oddly():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :50] + 0.5
    for _ in range(10):
        polygon = (rng.random((int(rng.integers(3, 9)), 2)) * 60 - 5).astype(np.float32)
        inside = np.zeros((40, 50), bool)
        for a, b in zip(polygon.astype(float), np.roll(polygon, -1, 0).astype(float), strict=True):
            crosses = (a[1] <= y) != (b[1] <= y)
            inside ^= crosses & (a[0] + (y - a[1]) / (b[1] - a[1]) * (b[0] - a[0]) <= x)
        np.testing.assert_array_equal(filled([polygon], 40, 50), inside)


def test_what_lies_in_several_polygons_is_inside_once():
    corners = np.array(
        [[[2, 2], [20, 2], [20, 20], [2, 20]], [[10, 10], [30, 10], [30, 30], [10, 30]]]
    )
    mask = filled(list(corners.astype(np.float32)), 40, 40)
    assert mask.sum() == 18 * 18 + 20 * 20 - 10 * 10


def test_polygons_are_filled_about_as_by_the_library():
    ring = np.array([[5.2, 4.1], [40.7, 8.3], [50.1, 44.4], [12.9, 30.5]], np.float32)
    ours = filled([ring], 64, 64)
    theirs = mask_library.decode(mask_library.frPyObjects([ring.reshape(-1).tolist()], 64, 64)[0])
    assert (ours != theirs).mean() < 0.01  # it rounds edges to pixels first


def test_ids_that_are_there_twice_are_refused(tmp_path):
    with pytest.raises(InputError, match="two images have the id 0"):
        read_one(tmp_path, lambda content: content["images"][1].update(id=0), images=2)
    with pytest.raises(InputError, match=r"category 2 .* is there twice"):
        read_one(tmp_path, lambda c: c["categories"].append({"id": 2, "name": "other"}))
    with pytest.raises(InputError, match=r"category 3 \(disc\) is there twice"):
        read_one(tmp_path, lambda c: c["categories"].append({"id": 3, "name": "disc"}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is not a mapping with images"),
        ({"images": []}, "'annotations' is missing"),
        ({"images": {}, "annotations": [], "categories": []}, "images: .* is not a list"),
        ({"images": [], "annotations": [], "categories": []}, "has no categories"),
        (
            {"images": [], "annotations": [], "categories": [{"id": 1, "name": "\ud800"}]},
            "a category has no id",
        ),
        (
            {"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "a"}]},
            "no id and file_name",
        ),
    ],
)
def test_what_is_no_coco_file_is_one_line(tmp_path, content, message):
    boxes.both(tmp_path, 1, 1)
    boxes.write(tmp_path / "train.json", content)
    with pytest.raises(InputError, match=message):
        train_and_test(tmp_path)


def test_names_lead_nowhere_else(tmp_path):
    with pytest.raises(InputError, match="no file below"):
        read_one(tmp_path, lambda c: c["images"][0].update(file_name="../secret.png"))


def test_images_that_are_not_there_or_damaged_or_of_another_size(tmp_path):
    content = boxes.coco(tmp_path, "train", 5)
    boxes.coco(tmp_path, "val", 2, 1)
    (tmp_path / "train/0.png").unlink()
    (tmp_path / "train/1.png").write_bytes(b"no picture")
    content["images"][2]["width"] = 1000
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] != 3]
    boxes.write(tmp_path / "train.json", content)
    train, _ = train_and_test(tmp_path)
    assert len(train) == 2
    assert train.counts == {
        collector.ABSENT_IMAGE: 1,
        collector.DAMAGED: 1,
        collector.OTHER_SIZE: 1,
        collector.EMPTY: 1,
    }
    assert train.with_objects().tolist() == [1]


@pytest.mark.parametrize("side", [float("nan"), "64", None, 1e400, 63.5])
def test_a_size_that_is_told_and_is_no_number_is_no_images(tmp_path, side):
    content = boxes.coco(tmp_path, "train", 3)
    boxes.coco(tmp_path, "val", 2, 1)
    content["images"][0]["height"] = side
    for key in ("height", "width"):
        content["images"][1][key] = float(content["images"][1][key])
        del content["images"][2][key]  # told of none: it is what it is
    boxes.write(tmp_path / "train.json", content)
    train, _ = train_and_test(tmp_path)
    assert len(train) == 2
    assert train.counts == {collector.OTHER_SIZE: 1}


def test_no_image_at_all_is_refused(tmp_path):
    with pytest.raises(InputError, match="none of its 1 images is there"):
        read_one(tmp_path, lambda c: c["images"][0].update(file_name="other.png"))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("frame", ["stored", "upright"])
def test_boxes_and_masks_turn_with_an_image(tmp_path, orientation, frame):
    """Whichever frame the size tells them to be in, they lie on the bright square of the image as it
    is decoded.
    """
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[5:15, 60:75] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    for split in ("train", "val"):
        content = boxes.coco(tmp_path, split, 1)
        Image.fromarray(pixels).save(tmp_path / split / "0.png", exif=exif)
        shape = upright.shape_of(tmp_path / split / "0.png")
        assert tuple(shape) == (80, 40, orientation)
        square = [60, 5, 15, 10]
        mask = pixels[:, :, 0] > 0
        if frame == "upright":
            from seer.data.decoding.decode import decode

            mask = decode((tmp_path / split / "0.png").read_bytes())[:, :, 0] > 0
            rows, columns = np.nonzero(mask)
            square = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        height, width = mask.shape
        x, y, w, h = map(int, square)
        polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        runs = {"size": [height, width], "counts": runs_in(mask.astype(np.uint8)).tolist()}
        content["images"][0] |= {"height": height, "width": width}
        content["annotations"][0] |= {"bbox": [x, y, w, h], "segmentation": polygon}
        content["annotations"][1] |= {"bbox": [x, y, w, h], "segmentation": runs}
        boxes.write(tmp_path / f"{split}.json", content)
    train, _ = train_and_test(tmp_path)
    bright = train.image(0)[:, :, 0] > 0
    rows, columns = np.nonzero(bright)
    around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    by_polygon, by_runs = of(train)
    np.testing.assert_array_equal(by_polygon.box, around)
    np.testing.assert_array_equal(by_runs.box, around)
    np.testing.assert_array_equal(mask_of(by_runs.runs, 80, 40), bright)
    np.testing.assert_array_equal(filled(by_polygon.polygons, 80, 40)[bright], 1)


def test_a_turned_image_of_which_the_frame_is_not_told_is_left_out(tmp_path):
    boxes.both(tmp_path, 2, 2)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down: its size tells nothing
    with Image.open(tmp_path / "train/0.png") as image:
        image.load()
    image.save(tmp_path / "train/0.png", exif=exif)
    train, _ = train_and_test(tmp_path)
    assert train.counts == {collector.TURNED: 1, collector.ABSENT: 2} or len(train) == 1
    assert train.counts[collector.TURNED] == 1


def voc_xml(name: str, things: str, size: str = "<width>64</width><height>48</height>") -> str:
    return f"<annotation><filename>{name}.jpg</filename><size>{size}</size>{things}</annotation>"


def thing(label: str, box: tuple, more: str = "") -> str:
    edges = "".join(
        f"<{e}>{v}</{e}>" for e, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{label}</name>{more}<bndbox>{edges}</bndbox></object>"


def voc(folder: Path, files: dict[str, str], lists: dict[str, list[str]]) -> None:
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"Annotations/{name}.xml").write_text(text)
        cv2.imwrite(str(folder / f"JPEGImages/{name}.jpg"), np.zeros((48, 64, 3), np.uint8))
    for split, names in lists.items():
        (folder / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in names))


def test_voc_boxes_begin_at_one_and_include_their_last_pixel(tmp_path):
    files = {
        "a": voc_xml(
            "a",
            thing("cat", (1, 1, 64, 48)) + thing("dog", (11, 5, 20, 8), "<difficult>1</difficult>"),
        ),
        "b": voc_xml("b", thing("dog", (3, 3, 9, 9)) + thing("yeti", (3, 3, 9, 9))),
    }
    voc(tmp_path / "inner", files, {"trainval": ["a"], "test": ["b"]})
    train, test = train_and_test(tmp_path)
    assert train.classes == ["cat", "dog"]
    cat, dog = of(train)
    np.testing.assert_array_equal(cat.box, [0, 0, 64, 48])
    np.testing.assert_array_equal(dog.box, [10, 4, 20, 8])
    assert (cat.difficult, dog.difficult) == (False, True)
    assert test.counts == {objects.NO_CLASS: 1}  # the yeti
    assert len(of(test)) == 1


@pytest.mark.parametrize(
    ("things", "size", "counts"),
    [
        (thing("cat", (9, 9, 3, 12)), None, {collector.NO_AREA: 1}),
        (thing("cat", ("x", 9, 3, 12)), None, {collector.NO_NUMBERS: 1}),
        (thing("cat", (70, 60, 90, 80)), None, {collector.OUTSIDE: 1}),
        ("<object><name>cat</name></object>", None, {collector.NO_NUMBERS: 1}),
        (thing("", (3, 3, 9, 9)), None, {objects.NO_CLASS: 1}),
        ("", "<width>0</width><height>0</height>", {}),
        ("", f"<width>{'9' * 5000}</width><height>48</height>", {}),
        ("", "", {}),
        ("", "<width>640</width><height>48</height>", {collector.OTHER_SIZE: 1}),
    ],
)
def test_what_is_wrong_in_xml_is_counted(tmp_path, things, size, counts):
    good = thing("cat", (3, 3, 9, 9))
    files = {name: voc_xml(name, good) for name in "bc"}
    given = {} if size is None else {"size": size}
    files["a"] = voc_xml("a", good + things, **given)
    voc(tmp_path, files, {"train": ["a", "b"], "test": ["c"]})
    train, _ = train_and_test(tmp_path)
    assert train.counts == counts


def test_test_objects_that_are_all_difficult_are_told_before_the_work(tmp_path):
    hard = thing("cat", (3, 3, 9, 9), "<difficult>1</difficult>")
    files = {"a": voc_xml("a", thing("cat", (3, 3, 9, 9))), "b": voc_xml("b", hard)}
    voc(tmp_path, files, {"train": ["a", "a"], "test": ["b"]})
    with pytest.raises(InputError, match="no objects of these classes that count"):
        train_and_test(tmp_path)
    assert len(halves_of(tmp_path).train()) == 1  # though its list names it twice


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "not readable as XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "declares a type or entities"),
        (
            '<!DOCTYPE a [<!ENTITY b "c">]><annotation/>'.encode("utf-16"),
            "declares a type or entities",
        ),
        (None, "is missing; a list names it"),
    ],
)
def test_xml_that_is_none_is_one_line(tmp_path, text, message):
    voc(tmp_path, {"a": voc_xml("a", ""), "b": voc_xml("b", "")}, {"train": ["a"], "test": ["b"]})
    path = tmp_path / "Annotations/a.xml"
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        train_and_test(tmp_path)


def yolo(folder: Path, lines: list[str]) -> None:
    for split in ("train", "val"):
        (folder / f"images/{split}").mkdir(parents=True)
        (folder / f"labels/{split}").mkdir(parents=True)
        cv2.imwrite(str(folder / f"images/{split}/a.png"), np.zeros((50, 100, 3), np.uint8))
        (folder / f"labels/{split}/a.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text("names: {0: cat, 1: dog}")


def test_yolo_boxes_and_polygons_are_shares_of_the_image(tmp_path):
    yolo(
        tmp_path,
        [
            "0 0.5 0.5 0.2 0.4",
            "1 0.1 0.2 0.3 0.2 0.3 0.6",
            "7 0.5 0.5 0.1 0.1",
            "1 nan 0.5 0.1 0.1",
            "1 0.1 0.2 1e300 0.2 0.3 0.6",
        ],
    )
    (tmp_path / "labels/train/absent.txt").write_text("0 0.5 0.5 0.2 0.4")
    train, _ = train_and_test(tmp_path)
    assert train.classes == ["cat", "dog"]
    box, polygon = of(train)
    np.testing.assert_allclose(box.box, [40, 15, 60, 35])
    np.testing.assert_allclose(polygon.box, [10, 10, 30, 30])
    np.testing.assert_allclose(polygon.area, 200)
    assert train.counts == {objects.NO_CLASS: 1, collector.NO_NUMBERS: 2, collector.ABSENT: 1}


def test_yolo_names_by_number_in_any_order_or_none_at_all(tmp_path):
    yolo(tmp_path / "named", ["0 0.5 0.5 0.2 0.4", "1 0.5 0.5 0.2 0.4"])
    (tmp_path / "named/data.yaml").write_text("names: {1: dog, 0: cat}")
    assert train_and_test(tmp_path / "named")[0].classes == ["cat", "dog"]
    (tmp_path / "named/data.yaml").write_text("names: []")
    train_and_test.__globals__["_read"].cache_clear()
    with pytest.raises(InputError, match=rf"no objects to learn from \(2 {objects.NO_CLASS}"):
        train_and_test(tmp_path / "named")
    for kind in ("images", "labels"):
        (tmp_path / "plain" / kind).mkdir(parents=True)
    for i in range(5):
        cv2.imwrite(str(tmp_path / f"plain/images/{i}.png"), np.zeros((50, 100, 3), np.uint8))
        lines = "7 0.5 0.5 0.2 0.4\n3 0.5 0.5 0.1 0.1\n"
        (tmp_path / f"plain/labels/{i}.txt").write_text(lines)
    train, _ = train_and_test(tmp_path / "plain")
    assert train.classes == ["3", "7"]
    assert [thing.label for thing in of(train)] == [1, 0]


def test_a_line_that_is_none_is_named(tmp_path):
    yolo(tmp_path, ["0 0.5 0.5 0.2 0.4", "cat 1 2 3 4"])
    with pytest.raises(InputError, match=r"a.txt, line 2: 'cat 1 2 3 4'"):
        train_and_test(tmp_path)


def test_data_without_a_split_hold_out_one_image_in_five(tmp_path):
    boxes.coco(tmp_path, "all", 10)
    train, test = train_and_test(tmp_path)
    assert (len(train), len(test)) == (8, 2)
    names = [{images.source.key(i) for i in range(len(images))} for images in (train, test)]
    assert not names[0] & names[1]
    assert "one image in 5 held out" in rule_of(tmp_path)
    assert len(train_and_test(tmp_path / "all.json")[0]) == 8


def test_who_is_held_out_is_told_by_names_alone_and_what_is_counted_once(tmp_path):
    content = boxes.coco(tmp_path / "a", "all", 10)
    content["annotations"][0]["category_id"] = 9
    boxes.write(tmp_path / "a/all.json", content)
    train, test = train_and_test(tmp_path / "a")
    assert (train.counts, test.counts) == ({objects.NO_CLASS: 1}, {})
    held = {test.source.key(i) for i in range(2)}
    content["images"].reverse()
    (tmp_path / "a").rename(tmp_path / "b")
    boxes.write(tmp_path / "b/all.json", content)
    _, test = train_and_test(tmp_path / "b")
    assert {test.source.key(i) for i in range(2)} == held
    boxes.write(tmp_path / "b/other.json", content)  # which of two is meant is not told
    with pytest.raises(InputError, match="holds no images with boxes that are known"):
        check_layout(tmp_path / "b")


def test_voc_trains_on_trainval_without_what_is_tested_and_tests_on_test(tmp_path):
    files = {name: voc_xml(name, thing("cat", (3, 3, 9, 9))) for name in "abc"}
    lists = {"train": ["b"], "trainval": ["a", "b", "c"], "val": ["a"], "test": ["c"]}
    voc(tmp_path, files, lists)
    train, test = train_and_test(tmp_path)
    names = [[images.source.key(i)[-5] for i in range(len(images))] for images in (train, test)]
    assert names == [["a", "b"], ["c"]]
    (tmp_path / "ImageSets/Main/trainval.txt").write_text("c\n")
    with pytest.raises(InputError, match="names no image, or only such as are tested"):
        halves_of(tmp_path).train()


def test_data_of_no_layout_are_one_line(tmp_path):
    with pytest.raises(InputError, match="holds no images with boxes"):
        check_layout(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        check_layout(tmp_path / "nothing")
    with pytest.raises(
        InputError, match="s3://bucket/coco: images with boxes are read from a folder"
    ):
        check_layout("s3://bucket/coco")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match=r"is no \.json"):
        halves_of(tmp_path / "a.txt")


def test_the_fingerprint_is_of_the_boxes_too(tmp_path):
    first = read_one(tmp_path / "a", lambda content: None).listing()
    assert read_one(tmp_path / "b", lambda content: None).listing() == first
    assert read_one(tmp_path / "c", annotation(bbox=[1, 1, 9, 9])).listing() != first


def test_a_data_set_of_the_table_is_found_by_its_name_or_its_files(tmp_path):
    """COCO as its owner lays it out."""
    for split, seed in (("train", 0), ("val", 1)):
        content = boxes.coco(tmp_path / "coco", f"{split}2017", 2, seed)
        (tmp_path / "coco/annotations").mkdir(exist_ok=True)
        boxes.write(tmp_path / f"coco/annotations/instances_{split}2017.json", content)
        (tmp_path / f"coco/{split}2017.json").unlink()
    by_files, _ = train_and_test(tmp_path / "coco")
    by_name, _ = train_and_test(f"coco:{tmp_path}")
    assert by_files.listing() == by_name.listing()
    assert len(by_name) == 2
    with pytest.raises(InputError, match="Food-101 has one class for each image, and no boxes"):
        check_layout(f"food101:{tmp_path}")
    finding = next(
        each for each in coverage.check(tmp_path, False, lambda *_: None) if each.name == "coco"
    )
    assert (finding.tasks, finding.images) == (["detect"], {"train": 2, "test": 2})


def test_both_years_of_voc_are_trained_on_and_2007_is_tested(tmp_path):
    for year, (train, test) in {"VOC2007": ("a", "b"), "VOC2012": ("c", "")}.items():
        names = filter(None, (train, test))
        files = {name: voc_xml(name, thing("cat", (3, 3, 9, 9))) for name in names}
        voc(tmp_path / year, files, {"trainval": [train]} | ({"test": [test]} if test else {}))
    train, test = train_and_test(tmp_path)
    assert [train.source.key(i) for i in range(2)] == [
        "VOC2007/JPEGImages/a.jpg",
        "VOC2012/JPEGImages/c.jpg",
    ]
    assert test.source.key(0) == "VOC2007/JPEGImages/b.jpg"
