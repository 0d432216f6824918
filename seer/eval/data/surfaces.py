"""Training and test images with normals or depth: their owners' split, or the last fifth held out."""

from functools import lru_cache
from pathlib import Path

from seer.data.folders import readable
from seer.data.labelled import say_once
from seer.data.storage.store import Url, place
from seer.errors import InputError
from seer.eval.data.datasets import DATASETS, NORMALS
from seer.eval.data.recognition import folder_of_marks, located_by, named
from seer.eval.data.surfacelayouts import RULE, both, halves_of, is_nyu
from seer.eval.data.surfacemaps import FROM_DEPTH, FROM_FILES, SurfaceImages

NYU = DATASETS["nyuv2"]


def check_layout(data: Path | str, several: bool = False) -> None:
    """Refuse data of no layout that is known. Raises `InputError`."""
    halves_of(folder_of(data))


def folder_of(data: Path | str) -> Path:
    """Where the files of data lie: a folder of one's own, or `NAME:DIR` of the table of data sets.

    Raises:
        InputError: the data set has no normals, or is not all there.
    """
    if isinstance(place(data), Url):
        raise InputError(f"{data}: images with normals are read from a folder; copy them to one")
    name, folder = named(data)
    if name and DATASETS[name].kind != NORMALS:
        raise InputError(
            f"{data}: {DATASETS[name].title} has {DATASETS[name].kind}, and no normals"
        )
    if not name and (folder_of_marks(NYU, folder) is None or not folder.is_dir()):
        return folder
    located = located_by(NYU.name, folder)
    if missing := located.missing():
        raise InputError(f"{readable(str(located.folder))}: {missing[0]} is missing: {NYU.source}")
    return located.folder


def rule_of(data: Path | str) -> str:
    """How the images are split where it is not their owner's way."""
    folder = folder_of(data)
    train, test = halves_of(folder)
    return RULE if train == test and not is_nyu(folder) else ""


def train_and_test(data: Path | str, several: bool = False) -> tuple[SurfaceImages, SurfaceImages]:
    """Training and test images.

    Raises:
        InputError: a folder or file is missing or is not what it should be; no image has a map.
    """
    return _read(str(folder_of(data).absolute()))


@lru_cache(2)
def _read(data: str) -> tuple[SurfaceImages, SurfaceImages]:
    folder = Path(data)
    train, test = both(folder)
    words = readable(data)
    if rule_of(data):
        say_once(f"{words}: {RULE}: {len(train):,} to train on, {len(test):,} to test with")
    for name, images in (("training", train), ("test", test)):
        if images.counts:
            listed = ", ".join(f"{count:,} {what}" for what, count in images.counts.items())
            say_once(f"{words}, {name} images: {listed}")
    if train.origin != test.origin:
        raise InputError(f"{words}: one split has normals and the other depth; give both the same")
    if is_nyu(folder):
        if train.origin == FROM_DEPTH:
            say_once(f"{words}: normals are computed from depth; published values are of others")
        sizes = {"train": len(train), "test": len(test)}
        if train.origin == FROM_FILES and sizes == NYU.sizes:
            train.dataset = test.dataset = NYU.name
    return train, test
