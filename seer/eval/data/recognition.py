"""Which data set a folder holds: told by its files, or said by whoever names it (`food101:DIR`)."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from seer.data.folders import readable
from seer.data.labelled import has_split
from seer.data.storage.store import Url, place
from seer.errors import InputError, nearest
from seer.eval.data.datasets import DATASETS, DataSet

NAMED = re.compile(r"([\w-]+):(?!//)(.+)", re.DOTALL)


class Located(NamedTuple):
    """A data set, and the folder that its marks lie in."""

    entry: DataSet
    folder: Path

    def missing(self) -> list[str]:
        """What must be there besides, and is not."""
        return [need for need in self.entry.needs if not is_there(self.folder, need)]


def locate(data: Path | str) -> Located | None:
    """The data set that `data` names or holds; None for class folders, tables and shards of one's
    own.

    Raises:
        InputError: an unknown name, a folder that does not hold that data set, or one that holds several.
    """
    name, folder = named(data)
    if name:
        return located_by(name, folder)
    if isinstance(place(data), Url) or not os.path.isdir(data):
        return None
    found = list(within(Path(data)))
    at_root = [located for located in found if located.folder == Path(data)]
    if not at_root and has_split(data):
        return None  # its own train/ and test/ are what is meant
    found = at_root or found
    if len(found) > 1:
        several = ", ".join(f"{located.entry.name}:{readable(str(data))}" for located in found)
        raise InputError(f"{readable(str(data))} holds several data sets; name one: {several}")
    return found[0] if found else None


def named(data: Path | str) -> tuple[str, Path]:
    """A name of the table and a folder, out of `NAME:DIR`; "" and the path of anything else.

    Raises:
        InputError: the name is unknown.
    """
    text = str(data)
    match = NAMED.fullmatch(text)
    if match is None or os.path.exists(text):
        if text in DATASETS and not os.path.exists(text):
            raise InputError(
                f"{text}: no such folder; where the data set of that name lies, say {text}:DIR"
            )
        return "", Path(text)
    name, folder = match[1], Path(match[2]).expanduser()
    if name not in DATASETS:
        raise InputError(f"{readable(text)}: data set '{name}' is unknown{nearest(name, DATASETS)}")
    return name, folder


def located_by(name: str, folder: Path) -> Located:
    """The data set of a name in a folder that is to hold it. Raises `InputError` as `locate`."""
    return _of_that_name(DATASETS[name], folder)


def within(root: Path) -> Iterator[Located]:
    """The data sets whose marks lie in a folder, or where archives unpack them below it."""
    for entry in DATASETS.values():
        folder = folder_of_marks(entry, root)
        if folder is not None:
            yield Located(entry, folder)


def folder_of_marks(entry: DataSet, root: Path) -> Path | None:
    """Where a data set's marks lie."""
    folders = [root / name for name in entry.folders]
    marked = (path for path in folders if all(is_there(path, mark) for mark in entry.marks))
    return next(marked, None)


def is_there(folder: Path, alternatives: str) -> bool:
    """Whether a file, or a folder if its name ends in `/`, is there; `a|b` is either."""
    return any(
        os.path.isdir(folder / name) if name.endswith("/") else os.path.isfile(folder / name)
        for name in alternatives.split("|")
    )


def _of_that_name(entry: DataSet, root: Path) -> Located:
    if not os.path.isdir(root):
        raise InputError(f"{readable(str(root))} does not exist; give the folder of {entry.title}")
    folder = folder_of_marks(entry, root)
    if folder is None:
        missing = next(mark for mark in entry.marks if not is_there(root, mark))
        raise InputError(
            f"{readable(str(root))} has no {words(missing)}, so it is not {entry.title} as its owner lays it out: "
            f"{entry.source}"
        )
    return Located(entry, folder)


def words(alternatives: str) -> str:
    """A mark or a need, for people."""
    return alternatives.replace("|", " or ")
