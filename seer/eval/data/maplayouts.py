"""How images with a map of classes are laid out: ADE20K, Pascal VOC, Cityscapes as their owners
distribute them, and folders of images and masks of one's own.
"""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seer.data.folders import images_under, readable
from seer.data.labelled import SPLITS
from seer.errors import InputError
from seer.eval.data.rows import NAMES, check_path, class_names, lines

IMAGES = "images"
MASKS = "masks"
LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".gif")
VOID = -1
UNKNOWN = -2  # of a number that no mask of the data set has
LAYOUTS = (
    f"train/{IMAGES} with train/{MASKS} (and val or test), {IMAGES}/train with {MASKS}/train, {IMAGES} with {MASKS}, "
    "ADE20K, VOC or Cityscapes as their owners lay them out"
)
VOC_CLASSES = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
# Cordts et al. 2016 (arXiv:1604.01685): the 19 classes that are scored, by their ids in `labelIds`.
CITY_CLASSES = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
CITY_IDS = 34
ADE_CLASSES = 150

Pair = tuple[str, str]


class Layout(NamedTuple):
    """Images and masks of a data set, by their paths below its folder.

    Attributes:
        test: None where some of `train` are to be held out.
        classes: their names; empty where they are not known.
        numbers: `(numbers in masks,)` int32 the class of each, `VOID` where it is none; None: they are the classes.
    """

    folder: Path
    train: list[Pair]
    test: list[Pair] | None
    classes: list[str]
    numbers: np.ndarray | None = None


def layout_of(data: Path) -> Layout:
    """How data are laid out. Raises `InputError` where that is not known."""
    if not data.is_dir():
        raise InputError(f"{readable(str(data))}: is no folder; give one that holds {LAYOUTS}")
    folders = [Path(e.path) for e in os.scandir(data) if e.is_dir() and not e.name.startswith(".")]
    for folder in [data, *(folders if len(folders) == 1 else [])]:
        for known in (_ade20k, _voc, _cityscapes, _own):
            if layout := known(folder):
                return layout
    raise InputError(
        f"{readable(str(data))}: has no images with masks that are known; give {LAYOUTS}"
    )


def _ade20k(folder: Path) -> Layout | None:
    """Zhou et al. 2017: 0 in a mask is none of the 150 classes."""
    halves = [(f"{IMAGES}/{split}", f"annotations/{split}") for split in ("training", "validation")]
    if not all(_are_there(folder, half) for half in halves):
        return None
    numbers = np.arange(ADE_CLASSES + 1, dtype=np.int32) - 1
    train, test = (_pairs(folder, *half) for half in halves)
    return Layout(folder, train, test, _ade_names(folder), numbers)


def _ade_names(folder: Path) -> list[str]:
    """As `objectInfo150.txt` has them, the first of each one's synonyms; else numbers."""
    path = folder / "objectInfo150.txt"
    if path.is_file():
        rows = [line.split("\t") for line in list(lines(path))[1:]]
        names = [row[-1].split(",")[0].strip() for row in rows if len(row) > 1]
        if len(names) == ADE_CLASSES:
            return names
    return [str(number) for number in range(1, ADE_CLASSES + 1)]


def _voc(folder: Path) -> Layout | None:
    """Everingham et al. 2010: trained on `train`, tested on `val`; 255 is void."""
    root = "VOC2012/" if (folder / "VOC2012/SegmentationClass").is_dir() else ""
    listed = [folder / f"{root}ImageSets/Segmentation/{split}.txt" for split in ("train", "val")]
    if not (folder / f"{root}SegmentationClass").is_dir() or not all(p.is_file() for p in listed):
        return None
    numbers = np.full(256, VOID, np.int32)
    numbers[: len(VOC_CLASSES)] = np.arange(len(VOC_CLASSES))
    numbers[len(VOC_CLASSES) : 255] = UNKNOWN
    names: list[list[str]] = [_names(path) for path in listed]
    times = Counter(name for of_split in names for name in of_split)
    if twice := [name for name, count in times.items() if count > 1]:
        raise InputError(f"{folder}: its lists name {readable(twice[0])} twice; get them again")
    train, test = ([_voc_pair(folder, root, name) for name in of_split] for of_split in names)
    return Layout(folder, train, test, VOC_CLASSES, numbers)


def _names(path: Path) -> list[str]:
    return [line.split()[0] for line in lines(path) if line.strip()]


def _voc_pair(folder: Path, root: str, name: str) -> Pair:
    check_path(name, folder)
    return f"{root}JPEGImages/{name}.jpg", f"{root}SegmentationClass/{name}.png"


def _cityscapes(folder: Path) -> Layout | None:
    halves = [(f"leftImg8bit/{split}", f"gtFine/{split}") for split in ("train", "val")]
    if not all(_are_there(folder, half) for half in halves):
        return None
    numbers = np.full(CITY_IDS, VOID, np.int32)
    for label, number in enumerate(CITY_CLASSES):
        numbers[number] = label
    train, test = (_city_pairs(folder, *half) for half in halves)
    return Layout(folder, train, test, list(CITY_CLASSES.values()), numbers)


def _city_pairs(folder: Path, images: str, masks: str) -> list[Pair]:
    ending = "_leftImg8bit.png"
    names = [name for name in images_under(folder / images) if name.endswith(ending)]
    stems = [name.removesuffix(ending) for name in names]
    return [(f"{images}/{stem}{ending}", f"{masks}/{stem}_gtFine_labelIds.png") for stem in stems]


def _own(folder: Path) -> Layout | None:
    whole = (IMAGES, MASKS)
    halves = {
        split: [half for name in names for half in _forms(name) if _are_there(folder, half)]
        for split, names in SPLITS.items()
    }
    classes = class_names(folder / NAMES) if (folder / NAMES).is_file() else []
    if halves["train"] and halves["test"]:
        train = _pairs(folder, *halves["train"][0])
        return Layout(folder, train, _pairs(folder, *halves["test"][0]), classes)
    if _are_there(folder, whole) and not halves["train"] and not halves["test"]:
        return Layout(folder, _pairs(folder, *whole), None, classes)
    return None


def _forms(split: str) -> list[Pair]:
    return [(f"{split}/{IMAGES}", f"{split}/{MASKS}"), (f"{IMAGES}/{split}", f"{MASKS}/{split}")]


def _are_there(folder: Path, names: Iterable[str]) -> bool:
    return all((folder / name).is_dir() for name in names)


def _pairs(folder: Path, images: str, masks: str) -> list[Pair]:
    """Images at any depth, each with the mask of its name, whether that is there or not."""
    names = images_under(folder / images)
    if not names:
        raise InputError(f"{readable(str(folder / images))}: has no images")
    pairs = [(f"{images}/{name}", f"{masks}/{_mask(folder / masks, name)}") for name in names]
    # Masks without images are counted as what they lack.
    taken = {mask for _, mask in pairs}
    every = [f"{masks}/{name}" for name in images_under(folder / masks)]
    alone = [mask for mask in every if mask not in taken and mask.endswith(LOSSLESS)]
    return pairs + [(f"{images}{mask.removeprefix(masks)}", mask) for mask in alone]


def _mask(folder: Path, name: str) -> str:
    stem = os.path.splitext(name)[0]
    endings = (ending for ending in LOSSLESS if (folder / f"{stem}{ending}").is_file())
    return stem + next(endings, LOSSLESS[0])
