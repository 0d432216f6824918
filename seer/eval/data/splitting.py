"""Training, validation and test images of a data set: its owners' split, or one that is made the
same way everywhere.
"""

import bisect
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from seer.data.folders import readable
from seer.data.labelled import (
    HELD_OUT,
    ImageSet,
    Labelled,
    Source,
    agreeing,
    divided,
    has_split,
    part,
    say_once,
)
from seer.data.labelled import check_layout as check_own_layout
from seer.data.labelled import splits as labelled_splits
from seer.errors import InputError
from seer.eval.data.csvlists import own_rows, own_table
from seer.eval.data.datasets import BOXES, MASKS, SEVERAL_CLASSES, VARIANT, WHOLE, DataSet
from seer.eval.data.recognition import Located, locate, words
from seer.eval.data.several import MultiLabelled

Kind = TypeVar("Kind", bound=ImageSet)

TAKERS = {BOXES: "detect", MASKS: "segment"}  # tasks, by what is known of an image
SEED = 0  # of splits that the owners leave to whoever measures


class Joined:
    """Sources one after the other."""

    def __init__(self, sources: Sequence[Source], lengths: Sequence[int]):
        self.sources = list(sources)
        self.ends = list(accumulate(lengths))
        content = "\0".join(source.fingerprint for source in sources) + f"\0{self.ends}"
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()

    def __len__(self) -> int:
        return self.ends[-1]

    def bytes(self, i: int) -> bytes:
        source, number = self._at(i)
        return source.bytes(number)

    def key(self, i: int) -> str:
        source, number = self._at(i)
        return source.key(number)

    def name(self, i: int) -> str:
        source, number = self._at(i)
        return source.name(number)

    def _at(self, i: int) -> tuple[Source, int]:
        which = bisect.bisect_right(self.ends, i)
        before = self.ends[which - 1] if which else 0
        return self.sources[which], i - before


def joined(parts: Sequence[Any]) -> Any:
    """The images of all parts, which are of one kind and have the same classes."""
    assert all(images.classes == parts[0].classes for images in parts)
    if len(parts) == 1:
        return parts[0]
    source = Joined([images.source for images in parts], [len(images) for images in parts])
    labels = np.concatenate([images.labels for images in parts])
    return type(parts[0])(source, labels, parts[0].classes)


def some_of_each(images: Labelled, count: int, seed: int = SEED) -> tuple[Labelled, Labelled]:
    """`count` images of each class, fewer where there are not more, and the others.

    Which ones depends on the seed and on their names within the data alone.
    """
    chosen = chosen_of_each(images, np.full(len(images.classes), count), seed)
    return part(images, chosen), part(images, np.setdiff1d(np.arange(len(images)), chosen))


def chosen_of_each(images: Labelled, counts: np.ndarray, seed: int = SEED) -> np.ndarray:
    """`(n,)` rising numbers of `(C,)` counts of images of each class, fewer where there are not more:
    those whose names have the smallest hashes with the seed.
    """
    digests = [
        hashlib.sha256(f"{seed}/".encode() + os.fsencode(images.source.key(i))).digest()
        for i in range(len(images))
    ]
    chosen: list[int] = []
    for label in np.unique(images.labels).tolist():
        members = sorted(np.flatnonzero(images.labels == label).tolist(), key=digests.__getitem__)
        chosen += members[: counts[label]]
    return np.array(sorted(chosen), np.int64)


@dataclass(frozen=True)
class Splits(Generic[Kind]):
    """The images of a data set.

    Attributes:
        val: None where the owners give none.
        rule: how the split was made, where it is not simply the owners' train and test.
        entry: of the table; None for data of one's own.
        whole: whether the images are as many as the entry says.
    """

    train: Kind
    val: Kind | None
    test: Kind
    rule: str = ""
    entry: DataSet | None = None
    whole: bool = False


def load(data: Path | str) -> Splits:
    """The labelled images that `data` names: a data set of the table as its owner lays it out (a
    folder that holds it, or `NAME:DIR`), a CSV file (`path,label[,split]`), class folders or
    labelled shards.

    Raises:
        InputError: in one line, what is unknown, missing or damaged.
    """
    located = locate(data)
    if located is not None:
        check_layout(data, several=True)
        return _of_owners(located)
    if is_table(data):
        parts = own_table(Path(data))
        return _arranged(parts, rule_of(data), 0, str(data))
    train, test = labelled_splits(data)
    return Splits(train, None, test, rule_of(data))


def train_and_test(data: Path | str, several: bool = False) -> tuple[Any, Any]:
    """Training images, the owners' validation images among them and known as such
    (`ImageSet.validation`), and test images, as `load` finds them, labelled by the same classes.

    Args:
        several: whether images of several classes each will do, which come as `MultiLabelled`.

    Raises:
        InputError: as `load`; images of several classes each; a test image's class has no training images; all are of
            one class.
    """
    check_layout(data, several)
    splits = load(data)
    train = joined([splits.train, splits.val]) if splits.val else splits.train
    test = splits.test
    if not isinstance(train, MultiLabelled):
        train, test = agreeing(train, test, readable(str(data)))
    train.validation = np.arange(len(splits.train), len(train))
    if splits.entry:
        train.metric = splits.entry.metric
        train.dataset = splits.entry.name if splits.whole else ""
    return train, test


def check_layout(data: Path | str, several: bool = False) -> None:
    """Refuse what `train_and_test` would refuse, as far as that is told without reading lists.

    Raises:
        InputError: in one line, what is unknown or missing.
    """
    located = locate(data)
    if located is None:
        if not is_table(data):
            check_own_layout(data)
        return
    entry, folder = located
    if entry.kind in TAKERS:
        task = TAKERS[entry.kind]
        raise InputError(f"{folder}: {entry.title} has {entry.kind}, which the task {task} takes")
    if entry.read is None:
        raise InputError(f"{folder}: {entry.title} has {entry.kind}, which no task here takes")
    if entry.kind == VARIANT:
        raise InputError(
            f"{folder}: {entry.title} has test images alone; seer eval robustness --data imagenet:DIR variants=DIR"
        )
    if missing := located.missing():
        raise InputError(
            f"{folder}: {words(missing[0])} is missing; the owner's archives have it: {entry.source}"
        )
    if entry.kind == SEVERAL_CLASSES and not several:
        raise InputError(f"{folder}: {entry.title} has {entry.kind}, which this task cannot score")


def rule_of(data: Path | str) -> str:
    """How `load` makes a split, "" where it is simply the owners' train and test. Reads no image."""
    located = locate(data)
    per_class = 0
    if located is not None:
        splits = set(located.entry.sizes)
        per_class = located.entry.per_class
    elif is_table(data):
        splits = {row.split for row in own_rows(Path(data))}
    else:
        splits = {"train", "test"} if has_split(data) else {WHOLE}
    if splits == {WHOLE} and per_class:
        return (
            f"{per_class} images of each class to train on (seed {SEED}), the others to test with"
        )
    if splits == {WHOLE}:
        return f"one image in {HELD_OUT} of each class held out"
    return "train and val together to train on" if {"val", "test"} <= splits else ""


def is_table(data: Path | str) -> bool:
    return str(data).lower().endswith(".csv") and os.path.isfile(data)


def _of_owners(located: Located) -> Splits:
    entry, folder = located
    assert entry.read is not None
    parts = entry.read(folder)
    lengths = {split: len(images) for split, images in parts.items()}
    whole = lengths == dict(entry.sizes)
    if not whole:
        ours = ", ".join(f"{split or 'whole'} {length:,}" for split, length in lengths.items())
        theirs = ", ".join(f"{split or 'whole'} {size:,}" for split, size in entry.sizes.items())
        say_once(f"{folder}: {ours} images, and {entry.title} has {theirs}: no score compares")
    rule = rule_of(f"{entry.name}:{folder}")
    arranged = _arranged(parts, rule, entry.per_class, str(folder))
    return replace(arranged, entry=entry, whole=whole)


def _arranged(parts: Mapping[str, Any], rule: str, per_class: int, where: str) -> Splits:
    """The parts that a reader has found as training, validation and test images."""
    if set(parts) == {WHOLE}:
        whole = parts[WHOLE]
        train, test = some_of_each(whole, per_class) if per_class else divided(whole)
        say_once(f"{where}: {rule}: {len(train):,} and {len(test):,} images")
        if not len(test):
            raise InputError(f"{where}: no class has more than {per_class} images, so none is left")
        return Splits(train, None, test, rule)
    if WHOLE in parts:
        raise InputError(f"{where}: some images have a split and others none; give all of them one")
    if "train" not in parts or not {"val", "test"} & set(parts):
        raise InputError(f"{where}: has no {'test' if 'train' in parts else 'training'} images")
    if "test" not in parts:
        return Splits(parts["train"], None, parts["val"], rule)
    return Splits(parts["train"], parts.get("val"), parts["test"], rule)
