"""How data for detectors are laid out: COCO's JSON, Pascal VOC's XML, YOLO's text files, shards; how the
training and the test images of each are read.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from seer.data.storage.index import MANIFEST
from seer.errors import InputError
from seer.eval.data import boxshards, coco, voc, yolo
from seer.eval.data.objects import Annotated
from seer.inputs import open_data

TESTS = ("test", "val", "valid", "validation")
LAYOUTS = (
    "train.json and val.json or test.json (COCO), annotations/instances_*.json, one .json, Annotations/ and "
    "JPEGImages/ (VOC), images/ and labels/ (YOLO), or shards made by: seer shards build --boxes"
)

# A COCO file's first key, in whichever order its writer had them.
COCO_BEGINS = re.compile(rb'\s*\{\s*"(info|licenses|images|annotations|categories|type)"')

Read = Callable[[], Annotated]


class Halves(NamedTuple):
    """How the training and the test images are read; `test` is None where some are to be held out."""

    train: Read
    test: Read | None


def both(folder: Path) -> dict[str, Annotated]:
    """The training and the test images of a data set whose owners give both."""
    halves = halves_of(folder)
    assert halves.test
    return {"train": halves.train(), "test": halves.test()}


def halves_of(data: Path) -> Halves:
    """How data are read. Raises `InputError` where there is no layout that is known."""
    if not os.path.exists(data):
        raise InputError(f"{data} does not exist; give a folder that holds {LAYOUTS}")
    if data.is_file():
        if data.suffix != ".json":
            raise InputError(f"{data}: is no .json; give a folder that holds {LAYOUTS}")
        return Halves(_coco(data, data.parent), None)
    for layout in (_shards_of, _coco_of, _voc_of, _yolo_of):
        for folder in _within(data):
            if halves := layout(folder):
                return halves
    raise InputError(f"{data}: holds no images with boxes that are known; give {LAYOUTS}")


def says_boxes(data: Path) -> bool:
    """Whether a folder tells by its files that it holds boxes. `halves_of` takes more for them, if it is
    told: any shards, and any single .json.
    """
    return data.is_dir() and any(
        _is_coco(folder) or _is_voc(folder) or _is_yolo(folder) or _has_objects(folder)
        for folder in _within(data)
    )


def _is_coco(folder: Path) -> bool:
    files = _coco_files(folder)
    return bool(files) and all(COCO_BEGINS.match(_beginning(path)) for path in files)


def _beginning(path: Path) -> bytes:
    try:
        with open_data(path) as file:
            return file.read(256)
    except OSError:
        return b""


def _is_voc(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in (voc.ANNOTATIONS, voc.IMAGES))


def _is_yolo(folder: Path) -> bool:
    try:
        return _yolo_of(folder) is not None
    except InputError:  # its classes have no names, which reading it says
        return True


def _has_objects(folder: Path) -> bool:
    """Whether a folder is of shards, the first sample of which has objects."""
    for directory in (folder / "train", folder):
        if (directory / MANIFEST).is_file():
            with suppress(InputError):
                return boxshards.begins_with_objects(directory)
    return False


def _within(data: Path) -> Iterator[Path]:
    """A folder and, if it holds one only, that in it."""
    yield data
    folders = [e.path for e in os.scandir(data) if e.is_dir() and not e.name.startswith(".")]
    if len(folders) == 1:
        yield Path(folders[0])


def _shards_of(folder: Path) -> Halves | None:
    train = _first(folder, [f"train/{MANIFEST}"])
    test = _first(folder, [f"{split}/{MANIFEST}" for split in TESTS])
    if train and test:
        return Halves(lambda: boxshards.read(train.parent), lambda: boxshards.read(test.parent))
    if (folder / MANIFEST).is_file():
        return Halves(lambda: boxshards.read(folder), None)
    return None


def _coco(path: Path, folder: Path) -> Read:
    """Reading a COCO file whose images lie in a folder of its name, in images/, or beside it."""
    name = path.stem.removeprefix("instances_")
    inner = path.parent.relative_to(folder).as_posix()
    roots = [name, f"images/{name}", "images", inner if inner != "." else "", ""]
    there = [root for root in dict.fromkeys(roots) if os.path.isdir(folder / root)]
    return lambda: coco.read(path, folder, there)


def _coco_files(folder: Path) -> list[Path]:
    """The files of the training and of the test images, or one of all; none where there is neither."""
    train = _first(
        folder,
        ["train.json", "annotations/instances_train*.json", "train/_annotations.coco.json"],
    )
    names = [
        pattern
        for split in TESTS
        for pattern in (
            f"{split}.json",
            f"annotations/instances_{split}*.json",
            f"{split}/_annotations.coco.json",
        )
    ]
    test = _first(folder, names)
    if train and test:
        return [train, test]
    single = sorted(folder.glob("*.json"))
    return single if len(single) == 1 else []


def _coco_of(folder: Path) -> Halves | None:
    reads = [_coco(path, folder) for path in _coco_files(folder)]
    if not reads:
        return None
    return Halves(reads[0], reads[1] if len(reads) > 1 else None)


def _first(folder: Path, patterns: list[str]) -> Path | None:
    return next((path for pattern in patterns for path in sorted(folder.glob(pattern))), None)


def _voc_of(folder: Path) -> Halves | None:
    """One data set of VOC's layout, or VOC2007 and VOC2012 beside each other: trained on both years'
    `trainval`, tested on 2007's `test`, as detectors are.
    """
    years = [name for name in ("VOC2007", "VOC2012") if (folder / name / voc.ANNOTATIONS).is_dir()]
    if not years:
        if not (folder / voc.ANNOTATIONS).is_dir():
            return None
        years = [""]
    tests = voc.names_of(folder, years[0], TESTS)
    trains = [voc.names_of(folder, year, ("trainval", "train")) for year in years]
    if tests is None or None in trains:
        every = [name for year in years for name in voc.all_names(folder, year)]
        return Halves(lambda: voc.read(folder, every), None)
    tested = set(tests)
    learnt = [name for names in trains for name in names or [] if name not in tested]
    return Halves(lambda: voc.read(folder, learnt), lambda: voc.read(folder, tests))


def _yolo_of(folder: Path) -> Halves | None:
    forms = {
        split: [(f"images/{split}", f"labels/{split}"), (f"{split}/images", f"{split}/labels")]
        for split in ("train", *TESTS)
    }
    there = {
        split: next(
            (f for f in both if (folder / f[0]).is_dir() and (folder / f[1]).is_dir()), None
        )
        for split, both in forms.items()
    }
    test = next((there[split] for split in TESTS if there[split]), None)
    train = there["train"]
    if train and test:
        classes = yolo.names_in(folder)
        if classes is None:
            raise InputError(
                f"{folder}: the classes of its labels have no names; list them as names: in data.yaml there"
            )
        return Halves(
            lambda: yolo.read(folder, *train, classes), lambda: yolo.read(folder, *test, classes)
        )
    if (folder / "images").is_dir() and (folder / "labels").is_dir():
        return Halves(lambda: yolo.read(folder, "images", "labels", yolo.names_in(folder)), None)
    return None
