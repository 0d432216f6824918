"""Images with masks, as their owners lay them out and as they go wrong."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seer.errors import InputError
from seer.eval.data import coverage
from seer.eval.data.collector import ABSENT_IMAGE
from seer.eval.data.colours import read_colours
from seer.eval.data.imagepairs import ABSENT_MAP, DAMAGED, DAMAGED_MAP, OTHER_SIZE, TURNED
from seer.eval.data.maplayouts import CITY_CLASSES, VOC_CLASSES, layout_of
from seer.eval.data.mapped import highest, numbered
from seer.eval.data.maps import RULE, check_layout, rule_of, train_and_test
from seer.eval.tasks import MAPS, TASKS
from tests.kit import maps

TASK_NAMES = [name for name, task in TASKS.items() if task.images == MAPS]


def save(path: Path, pixels: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def grey(height: int, width: int, number: int = 90) -> np.ndarray:
    return np.full((height, width, 3), number, np.uint8)


def mask(numbers: list) -> np.ndarray:
    return np.array(numbers, np.uint8)


def ade20k(root: Path) -> None:
    for split in ("training", "validation"):
        save(root / f"ADEChallengeData2016/images/{split}/ADE_1.jpg", grey(2, 3))
        values = mask([[0, 1, 150], [2, 2, 0]])
        save(root / f"ADEChallengeData2016/annotations/{split}/ADE_1.png", values)
    rows = [f"{i}\t0.1\t1\t1\tthing {i}, stuff" for i in range(1, 151)]
    info = "\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows])
    (root / "ADEChallengeData2016/objectInfo150.txt").write_text(info)


def voc(root: Path) -> None:
    folder = root / "VOCdevkit/VOC2012"
    for split, name in (("train", "2007_000032"), ("val", "2007_000033")):
        save(folder / f"JPEGImages/{name}.jpg", grey(2, 2))
        picture = Image.fromarray(mask([[0, 20], [255, 3]]), "P")
        picture.putpalette([number % 256 for number in range(768)])
        (folder / "SegmentationClass").mkdir(exist_ok=True)
        picture.save(folder / f"SegmentationClass/{name}.png")
        (folder / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text(f"{name}\n")


def cityscapes(root: Path) -> None:
    for split in ("train", "val"):
        stem = f"{split}/aachen/aachen_000000_000019"
        save(root / f"leftImg8bit/{stem}_leftImg8bit.png", grey(1, 4))
        save(root / f"gtFine/{stem}_gtFine_labelIds.png", mask([[7, 33, 4, 31]]))


def test_ade20k_has_150_classes_and_no_zeroth(tmp_path):
    ade20k(tmp_path)
    for data in (tmp_path, f"ade20k:{tmp_path}"):
        train, test = train_and_test(data)
        assert (len(train), len(test)) == (1, 1)
        assert train.mask(0).tolist() == [[-1, 0, 149], [1, 1, -1]]
        assert train.classes[149] == "thing 150"
        assert rule_of(data) == ""


def test_voc_has_a_palette_and_void_255(tmp_path):
    voc(tmp_path)
    train, _ = train_and_test(f"voc12-masks:{tmp_path}")
    assert train.mask(0).tolist() == [[0, 20], [-1, 3]]
    assert train.classes == VOC_CLASSES
    assert layout_of(tmp_path / "VOCdevkit").test is not None
    path = tmp_path / "VOCdevkit/VOC2012/SegmentationClass/2007_000032.png"
    save(path, mask([[0, 21], [0, 0]]))
    with pytest.raises(InputError, match="has the number 21, which is no class"):
        train_and_test(tmp_path / "VOCdevkit/VOC2012")[0].mask(0)


def test_cityscapes_scores_19_of_its_labels(tmp_path):
    cityscapes(tmp_path)
    train, _ = train_and_test(tmp_path)
    assert train.mask(0).tolist() == [[0, 18, -1, 16]]
    assert train.classes == list(CITY_CLASSES.values())
    assert len(train.classes) == 19


def test_data_check_knows_them(tmp_path):
    for name, write in (("a", ade20k), ("v", voc), ("c", cityscapes)):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
    findings = {f.name: f for f in coverage.check(tmp_path, True, lambda done, total: None)}
    for name, classes in (("ade20k", 150), ("voc12-masks", 21), ("cityscapes", 19)):
        finding = findings[name]
        assert (finding.state, finding.classes) == ("differs", classes)
        assert finding.images == {"train": 1, "test": 1}
        assert finding.tasks == TASK_NAMES


@pytest.mark.parametrize(
    ("names", "message"),
    [("\n \n", "names no class; write a line for each, or remove it"), ("a\nb\na\n", "twice")],
)
def test_names_that_are_none_are_refused(tmp_path, names, message):
    maps.both(tmp_path, 2, 1)
    (tmp_path / "classes.txt").write_text(names)
    with pytest.raises(InputError, match=message):
        train_and_test(tmp_path)


def test_one_s_own_in_either_order_and_with_names(tmp_path):
    maps.split(tmp_path / "a/train", 2)
    maps.split(tmp_path / "a/test", 1, 1)
    for kind in ("images", "masks"):
        for split in ("train", "test"):
            (tmp_path / "b" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / "a" / split / kind).rename(tmp_path / "b" / kind / split)
    (tmp_path / "b/classes.txt").write_text("ground\nsquare\n\nbar\n")
    train, test = train_and_test(tmp_path / "b")
    assert (len(train), len(test)) == (2, 1)
    assert train.classes == ["ground", "square", "bar"]
    assert highest(train, [255]) == 2
    maps.split(tmp_path / "c", 6)
    for i in range(4):
        save(tmp_path / f"c/masks/alone-{i}.png", grey(4, 6))  # of which none is held out
    assert rule_of(tmp_path / "c") == RULE
    assert [len(images) for images in train_and_test(tmp_path / "c")] == [5, 1]


def test_what_is_no_pair_is_left_out_and_counted(tmp_path, caplog):
    folder = tmp_path / "train"
    maps.write_pair(folder, "good", grey(4, 6), np.zeros((4, 6), np.uint8))
    maps.write_pair(folder, "other", grey(4, 6), np.zeros((4, 5), np.uint8))
    save(folder / "images/alone.png", grey(4, 6))
    save(folder / "masks/lonely.png", np.zeros((4, 6), np.uint8))
    maps.write_pair(folder, "torn", grey(4, 6), np.zeros((4, 6), np.uint8))
    (folder / "masks/torn.png").write_bytes(b"none")
    maps.write_pair(folder, "burnt", grey(4, 6), np.zeros((4, 6), np.uint8))
    (folder / "images/burnt.png").write_bytes(b"none")
    maps.split(tmp_path / "val", 1)
    train, test = train_and_test(tmp_path)
    assert train.counts == {
        OTHER_SIZE: 1,
        ABSENT_MAP: 1,
        ABSENT_IMAGE: 1,
        DAMAGED_MAP: 1,
        DAMAGED: 1,
    }
    assert test.counts == {}
    assert len(train) == 1
    assert f"training images left out: 1 {ABSENT_MAP}" in caplog.text
    (folder / "masks/good.png").unlink()
    train_and_test.__globals__["_read"].cache_clear()
    with pytest.raises(InputError, match="has no image with a map that can be used: "):
        train_and_test(tmp_path)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_turns_with_its_image_where_its_size_tells(tmp_path, orientation):
    """The image shows what its mask says: whichever way both are turned, they agree."""
    rng = np.random.default_rng(orientation)
    stored = rng.integers(0, 2, (4, 6)).astype(np.uint8)
    image = np.repeat(stored[..., None] * 255, 3, 2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    folder = tmp_path / "train"
    save(folder / "images/stored.png", image, exif=exif)
    save(folder / "masks/stored.png", stored)
    maps.split(tmp_path / "val", 1)
    train, _ = train_and_test(tmp_path)
    pixels, turned = train.pair(0)
    assert turned.shape == (6, 4)
    assert train.sizes.tolist() == [[6, 4]]
    assert np.array_equal(pixels[..., 0] // 255, turned)
    save(folder / "masks/stored.png", turned.astype(np.uint8))  # upright by now
    train_and_test.__globals__["_read"].cache_clear()
    assert np.array_equal(train_and_test(tmp_path)[0].mask(0), turned)


def test_a_turn_that_no_size_tells_is_left_out(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    maps.write_pair(tmp_path / "train", "a", grey(4, 6), np.zeros((4, 6), np.uint8))
    save(tmp_path / "train/images/down.png", grey(4, 6), exif=exif)
    save(tmp_path / "train/masks/down.png", np.zeros((4, 6), np.uint8))
    maps.split(tmp_path / "val", 1)
    assert train_and_test(tmp_path)[0].counts == {TURNED: 1}


def test_images_of_other_modes_are_read_and_masks_of_16_bits(tmp_path):
    folder = tmp_path / "train"
    save(folder / "images/a.png", np.zeros((2, 2), np.uint8))
    save(folder / "images/b.png", np.full((2, 2), 40_000, np.uint16))
    save(folder / "images/c.png", np.zeros((2, 2, 4), np.uint8))
    for name in "abc":
        save(folder / f"masks/{name}.png", np.full((2, 2), 300, np.uint16))
    maps.split(tmp_path / "val", 1)
    train, _ = train_and_test(tmp_path)
    for i in range(3):
        image, values = train.pair(i)
        assert image.shape == (2, 2, 3)
        assert (values == 300).all()


def test_colours_are_told_by_a_table(tmp_path):
    table = tmp_path / "colours.txt"
    table.write_text("r g b name\n0 0 0 nothing at all  # void\n255 0 0 wall\nsky, 0, 128, 255\n")
    colours = read_colours(table)
    assert colours.names == ["nothing at all", "wall", "sky"]
    pixels = np.array([[[0, 128, 255], [0, 0, 0]], [[255, 0, 0], [255, 0, 0]]], np.uint8)
    assert colours.numbers(pixels, "a").tolist() == [[2, 0], [1, 1]]
    with pytest.raises(InputError, match="a: has the colour 255 0 1 at row 1, column 0, which"):
        colours.numbers(pixels + mask([[[0, 0, 0], [0, 0, 0]], [[0, 0, 1], [0, 0, 0]]]), "a")
    maps.write_pair(tmp_path / "train", "a", grey(2, 2), pixels)
    maps.split(tmp_path / "val", 1)
    train, _ = train_and_test(tmp_path)
    assert train.mask(0, colours).tolist() == [[2, 0], [1, 1]]
    with pytest.raises(InputError, match=r"a mask of mode RGB; .* told by colours="):
        train.mask(0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0 0 a\n1 2 b\n", "line 2: is no class"),
        ("0 0 0 a\n1 2 256 b\n", "line 2: is no class"),
        ("0 0 0 a\n0 0 0 b\n", "line 2: has a colour a second time"),
        ("name\n", "has no colours"),
    ],
)
def test_a_table_that_is_none(tmp_path, text, message):
    (tmp_path / "table.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_colours(tmp_path / "table.txt")


def test_numbers_beyond_the_classes_are_refused():
    values = np.array([[0, 7], [255, 1]])
    assert numbered(values, 2, [7, 255], "a").tolist() == [[0, -1], [-1, 1]]
    with pytest.raises(InputError, match="a: has the number 2, and there are 2 classes"):
        numbered(np.array([[0, 2]]), 2, [], "a")
    with pytest.raises(InputError, match="a: has the number 7, and there are 2 classes"):
        numbered(values, 2, [255], "a")


def test_other_data_are_one_line(tmp_path):
    with pytest.raises(InputError, match="has no images with masks that are known"):
        check_layout(tmp_path)
    with pytest.raises(InputError, match="Food-101 has one class for each image, and no masks"):
        check_layout(f"food101:{tmp_path}")
    (tmp_path / "train/images").mkdir(parents=True)
    (tmp_path / "train/masks").mkdir()
    maps.split(tmp_path / "val", 1)
    with pytest.raises(InputError, match="train/images: has no images"):
        check_layout(tmp_path)
    maps.split(tmp_path / "one", 1)
    with pytest.raises(InputError, match="has one image; a score needs another"):
        train_and_test(tmp_path / "one")


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 96\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("content", [EPS, encoded(np.ones((96, 64), np.uint8), "JPEG"), b"", b"x"])
def test_masks_are_of_lossless_formats_and_nothing_is_run_for_them(tmp_path, content):
    """Pillow knows an EPS of the right size, and would have Ghostscript draw it."""
    maps.both(tmp_path, 3, 2)
    (tmp_path / "train/masks/0.png").write_bytes(content)
    train, _ = train_and_test(tmp_path)
    assert train.counts == {DAMAGED_MAP: 1}


@pytest.mark.parametrize("compression", ["tiff_lzw", "zstd", "lzma"])
def test_of_a_damaged_tiff_there_is_one_line_and_no_library_adds_to_it(
    tmp_path, capfd, compression
):
    folder = maps.both(tmp_path, 2, 1) / "train"
    (folder / "masks/0.png").unlink()
    mask = np.random.default_rng(0).integers(0, 3, (96, 64)).astype(np.uint8)
    Image.fromarray(mask).save(folder / "masks/0.tif", compression=compression)
    content = (folder / "masks/0.tif").read_bytes()
    (folder / "masks/0.tif").write_bytes(content[:60] + b"\xff" * 200 + content[260:])
    train, _ = train_and_test(tmp_path)
    with pytest.raises(InputError, match=r"0\.tif cannot be read \(decoder error"):
        train.mask(0)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("number", [-5, -1, 2**16, 2**31 - 1])
@pytest.mark.parametrize("owners", [False, True])
def test_numbers_that_no_class_has_are_refused(tmp_path, number, owners):
    if owners:
        ade20k(tmp_path)
        path = tmp_path / "ADEChallengeData2016/annotations/training/ADE_1.png"
    else:
        maps.both(tmp_path, 3, 2)
        path = tmp_path / "train/masks/0.png"
    with Image.open(path) as picture:
        size = (picture.height, picture.width)
    path.write_bytes(encoded(np.full(size, number, np.int32), "TIFF"))
    train, _ = train_and_test(tmp_path)
    with pytest.raises(InputError, match=rf"has the number {number}, which no class has") as error:
        train.mask(0)
    assert str(error.value).count(str(path)) == 1


def test_more_classes_than_are_learned_are_refused(tmp_path):
    maps.both(tmp_path, 3, 2)
    path = tmp_path / "train/masks/0.png"
    path.write_bytes(encoded(np.full((96, 64), 4096, np.uint16), "PNG"))
    with pytest.raises(InputError, match=r"at most 4,096 classes .* say void=\[4096\]"):
        highest(train_and_test(tmp_path)[0], [255])
    (tmp_path / "classes.txt").write_text("a\nb\na\n")
    with pytest.raises(InputError, match="names the class a twice"):
        layout_of(tmp_path)
    for text in ("\n".join(map(str, range(4097))), "y" * 1001):
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(InputError, match=r"classes\.txt: names"):
            layout_of(tmp_path)
    table = tmp_path / "colours.txt"
    table.write_text("".join(f"{i // 256} {i % 256} 0\n" for i in range(4097)))
    with pytest.raises(InputError, match="more than 4,096 colours"):
        read_colours(table)


def test_a_first_line_with_a_number_is_no_head(tmp_path):
    (tmp_path / "table.txt").write_text("-1 2 3 a\n1 2 3 b")
    with pytest.raises(InputError, match="line 1: is no class"):
        read_colours(tmp_path / "table.txt")


def test_an_image_in_both_lists_of_voc_is_refused(tmp_path):
    voc(tmp_path)
    folder = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    (folder / "val.txt").write_text("2007_000032\n")
    with pytest.raises(InputError, match="its lists name 2007_000032 twice"):
        check_layout(tmp_path / "VOCdevkit")
