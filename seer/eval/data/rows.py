"""What every list of a data set comes to: an image's path, its class, its split."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from seer.data.folders import Files, readable
from seer.data.labelled import ImageSet, Labelled
from seer.errors import InputError
from seer.inputs import UnreadableError, read_text

LARGEST_LIST = 2**29  # bytes; the list of Places205's 2.4 million images has 110 MB
LONGEST_PATH = 4096
NAMES = "classes.txt"  # of one's own: a line for each class
MOST_CLASSES = 4096
LONGEST_NAME = 1000

Kind = TypeVar("Kind", bound=ImageSet)


class Row(NamedTuple):
    """One image.

    Attributes:
        split: `train`, `val` or `test`; "" where the owners give none.
        path: below the data set's folder, with `/`.
        label: its class's name.
    """

    split: str
    path: str
    label: str


def labelled(folder: Path, rows: Iterable[Row]) -> dict[str, Labelled]:
    """The images of each split, labelled by the classes of all, which are sorted by their names.

    Raises:
        InputError: a path leads out of the folder or is listed twice; an image is not there.
    """
    paths: dict[str, list[str]] = {}
    names: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for row in rows:
        check_path(row.path, folder)
        if row.path in splits:
            both = f"{splits[row.path] or 'one list'} and {row.split or 'again there'}"
            raise InputError(
                f"{folder}: the image {readable(row.path)} is listed twice, in {both}; list it once"
            )
        splits[row.path] = row.split
        paths.setdefault(row.split, []).append(row.path)
        names.setdefault(row.split, []).append(row.label)
    if not paths:
        raise InputError(f"{folder}: its lists name no image; get them again from their owner")
    classes = sorted(set().union(*names.values()))
    numbers = {name: number for number, name in enumerate(classes)}
    images = {}
    for split, listed in paths.items():
        labels = np.array([numbers[name] for name in names[split]])
        label = partial(Labelled, labels=labels, classes=classes)
        images[split] = of_files(folder, listed, label)
    return images


def check_path(path: str, folder: Path) -> None:
    """Raise `UnreadableError` for a listed path that is none below the folder."""
    # Millions of times: no pathlib.
    if not path or path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise UnreadableError(f"{folder}: a list names '{path[:80]}', which is no file below it")
    if len(path) > LONGEST_PATH:
        raise UnreadableError(f"{folder}: a list names a path of {len(path):,} characters")


def of_files(folder: Path, paths: list[str], label: Callable[[Files], Kind]) -> Kind:
    """Labelled files. Raises `InputError` that counts those that are not there."""
    try:
        return label(Files(folder, paths))
    except InputError:
        missing = [path for path in paths if not os.path.exists(folder / path)]
        if not missing:
            raise
    raise InputError(
        f"{folder}: {len(missing):,} of {len(paths):,} listed images are missing, {readable(missing[0])} first; "
        "unpack them there"
    )


def lines(path: Path) -> Iterator[str]:
    """The lines of a list, without those that are empty."""
    text = read_list(path)
    return filter(None, (line.strip() for line in text.split("\n")))


def class_names(path: Path) -> list[str]:
    """The names of classes that a file lists, a line for each.

    Raises:
        InputError: it names none, one twice, too many, or has lines that are no names.
    """
    names = list(lines(path))
    where = readable(str(path))
    if not names:
        raise InputError(f"{where}: names no class; write a line for each, or remove it")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{where}: names the class {twice[0][:80]} twice; give each its own name")
    if len(names) > MOST_CLASSES or max(map(len, names)) > LONGEST_NAME:
        raise InputError(
            f"{where}: names {len(names):,} classes, or has lines that are no names; write a line for each of at most "
            f"{MOST_CLASSES:,}"
        )
    return names


def read_list(path: Path) -> str:
    """A list's text. Raises `UnreadableError`."""
    try:
        return read_text(path, LARGEST_LIST)
    except FileNotFoundError:
        raise UnreadableError(f"{path} is missing; get it from the data set's owner") from None


@dataclass(frozen=True)
class Lists:
    """Text files of one image a line: a name, and perhaps more words.

    Attributes:
        files: split → file.
        image: where the image of that name lies; `{}` is the name.
        label: name and further words → class.
    """

    files: dict[str, str]
    image: str
    label: Callable[[str, str], str]

    def __call__(self, folder: Path) -> dict[str, Labelled]:
        return labelled(folder, self._rows(folder))

    def _rows(self, folder: Path) -> Iterator[Row]:
        for split, file in self.files.items():
            for line in lines(folder / file):
                name, _, rest = line.partition(" ")
                name = name.lstrip("/")
                label = self.label(name, rest.strip())
                if not label:
                    raise UnreadableError(f"{folder / file}: '{line[:80]}' names no class")
                yield Row(split, self.image.format(name), label)


def folder_of(name: str, rest: str) -> str:
    """The class is the image's folder."""
    return name.rpartition("/")[0]


def words_after(name: str, rest: str) -> str:
    """The class is what follows the image's name."""
    return rest


def before_number(name: str, rest: str) -> str:
    """The class is the image's name without its number: `Abyssinian_100`."""
    return name.rpartition("_")[0]
