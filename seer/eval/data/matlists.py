"""Data sets that are listed in MATLAB's files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seer.data.labelled import Labelled
from seer.eval.data.matlab import read_mat
from seer.eval.data.rows import Row, labelled
from seer.inputs import UnreadableError


@dataclass(frozen=True)
class NumberedImages:
    """Images numbered from 1: a vector of all labels, and one of the numbers of each split.

    Attributes:
        image: where the image of a number lies.
        labels: file and variable. splits: the same for each.
    """

    image: str
    labels: tuple[str, str]
    splits: Mapping[str, tuple[str, str]]

    def __call__(self, folder: Path) -> dict[str, Labelled]:
        return labelled(folder, self._rows(folder))

    def _rows(self, folder: Path) -> Iterator[Row]:
        path = folder / self.labels[0]
        labels = whole_numbers(read_mat(path, self.labels[1]), path)
        check_numbering(labels, path)
        width = len(str(labels.max()))
        for split, (file, variable) in self.splits.items():
            numbers = whole_numbers(read_mat(folder / file, variable), folder / file)
            if len(numbers) and not 1 <= numbers.min() <= numbers.max() <= len(labels):
                raise UnreadableError(
                    f"{folder / file}: {variable} names images from {numbers.min()} to {numbers.max()}, and "
                    f"{self.labels[0]} has labels of 1 to {len(labels):,}; they are not of one release"
                )
            for number in numbers.tolist():
                label = f"{labels[number - 1]:0{width}d}"  # so that names sort as numbers
                yield Row(split, self.image.format(number), label)


def check_numbering(labels: np.ndarray, path: Path) -> None:
    """Raise `UnreadableError` unless labels are 1 … C, each of which occurs."""
    occurring = np.unique(labels)
    if not len(labels) or occurring[0] != 1 or occurring[-1] != len(occurring):
        span = f"{occurring[0]} to {occurring[-1]}" if len(labels) else "nothing"
        raise UnreadableError(
            f"{path}: classes are numbered {span}, {len(occurring)} of them occur; its owner counts from 1 and "
            "leaves none out: get it again"
        )


@dataclass(frozen=True)
class AnnotatedImages:
    """A structure for each image, with its file's name and its class, counted from 1.

    Attributes:
        splits: split → the files that may hold its structures, and where its images lie.
        classes: file and variable with their names.
    """

    splits: Mapping[str, tuple[tuple[str, ...], str]]
    classes: tuple[str, str]

    def __call__(self, folder: Path) -> dict[str, Labelled]:
        return labelled(folder, self._rows(folder))

    def _rows(self, folder: Path) -> Iterator[Row]:
        path = folder / self.classes[0]
        names = texts(read_mat(path, self.classes[1]), path)
        for split, (files, image) in self.splits.items():
            paths = [folder / file for file in files]
            path = next((path for path in paths if path.is_file()), paths[0])
            annotations = read_mat(path, "annotations")
            fields = annotations if isinstance(annotations, dict) else {}
            if missing := {"fname", "class"} - set(fields):
                raise UnreadableError(f"{path}: its annotations have no {min(missing)}")
            numbers = whole_numbers(np.hstack([*fields["class"], []]), path)
            for file, number in zip(texts(fields["fname"], path), numbers.tolist(), strict=False):
                if not 1 <= number <= len(names):
                    raise UnreadableError(
                        f"{path}: {file[:80]} is of class {number}, and {self.classes[0]} names 1 to {len(names)}"
                    )
                yield Row(split, image.format(file), names[number - 1])


def whole_numbers(values: Any, path: Path) -> np.ndarray:
    """`(N,)` int64. Raises `UnreadableError` if they are none."""
    array = np.atleast_1d(values) if isinstance(values, np.ndarray) else np.zeros((1, 1))
    array = array if array.size else array.ravel()
    if array.dtype.kind not in "iuf" or array.ndim != 1 or not _are_whole(array):
        raise UnreadableError(f"{path}: its labels or numbers are no list of whole numbers")
    return array.astype(np.int64)


def _are_whole(array: np.ndarray) -> bool:
    """And such as 64 bits hold."""
    return bool(((array == np.floor(array)) & (np.abs(array) < 2.0**62)).all())


def texts(values: Any, path: Path) -> list[str]:
    """Texts. Raises `UnreadableError` if they are none."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UnreadableError(f"{path}: its names are no list of texts")
    return values
