"""Training and test images with a map of classes each: owners' layouts, and folders of one's own."""

from functools import lru_cache
from pathlib import Path

from seer.data.folders import readable
from seer.data.labelled import HELD_OUT, say_once
from seer.data.storage.store import Url, place
from seer.errors import InputError
from seer.eval.data.datasets import DATASETS, MASKS
from seer.eval.data.maplayouts import Layout, layout_of
from seer.eval.data.mapped import MappedImages
from seer.eval.data.recognition import located_by, named

RULE = f"one image in {HELD_OUT} held out, in the order of their names"


def check_layout(data: Path | str, several: bool = False) -> None:
    """Refuse data of no layout that is known. Raises `InputError`."""
    found(data)


def found(data: Path | str) -> Layout:
    """How data are laid out: a folder, or `NAME:DIR` of the table of data sets.

    Raises:
        InputError: that is not known; the data set has no masks, or is not all there.
    """
    if isinstance(place(data), Url):
        raise InputError(f"{data}: images with masks are read from a folder; copy them to one")
    name, folder = named(data)
    if not name:
        return layout_of(folder)
    if DATASETS[name].kind != MASKS:
        raise InputError(f"{data}: {DATASETS[name].title} has {DATASETS[name].kind}, and no masks")
    return layout_of(located_by(name, folder).folder)


def rule_of(data: Path | str) -> str:
    """How the images are split where it is not their owner's way."""
    return RULE if found(data).test is None else ""


def train_and_test(data: Path | str, several: bool = False) -> tuple[MappedImages, MappedImages]:
    """Training and test images. What is left out is said.

    Raises:
        InputError: as `found`; a folder is empty, or no image of it can be used.
    """
    name, folder = named(data)
    where = str(folder.absolute())
    return _read(f"{name}:{where}" if name else where)


@lru_cache(2)
def _read(data: str) -> tuple[MappedImages, MappedImages]:
    layout = found(data)
    train = layout.train
    test = layout.test
    if test is None:
        there = [pair for pair in train if (layout.folder / pair[0]).is_file()]
        if len(there) < 2:
            raise InputError(f"{readable(data)}: has one image; a score needs another")
        test = there[HELD_OUT - 1 :: HELD_OUT] or there[-1:]
        held = set(test)
        train = [pair for pair in train if pair not in held]
        count = len(there) - len(test)
        say_once(f"{readable(data)}: {RULE}: {count:,} to train on, {len(test):,} to test with")
    images = {
        "training": MappedImages(layout.folder, train, layout),
        "test": MappedImages(layout.folder, test, layout),
    }
    for name, own in images.items():
        if own.counts:
            listed = ", ".join(f"{count:,} {what}" for what, count in own.counts.items())
            say_once(f"{readable(data)}, {name} images left out: {listed}")
    return images["training"], images["test"]
