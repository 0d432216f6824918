"""Tiny data sets in the layouts of their owners: three classes, a few images, the real formats.

Each writer takes a folder, and lays the data set where torchvision looks for it below. It returns
what a reader must find: split → list of (image's number, class's name). An image's number is its
grey.
"""

import csv
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import scipy.io
from PIL import Image

from tests.kit.pictures import coloured_jpeg

Listed = dict[str, list[tuple[int, str]]]


def write_image(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(coloured_jpeg(number, size=8))


def write_lines(path: Path, lines: list[str], end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode())


def food101(root: Path) -> Listed:
    folder = root / "food-101"
    wanted: Listed = {
        "train": [(10, "apple_pie"), (20, "apple_pie"), (30, "waffles"), (40, "baby_back_ribs")],
        "test": [(50, "waffles"), (60, "apple_pie")],
    }
    for split, images in wanted.items():
        for number, name in images:
            write_image(folder / f"images/{name}/{1000 + number}.jpg", number)
        write_lines(folder / f"meta/{split}.txt", [f"{name}/{1000 + n}" for n, name in images])
        by_class: dict[str, list[str]] = {}
        for number, name in images:
            by_class.setdefault(name, []).append(f"{name}/{1000 + number}")
        (folder / f"meta/{split}.json").write_text(json.dumps(by_class))
    return wanted


def sun397(root: Path) -> Listed:
    folder = root / "SUN397"
    wanted: Listed = {
        "train": [(10, "a/abbey"), (20, "b/bakery/shop"), (30, "w/wave")],
        "test": [(40, "b/bakery/shop"), (50, "a/abbey")],
    }
    names = sorted({name for images in wanted.values() for _, name in images})
    write_lines(folder / "ClassName.txt", [f"/{name}" for name in names])
    for split, file in {"train": "Training_01.txt", "test": "Testing_01.txt"}.items():
        paths = [f"/{name}/sun_{number}.jpg" for number, name in wanted[split]]
        for (number, _), path in zip(wanted[split], paths, strict=True):
            write_image(folder / path[1:], number)
        write_lines(folder / file, paths, end="\r\n")
    return wanted


def places205(root: Path) -> Listed:
    images = root / "data/vision/torralba/deeplearning/images256"
    wanted: Listed = {
        "train": [(10, "a/abbey"), (20, "b/bakery/shop"), (30, "v/valley")],
        "test": [(40, "v/valley"), (50, "a/abbey")],
    }
    numbers = {"a/abbey": 0, "b/bakery/shop": 1, "v/valley": 2}
    for split, file in {"train": "train", "test": "val"}.items():
        rows = [(f"{name}/gsun_{number}.jpg", name, number) for number, name in wanted[split]]
        for path, _, number in rows:
            write_image(images / path, number)
        lines = [f"{path} {numbers[name]}" for path, name, _ in rows]
        write_lines(root / f"trainvalsplit_places205/{file}_places205.csv", lines)
    return wanted


def aircraft(root: Path) -> Listed:
    folder = root / "fgvc-aircraft-2013b/data"
    wanted: Listed = {
        "train": [(10, "707-320"), (20, "Cessna 172"), (30, "An-12")],
        "val": [(40, "Cessna 172"), (45, "An-12")],
        "test": [(50, "707-320"), (60, "Cessna 172")],
    }
    write_lines(folder / "variants.txt", ["707-320", "An-12", "Cessna 172"])
    for split, images in wanted.items():
        for number, _ in images:
            write_image(folder / f"images/{number:07d}.jpg", number)
        lines = [f"{number:07d} {name}" for number, name in images]
        write_lines(folder / f"images_variant_{split}.txt", lines)
    return wanted


def dtd(root: Path) -> Listed:
    folder = root / "dtd/dtd"
    wanted: Listed = {
        "train": [(10, "banded"), (20, "dotted"), (30, "zigzagged")],
        "val": [(40, "dotted"), (45, "zigzagged")],
        "test": [(50, "banded"), (60, "zigzagged")],
    }
    for split, images in wanted.items():
        paths = [f"{name}/{name}_{number:04d}.jpg" for number, name in images]
        for (number, _), path in zip(images, paths, strict=True):
            write_image(folder / "images" / path, number)
        write_lines(folder / f"labels/{split}1.txt", paths)
    return wanted


def pets(root: Path) -> Listed:
    folder = root / "oxford-iiit-pet"
    wanted: Listed = {
        "train": [(10, "Abyssinian"), (20, "american_bulldog"), (30, "Birman"), (40, "Birman")],
        "test": [(50, "american_bulldog"), (60, "Abyssinian")],
    }
    numbers = {"Abyssinian": 1, "american_bulldog": 2, "Birman": 3}
    for split, file in {"train": "trainval", "test": "test"}.items():
        lines = []
        for number, name in wanted[split]:
            write_image(folder / f"images/{name}_{number}.jpg", number)
            lines.append(f"{name}_{number} {numbers[name]} 1 1")
        write_lines(folder / f"annotations/{file}.txt", lines)
    return wanted


def flowers102(root: Path) -> Listed:
    folder = root / "flowers-102"
    labels = [1, 2, 3, 3, 2, 1, 1, 3]
    splits = {"train": [8, 2, 1], "val": [3, 5], "test": [4, 6, 7]}
    for number in range(1, len(labels) + 1):
        write_image(folder / f"jpg/image_{number:05d}.jpg", 10 * number)
    save_mat(folder / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    names = {"train": "trnid", "val": "valid", "test": "tstid"}
    numbers = {names[split]: np.array([ids], np.uint16) for split, ids in splits.items()}
    save_mat(folder / "setid.mat", numbers)
    return {split: [(10 * i, str(labels[i - 1])) for i in ids] for split, ids in splits.items()}


def cars(root: Path) -> Listed:
    folder = root / "stanford_cars"
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo Convertible 2012"]
    classes = {"train": [3, 1, 2, 2], "test": [2, 3]}
    files = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    cells = np.array(names, dtype=object)
    save_mat(folder / "devkit/cars_meta.mat", {"class_names": cells})
    wanted: Listed = {}
    for split, numbers in classes.items():
        greys = [10 * (i + 1) + (100 if split == "test" else 0) for i in range(len(numbers))]
        kind = [(key, object) for key in ("bbox_x1", "class", "fname")]
        annotations = np.zeros((1, len(numbers)), dtype=kind)
        for i, (grey, number) in enumerate(zip(greys, numbers, strict=True)):
            write_image(folder / f"cars_{split}/{i + 1:05d}.jpg", grey)
            annotations[0, i] = (np.uint16(7), np.uint8(number), f"{i + 1:05d}.jpg")
        save_mat(folder / files[split], {"annotations": annotations})
        wanted[split] = [(g, names[n - 1]) for g, n in zip(greys, numbers, strict=True)]
    return wanted


def save_mat(path: Path, variables: dict, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, variables, do_compression=True, **options)


VOC_OBJECTS = {  # image → its objects, and whether each is difficult
    "000012": [("aeroplane", False), ("cat", False), ("cat", True)],
    "000017": [("person", False)],
    "000023": [("cat", True)],
    "000026": [("aeroplane", False), ("person", True)],
    "000032": [("cat", False), ("person", False)],
    "000033": [],
}
VOC_SPLITS = {
    "train": ["000012", "000017"],
    "val": ["000023", "000026"],
    "test": ["000032", "000033"],
}
VOC_CLASSES = ["aeroplane", "cat", "person"]


def voc07(root: Path) -> Listed:
    folder = root / "VOCdevkit/VOC2007"
    for name, objects in VOC_OBJECTS.items():
        write_image(folder / f"JPEGImages/{name}.jpg", int(name))
        parts = [
            f"<object><name>{kind}</name><difficult>{int(difficult)}</difficult></object>"
            for kind, difficult in objects
        ]
        write_lines(folder / f"Annotations/{name}.xml", ["<annotation>", *parts, "</annotation>"])
    for split, names in VOC_SPLITS.items():
        write_lines(folder / f"ImageSets/Main/{split}.txt", names)
        for kind in VOC_CLASSES:
            lines = [f"{name} {voc_mark(name, kind):2d}" for name in names]
            write_lines(folder / f"ImageSets/Main/{kind}_{split}.txt", lines)
    return {split: [(int(name), "") for name in names] for split, names in VOC_SPLITS.items()}


def voc_mark(name: str, kind: str) -> int:
    """1 for a class that an image shows, 0 if what it shows is difficult, −1 for others."""
    difficult = [hard for other, hard in VOC_OBJECTS[name] if other == kind]
    if not difficult:
        return -1
    return 0 if all(difficult) else 1


def inat18(root: Path) -> Listed:
    folders = {"0": "Plantae/0", "1": "Aves/1", "2": "Plantae/2"}
    wanted: Listed = {"train": [(10, "0"), (20, "2"), (30, "1"), (40, "1")], "test": [(50, "2")]}
    for split, file in {"train": "train", "test": "val"}.items():
        images = []
        annotations = []
        for number, name in wanted[split]:
            path = f"train_val2018/{folders[name]}/{number:032x}.jpg"
            write_image(root / path, number)
            images.append({"id": 5000 + number, "file_name": path, "license": 3, "width": 8})
            annotations.append({"id": number, "image_id": 5000 + number, "category_id": int(name)})
        content = {"info": {"year": 2018}, "images": images, "annotations": annotations}
        (root / f"{file}2018.json").write_text(json.dumps(content))
    return wanted


def folders_of(root: Path, images: list[tuple[int, str]]) -> None:
    for number, name in images:
        write_image(root / name / f"image_{number:04d}.jpg", number)


def imagenet(root: Path) -> Listed:
    wanted: Listed = {
        "train": [(10, "n01440764"), (20, "n01440764"), (30, "n01443537"), (40, "n15075141")],
        "test": [(50, "n01440764"), (60, "n15075141")],
    }
    folders_of(root / "train", wanted["train"])
    folders_of(root / "val", wanted["test"])
    return wanted


def cropdiseases(root: Path) -> Listed:
    wanted: Listed = {
        "train": [
            (10, "Apple___Apple_scab"),
            (20, "Corn_(maize)___healthy"),
            (30, "Tomato___healthy"),
        ],
        "test": [(40, "Apple___Apple_scab"), (50, "Tomato___healthy")],
    }
    for split, images in wanted.items():
        folders_of(root / "dataset" / split, images)
    return wanted


def caltech101(root: Path, per_class: int = 32) -> Listed:
    names = ["BACKGROUND_Google", "accordion", "yin_yang"]
    images = []
    for k, name in enumerate(names):
        for i in range(per_class + k):
            path = root / "caltech101/101_ObjectCategories" / name / f"image_{i + 1:04d}.jpg"
            write_image(path, i + 70 * k)
            images.append((i + 70 * k, name))
    return {"": images}


def eurosat(root: Path) -> Listed:
    names = ["AnnualCrop", "Forest", "SeaLake"]
    images = [(10 * k + i, name) for k, name in enumerate(names) for i in range(5)]
    folders_of(root / "eurosat/2750", images)
    return {"": images}


def isic(root: Path) -> Listed:
    columns = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
    images = [(10 * (i + 1), name) for i, name in enumerate(["NV", "MEL", "NV", "DF", "MEL", "DF"])]
    path = root / "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv"
    path.parent.mkdir(parents=True)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *columns])
        for number, name in images:
            marks = [f"{float(name == column)}" for column in columns]
            writer.writerow([f"ISIC_{number:07d}", *marks])
            write_image(root / f"ISIC2018_Task3_Training_Input/ISIC_{number:07d}.jpg", number)
    return {"": images}


def chestx(root: Path) -> Listed:
    findings = [
        "Mass", "Cardiomegaly|Effusion", "Nodule", "No Finding", "Mass", "Pneumonia", "Nodule",
        "Effusion", "Effusion",
    ]  # fmt: skip
    path = root / "Data_Entry_2017.csv"
    root.mkdir(exist_ok=True)
    images = []
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["Image Index", "Finding Labels", "Follow-up #", "OriginalImage[Width", "Height]"]
        )
        for i, finding in enumerate(findings):
            writer.writerow([f"{i:08d}_000.png", finding, 0, 8, 8])
            target = root / f"images/{i:08d}_000.png"
            target.parent.mkdir(exist_ok=True)
            grey = np.full((8, 8), 10 * i, np.uint8)
            target.write_bytes(grey_png(grey))
            if finding in ("Mass", "Nodule", "Effusion"):
                images.append((10 * i, finding))
    return {"": images}


def grey_png(pixels: np.ndarray) -> bytes:
    """A PNG of one channel, 8 or 16 bits deep."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


CIFAR_NAMES = ["airplane", "automobile", "bird"]
CIFAR_LABELS = {
    "data_batch_1": [0, 2], "data_batch_2": [1], "data_batch_3": [1, 0], "data_batch_4": [2],
    "data_batch_5": [2, 1], "test_batch": [0, 1, 2],
}  # fmt: skip


def cifar_pixels(number: int) -> np.ndarray:
    """`(3, 32, 32)` uint8: a grey in three channels that differ, with a corner marked."""
    pixels = np.full((3, 32, 32), number, np.uint8) + np.arange(3, dtype=np.uint8)[:, None, None]
    pixels[:, 0, :5] = 255
    return pixels


class _Python2(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Writes bytes as the strings of Python 2, as CIFAR's files have them."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_string(self, value: bytes) -> None:
        short = len(value) < 256
        self.write(pickle.SHORT_BINSTRING if short else pickle.BINSTRING)
        self.write(len(value).to_bytes(1 if short else 4, "little") + value)
        self.memoize(value)

    dispatch[bytes] = save_string


def python2_pickle(content: object) -> bytes:
    """As Python 2 and NumPy 1 wrote it."""
    file = io.BytesIO()
    _Python2(file, protocol=2).dump(content)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def _cifar10_batches() -> dict[str, tuple[list[int], np.ndarray]]:
    batches = {}
    number = 0
    for file, labels in CIFAR_LABELS.items():
        rows = [cifar_pixels(number + i).reshape(-1) for i in range(len(labels))]
        number += len(labels)
        batches[file] = (labels, np.array(rows))
    return batches


def _cifar10_listed() -> Listed:
    classes = [CIFAR_NAMES[label] for labels in CIFAR_LABELS.values() for label in labels]
    listed = list(enumerate(classes))
    return {"train": listed[:-3], "test": listed[-3:]}


def cifar10(root: Path) -> Listed:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for file, (labels, data) in _cifar10_batches().items():
        content = {b"batch_label": b"a batch", b"labels": labels, b"data": data}
        (folder / file).write_bytes(python2_pickle(content))
    names = {b"label_names": [name.encode() for name in CIFAR_NAMES], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(python2_pickle(names))
    return _cifar10_listed()


def cifar10_binary(root: Path) -> Listed:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for file, (labels, data) in _cifar10_batches().items():
        rows = [bytes([label]) + row.tobytes() for label, row in zip(labels, data, strict=True)]
        (folder / f"{file}.bin").write_bytes(b"".join(rows))
    write_lines(folder / "batches.meta.txt", CIFAR_NAMES)
    return _cifar10_listed()


def cifar100(root: Path) -> Listed:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    names = ["apple", "aquarium_fish", "baby"]
    wanted: Listed = {}
    for split, labels in {"train": [2, 0, 1, 1], "test": [1, 2]}.items():
        first = 100 if split == "test" else 0
        data = np.array([cifar_pixels(first + i).reshape(-1) for i in range(len(labels))])
        content = {b"fine_labels": labels, b"coarse_labels": [0] * len(labels), b"data": data}
        (folder / split).write_bytes(python2_pickle(content))
        wanted[split] = [(first + i, names[label]) for i, label in enumerate(labels)]
    (folder / "meta").write_bytes(
        python2_pickle({b"fine_label_names": [name.encode() for name in names]})
    )
    return wanted


OWNERS: dict[str, Callable[[Path], Listed]] = {
    writer.__name__: writer
    for writer in (
        imagenet, places205, inat18, food101, cifar10, cifar100, sun397, cars, aircraft, voc07, dtd,
        pets, caltech101, flowers102, cropdiseases, eurosat, isic, chestx,
    )
}  # fmt: skip
