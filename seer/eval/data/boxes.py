"""Training and test images with boxes: the owners' split, or one that is made the same way everywhere."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

import numpy as np

from seer.data.folders import readable
from seer.data.labelled import HELD_OUT, say_once
from seer.data.storage.store import Url, place
from seer.errors import InputError
from seer.eval.data.boxlayouts import Halves, halves_of
from seer.eval.data.datasets import BOXES, DATASETS
from seer.eval.data.objects import Annotated, part
from seer.eval.data.recognition import located_by, named

RULE = f"one image in {HELD_OUT} held out, by the hashes of their names"


def check_layout(data: Path | str, several: bool = False) -> None:
    """Refuse data of no layout that is known. Raises `InputError`."""
    found(data)


def found(data: Path | str) -> Halves:
    """How data are read: a folder, a COCO file, or `NAME:DIR` of the table of data sets.

    Raises:
        InputError: there is no layout that is known; the data set has no boxes, or is not all there.
    """
    if isinstance(place(data), Url):
        raise InputError(f"{data}: images with boxes are read from a folder; copy them to one")
    name, folder = named(data)
    if not name:
        return halves_of(folder)
    if DATASETS[name].kind != BOXES:
        raise InputError(f"{data}: {DATASETS[name].title} has {DATASETS[name].kind}, and no boxes")
    return halves_of(located_by(name, folder).folder)


def rule_of(data: Path | str) -> str:
    """How the images are split where it is not simply their owner's train and test."""
    return "" if found(data).test else RULE


def train_and_test(data: Path | str, several: bool = False) -> tuple[Annotated, Annotated]:
    """Training and test images with objects of the same classes: those that occur in training.

    Raises:
        InputError: as the readers; there are no objects to learn from, or no test images.
    """
    name, folder = named(data)
    where = str(folder.absolute())
    return _read(f"{name}:{where}" if name else where)


@lru_cache(2)
def _read(data: str) -> tuple[Annotated, Annotated]:
    halves = found(data)
    train = halves.train()
    if halves.test is None:
        kept, held = held_out(train)
        train, test = part(train, kept), part(train, held)
        test.counts = {}  # they are told of the training images
        say_once(
            f"{readable(data)}: {RULE}: {len(train):,} to train on, {len(test):,} to test with"
        )
    else:
        test = halves.test()
    occurring = np.unique(train.objects.labels[~train.objects.crowd]).tolist()
    if not occurring:
        counted = f" ({_listed(train)})" if train.counts else ""
        raise InputError(
            f"{readable(data)}: its training images have no objects to learn from{counted}"
        )
    classes = [train.classes[number] for number in occurring]
    train = _of_classes(train, classes)
    test = _of_classes(test, classes)
    for name, images in (("training", train), ("test", test)):
        if images.counts:
            say_once(f"{readable(data)}, {name} images: {_listed(images)}")
    if (test.objects.crowd | test.objects.difficult).all():
        raise InputError(
            f"{readable(data)}: its test images have no objects of these classes that count"
        )
    return train, test


def _listed(images: Annotated) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in images.counts.items())


def _of_classes(images: Annotated, classes: list[str]) -> Annotated:
    if images.classes == classes:
        return images
    return part(images, np.arange(len(images)), classes)


def held_out(images: Annotated) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the images to train on and of those to test with, by their names alone. Raises
    `InputError` for a single image.
    """
    if len(images) < 2:
        raise InputError(f"{images.source.name(0)} is alone; a score needs another image")
    digests = [
        hashlib.sha256(os.fsencode(images.source.key(i))).digest() for i in range(len(images))
    ]
    order = sorted(range(len(images)), key=digests.__getitem__)
    count = max(1, len(images) // HELD_OUT)
    return np.array(sorted(order[count:])), np.array(sorted(order[:count]))
