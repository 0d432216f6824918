"""Data sets whose images lie in a folder for each class."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seer.data.labelled import Labelled, load_labelled


@dataclass(frozen=True)
class ClassFolders:
    """A folder of class folders for each split.

    Attributes:
        folders: split → its folder. All have the same classes.
    """

    folders: Mapping[str, str]

    def __call__(self, folder: Path) -> dict[str, Labelled]:
        return {split: load_labelled(folder / name) for split, name in self.folders.items()}
