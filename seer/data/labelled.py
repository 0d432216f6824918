"""Labelled images for the evaluations: class folders, or labelled shards, behind one small interface."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from seer.data.decode import DamagedImage, decode, image_suffixes
from seer.data.index import MANIFEST, MOST_CLASSES, Manifest
from seer.data.reader import UNLABELLED, Reader
from seer.data.store import Url, place
from seer.errors import InputError, unreadable

MOST_SAMPLES = 2**27  # of labelled shards, whose labels are all held in memory
SPLITS = {"train": ("train",), "test": ("test", "val")}  # a split's name → the folders that may hold it
SPLIT_FOLDERS = {"train", "test", "val", "valid", "validation"}


class Source(Protocol):
    """Encoded images by number, each with a name to tell the user."""

    fingerprint: str

    def bytes(self, i: int) -> bytes: ...

    def name(self, i: int) -> str: ...


class Files:
    """Image files under one folder. Changing, adding or touching a file changes the fingerprint."""

    def __init__(self, root: Path, paths: Sequence[str]):
        self.root, self.paths = root, paths
        digest = hashlib.sha256()
        for path in paths:
            try:
                status = os.stat(root / path)
            except OSError as error:  # a link to nothing
                unreadable(error)
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        self.fingerprint = digest.hexdigest()

    def bytes(self, i: int) -> bytes:
        return (self.root / self.paths[i]).read_bytes()

    def name(self, i: int) -> str:
        return str(self.root / self.paths[i])


class Samples:
    """Samples of shards by global id."""

    def __init__(self, reader: Reader, ids: np.ndarray):
        self.reader, self.ids = reader, ids
        self.fingerprint = hashlib.sha256(reader.manifest.hash.encode() + ids.tobytes()).hexdigest()

    def bytes(self, i: int) -> bytes:
        return self.reader.read(self.ids[i : i + 1])[0]

    def name(self, i: int) -> str:
        return f"sample {self.ids[i]} of {self.reader.manifest.directory}"


class Labelled:
    """Images with class labels. Picklable; decodes, and leaves all further transforms to the evaluation.

    Attributes:
        labels: `(N,)` int64 into `classes`. classes: names, sorted where they come from folders.
        fingerprint: 16 hex digits, the same as long as images and labels are; for caches of features.
    """

    def __init__(self, source: Source, labels: np.ndarray, classes: Sequence[str]):
        self.source = source
        self.labels = np.asarray(labels, dtype=np.int64)
        self.classes = list(classes)
        content = "\0".join([source.fingerprint, *self.classes]).encode() + self.labels.tobytes()
        self.fingerprint = hashlib.sha256(content).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.labels)

    def bytes(self, i: int) -> bytes:
        """The encoded image."""
        return self.source.bytes(i)

    def image(self, i: int) -> np.ndarray:
        """`(H, W, 3)` uint8 RGB. Raises `InputError` naming the file if it is damaged: a score skips no image."""
        try:
            return decode(self.bytes(i))
        except (DamagedImage, OSError) as error:
            raise InputError(f"{self.source.name(i)} cannot be used ({error}); repair or remove it") from error


def load_labelled(path: Path | str, split: str | None = None) -> Labelled:
    """Labelled images of `path`, or of its folder for `split` (`train`; `test`, which may be named `val`).

    Raises:
        InputError: there are neither class folders nor labelled shards.
    """
    root = place(path)
    if isinstance(root, Url):
        folders = [root] if split is None else [root / name for name in SPLITS.get(split, (split,))]
        return _from_shards(next((folder for folder in folders if (folder / MANIFEST).is_file()), folders[0]))
    if split is not None:
        root = _split_folder(root, split)
    if (root / MANIFEST).is_file():
        return _from_shards(root)
    return _from_folders(root)


def splits(data: Path | str) -> tuple[Labelled, Labelled]:
    """Training and test images under `data`, labelled by the same classes in the same order."""
    train, test = load_labelled(data, "train"), load_labelled(data, "test")
    unknown = sorted(set(test.classes) - set(train.classes))
    if unknown:
        name = repr(unknown[0])
        raise InputError(f"{data}: test class {name} has no training images; give both splits the same classes")
    places = {name: number for number, name in enumerate(train.classes)}
    numbers = np.array([places[name] for name in test.classes])
    return train, Labelled(test.source, numbers[test.labels], train.classes)


def _split_folder(root: Path, split: str) -> Path:
    names = SPLITS.get(split, (split,))
    for name in names:
        if (root / name).is_dir():
            return root / name
    if not root.is_dir():
        raise InputError(f"{root} does not exist; give a folder that holds train/ and test/ (or val/)")
    wanted = " or ".join(f"{name}/" for name in names)
    raise InputError(f"{root} has no folder {wanted}; put class folders or labelled shards there")


def _from_shards(root: Path | Url) -> Labelled:
    reader = Reader(Manifest.load(root))
    if len(reader) > MOST_SAMPLES:
        raise InputError(f"{root} holds {len(reader):,} samples; at most {MOST_SAMPLES:,} are evaluated, give fewer")
    labels = reader.labels(np.arange(len(reader)))
    ids = np.flatnonzero(labels != UNLABELLED)
    if len(ids) == 0:
        raise InputError(f"{root} holds shards without labels; build them with labels: seer shards build --help")
    classes = reader.manifest.classes or _digits(root, int(labels.max()))
    return Labelled(Samples(reader, ids), labels[ids], classes)


def _digits(root: Path | Url, highest: int) -> list[str]:
    """Names for labels that have none: themselves."""
    if highest >= MOST_CLASSES:
        raise InputError(f"{root} has a label {highest:,}; classes without names are numbered below {MOST_CLASSES:,}")
    return [str(label) for label in range(highest + 1)]


def _from_folders(root: Path) -> Labelled:
    """Every folder directly under `root` that holds images, at any depth, is a class."""
    if not root.is_dir():
        raise InputError(f"{root} does not exist; give a folder of class folders, or labelled shards")
    folders = sorted(name for name in next(os.walk(root, onerror=unreadable))[1] if not name.startswith("."))
    images = {folder: [f"{folder}/{path}" for path in images_under(root / folder)] for folder in folders}
    classes = [folder for folder in folders if images[folder]]
    if not classes:
        raise InputError(f"{root} holds no class folders with images; lay them out as {root}/CLASS/image.jpg")
    if set(classes) <= SPLIT_FOLDERS:
        raise InputError(f"{root} holds splits, not classes; give {root / classes[0]}")
    paths = [path for name in classes for path in images[name]]
    labels = np.repeat(np.arange(len(classes)), [len(images[name]) for name in classes])
    return Labelled(Files(root, paths), labels, classes)


def images_under(folder: Path) -> list[str]:
    """Paths relative to `folder`, sorted, of the image files at any depth; hidden ones and loops are passed over."""
    found, above = [], os.path.join(folder, "")
    for parent, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and not _leads_back(parent, name)]
        images = (n for n in names if os.path.splitext(n)[1].lower() in image_suffixes() and not n.startswith("."))
        found += [os.path.join(parent, name).removeprefix(above) for name in images]
    return sorted(found)


def _leads_back(parent: str, name: str) -> bool:
    path = Path(parent, name)
    return path.is_symlink() and any(path.samefile(above) for above in path.parents)
