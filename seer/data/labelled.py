"""Labelled images for the evaluations: class folders, or labelled shards, behind one small
interface.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn, Protocol

import numpy as np

from seer.data.decoding.decode import DamagedImage, decode
from seer.data.folders import Files, images_under, left_out, readable
from seer.data.members import Sample
from seer.data.storage.index import MANIFEST, Manifest
from seer.data.storage.reader import UNLABELLED, Reader
from seer.data.storage.store import Url, place
from seer.errors import InputError, unreadable

logger = logging.getLogger("seer.data")

MOST_SAMPLES = 2**27  # of labelled shards, whose labels are all held in memory
# A split's name → the folders that may hold it.
SPLITS = {"train": ("train",), "test": ("test", "val")}
HELD_OUT = 5  # one of so many images of each class is a test image, where data have no split
SPLIT_FOLDERS = {"train", "test", "val", "valid", "validation"}


class Source(Protocol):
    """Encoded images by number, each with a name to tell the user."""

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def bytes(self, i: int) -> bytes: ...

    def key(self, i: int) -> str: ...  # within the source

    def name(self, i: int) -> str: ...


class Samples:
    """Samples of shards by global id."""

    def __init__(self, reader: Reader, ids: np.ndarray):
        self.reader = reader
        self.ids = ids
        self.fingerprint = hashlib.sha256(reader.manifest.hash.encode() + ids.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.ids)

    def bytes(self, i: int) -> bytes:
        return self.reader.read(self.ids[i : i + 1])[0]

    def key(self, i: int) -> str:
        return str(self.ids[i])

    def name(self, i: int) -> str:
        return f"sample {self.ids[i]} of {readable(str(self.reader.manifest.directory))}"


class Part:
    """Some images of a source, by their numbers there."""

    def __init__(self, whole: Source, numbers: np.ndarray):
        self.whole = whole
        self.numbers = numbers.tolist()
        self.fingerprint = hashlib.sha256(
            whole.fingerprint.encode() + numbers.tobytes()
        ).hexdigest()

    def __len__(self) -> int:
        return len(self.numbers)

    def bytes(self, i: int) -> bytes:
        return self.whole.bytes(self.numbers[i])

    def key(self, i: int) -> str:
        return self.whole.key(self.numbers[i])

    def name(self, i: int) -> str:
        return self.whole.name(self.numbers[i])


class ImageSet:
    """Encoded images of a source with what is known of each. Picklable; decodes, and leaves all
    further transforms to the evaluation.

    Attributes:
        classes: names, sorted where they come from folders.
        fingerprint: 16 hex digits, the same as long as images and what is known of them are; for caches of features.
        validation: of training images, the numbers of those that their owners give to choose options by; empty where
            they give none.
        metric: what those who use the data set report; "" of data of one's own.
        dataset: its name in the table of data sets, if they are as many as its owner's; else "".
    """

    metric = ""
    dataset = ""

    def __init__(self, source: Source, known: np.ndarray, classes: Sequence[str]):
        self.source = source
        self.classes = list(classes)
        content = "\0".join([source.fingerprint, *self.classes]).encode() + known.tobytes()
        self.fingerprint = hashlib.sha256(content).hexdigest()[:16]
        self.validation = np.empty(0, np.int64)
        self._known = hashlib.sha256(known.tobytes()).digest()
        self._length = len(known)

    def __len__(self) -> int:
        return self._length

    def listing(self) -> str:
        """64 hex digits of the images' names within the data and of what is known of each: the same
        wherever they lie, and whenever they were copied there.
        """
        digest = hashlib.sha256("\0".join(self.classes).encode() + b"\0" + self._known)
        for i in range(len(self)):
            digest.update(os.fsencode(self.source.key(i)) + b"\0")
        return digest.hexdigest()

    def bytes(self, i: int) -> bytes:
        """The encoded image."""
        return self.source.bytes(i)

    def image(self, i: int) -> np.ndarray:
        """`(H, W, 3)` uint8 RGB. Raises `InputError` naming the file if it is damaged: a score
        skips no image.
        """
        try:
            return decode(self.bytes(i))
        except DamagedImage as error:
            raise InputError(
                f"{self.source.name(i)} cannot be used ({error}); repair or remove it"
            ) from error


class Labelled(ImageSet):
    """Images of one class each.

    Attributes:
        labels: `(N,)` int64 into `classes`.

    Raises:
        InputError: a label is none of the classes.
    """

    def __init__(self, source: Source, labels: np.ndarray, classes: Sequence[str]):
        self.labels = np.asarray(labels, dtype=np.int64)
        unknown = np.flatnonzero((self.labels < 0) | (self.labels >= len(classes)))
        if len(unknown):
            first = int(unknown[0])
            raise InputError(
                f"{source.name(first)} has label {self.labels[first]}, which is none of the {len(classes)} "
                f"classes; correct it, and index or build the shards again"
            )
        super().__init__(source, self.labels, classes)


class LabelledSamples:
    """Labelled images as a loader reads them. None is replaced by another, whose label may differ."""

    def __init__(self, images: ImageSet, name: str):
        self.images = images
        self.name = name
        self.identity = images.fingerprint

    def __len__(self) -> int:
        return len(self.images)

    def read_step(
        self,
        ids: np.ndarray,
        step: int,
        ids_of: Callable[[int], np.ndarray],
        stride: int = 1,
        suffixes: tuple[str, ...] = (),
    ) -> list[Sample]:
        """The encoded images `ids`; labels are all that is known besides."""
        assert not suffixes
        return [Sample(self._bytes(id)) for id in ids.tolist()]

    def _bytes(self, id: int) -> bytes:
        try:
            return self.images.bytes(id)
        except DamagedImage as damage:
            raise self._unusable(id, damage.reason) from damage

    def replacement(self, damaged: int, reason: str, suffixes: tuple[str, ...] = ()) -> NoReturn:
        """Raises `InputError` that names the file."""
        raise self._unusable(damaged, reason)

    def _unusable(self, id: int, reason: str) -> InputError:
        return InputError(
            f"{self.images.source.name(id)} cannot be used ({reason}); repair or remove it"
        )


def load_labelled(path: Path | str, split: str | None = None) -> Labelled:
    """Labelled images of `path`, or of its folder for `split` (`train`; `test`, which may be named
    `val`).

    Raises:
        InputError: there are neither class folders nor labelled shards.
    """
    root = place(path)
    if isinstance(root, Url):
        folders = [root] if split is None else [root / name for name in SPLITS.get(split, (split,))]
        return _from_shards(
            next((folder for folder in folders if (folder / MANIFEST).is_file()), folders[0])
        )
    if split is not None:
        root = _split_folder(root, split)
    if os.path.isfile(
        root / MANIFEST
    ):  # os.path raises nothing: names may be too long, folders closed
        return _from_shards(root)
    return _from_folders(root)


def splits(data: Path | str) -> tuple[Labelled, Labelled]:
    """Training and test images under `data`, labelled by the same classes: those of which there are
    training images.

    Data without a split of their own, class folders or labelled shards, are split by `divided`, which is said.

    Raises:
        InputError: as `load_labelled`; a test image's class has no training images; all are of one class.
    """
    if has_split(data):
        train = load_labelled(data, "train")
        test = load_labelled(data, "test")
    else:
        train, test = divided(load_labelled(data))
        say_once(
            f"{readable(str(data))} has no train/ and test/: one image in {HELD_OUT} of each class is held out; "
            f"{len(train):,} images to train on, {len(test):,} to test with"
        )
    return agreeing(train, test, data)


def agreeing(train: Labelled, test: Labelled, data: Path | str) -> tuple[Labelled, Labelled]:
    """The same images, labelled by the classes of which there are training images.

    Raises:
        InputError: a test image's class has no training images; all are of one class.
    """
    occurring = np.unique(train.labels).tolist()
    classes = [train.classes[number] for number in occurring]
    tested = {test.classes[number] for number in np.unique(test.labels)}
    if unknown := sorted(tested - set(classes)):
        raise InputError(
            f"{data}: test class '{unknown[0]}' has no training images; give both splits the same classes"
        )
    if len(classes) < 2:
        raise InputError(
            f"{data}: all training images are of class '{classes[0]}'; a score needs two classes or more"
        )
    return _relabelled(train, classes), _relabelled(test, classes)


def check_layout(data: Path | str) -> None:
    """Refuse, without looking at an image, data that `splits` could not take: nothing there, or no
    folders in it. Raises `InputError`.
    """
    root = place(data)
    if isinstance(root, Url):
        return
    halves = [_split_folder(root, split) for split in SPLITS] if has_split(root) else [root]
    for folder in halves:
        if not os.path.isfile(folder / MANIFEST) and not _folders_in(folder):
            raise _no_classes(folder)


def has_split(data: Path | str) -> bool:
    """Whether data have folders for training and test, or ought to: stores, and what is not there."""
    root = place(data)
    if isinstance(root, Url) or not os.path.isdir(root):
        return True
    names = [name for names in SPLITS.values() for name in names]
    return any(os.path.isdir(root / name) for name in names)


def divided(images: Labelled) -> tuple[Labelled, Labelled]:
    """Training and test images, one in `HELD_OUT` of each class held out, at least one of two.

    Which ones depends on their names within the data alone: not on where these lie, hardly on what is added to them.

    Raises:
        InputError: no class has two images.
    """
    digests = [
        hashlib.sha256(os.fsencode(images.source.key(i))).digest() for i in range(len(images))
    ]
    held_out = np.zeros(len(images), dtype=bool)
    for label in np.unique(images.labels):
        members = sorted(np.flatnonzero(images.labels == label).tolist(), key=digests.__getitem__)
        count = round(len(members) / HELD_OUT) or int(len(members) > 1)
        held_out[members[:count]] = True
    if not held_out.any():
        raise InputError(
            f"{images.source.name(0)} and all others are alone in their classes; a score needs two images of a class"
        )
    train, test = (part(images, np.flatnonzero(chosen)) for chosen in (~held_out, held_out))
    return train, test


def part(images: Labelled, numbers: np.ndarray) -> Labelled:
    """Some of the images, by their numbers, and what else is known of these. They are not the whole
    data set, so they do not bear its name.
    """
    chosen = Labelled(Part(images.source, numbers), images.labels[numbers], images.classes)
    chosen.validation = np.flatnonzero(np.isin(numbers, images.validation))
    chosen.metric = images.metric
    return chosen


@cache
def say_once(line: str) -> None:
    logger.warning("%s", line)


def _relabelled(images: Labelled, classes: list[str]) -> Labelled:
    """The same images with the numbers that their classes have in a list of classes."""
    numbers = {name: number for number, name in enumerate(classes)}
    renumbered = np.array([numbers.get(name, -1) for name in images.classes])
    return Labelled(images.source, renumbered[images.labels], classes)


def _split_folder(root: Path, split: str) -> Path:
    names = SPLITS.get(split, (split,))
    for name in names:
        if os.path.isdir(root / name):
            return root / name
    if not os.path.isdir(root):
        raise InputError(
            f"{root} does not exist; give a folder that holds train/ and test/ (or val/)"
        )
    wanted = " or ".join(f"{name}/" for name in names)
    raise InputError(f"{root} has no folder {wanted}; put class folders or labelled shards there")


def _from_shards(root: Path | Url) -> Labelled:
    reader = Reader(Manifest.load(root))
    if len(reader) > MOST_SAMPLES:
        raise InputError(
            f"{root} holds {len(reader):,} samples; at most {MOST_SAMPLES:,} are evaluated, give fewer"
        )
    labels = reader.labels(np.arange(len(reader)))
    ids = np.flatnonzero(labels != UNLABELLED)
    if len(ids) == 0:
        raise InputError(
            f"{root} holds shards without labels; build them with labels: seer shards build --help"
        )
    if reader.manifest.classes:
        return Labelled(Samples(reader, ids), labels[ids], reader.manifest.classes)
    # Numbers without names may be any, and are classes as far as they occur: there are no more of
    # them than images.
    numbers, positions = np.unique(labels[ids], return_inverse=True)
    return Labelled(Samples(reader, ids), positions, [str(number) for number in numbers])


def _folders_in(root: Path) -> list[str]:
    """The folders directly under `root`, which are the classes that have images."""
    if not os.path.isdir(root):
        raise InputError(
            f"{root} does not exist; give a folder of class folders, or labelled shards"
        )
    names = next(os.walk(root, onerror=unreadable))[1]
    return sorted(name for name in names if not name.startswith("."))


def _no_classes(root: Path) -> InputError:
    return InputError(
        f"{root} holds no class folders with images; lay them out as {root}/CLASS/image.jpg"
    )


def _from_folders(root: Path) -> Labelled:
    """Every folder directly under `root` that holds images, at any depth, is a class."""
    folders = _folders_in(root)
    unread: list[str] = []
    images = {}
    for folder in folders:
        paths = images_under(root / folder, on_unread=unread.append)
        images[folder] = [f"{folder}/{path}" for path in paths]
    if unread:
        say_once(f"{readable(str(root))}: {left_out(unread)}")
    classes = [folder for folder in folders if images[folder]]
    if not classes:
        raise _no_classes(root)
    if set(classes) <= SPLIT_FOLDERS:
        raise InputError(f"{root} holds splits, not classes; give {root / classes[0]}")
    paths = [path for name in classes for path in images[name]]
    labels = np.repeat(np.arange(len(classes)), [len(images[name]) for name in classes])
    return Labelled(Files(root, paths), labels, [readable(name) for name in classes])
