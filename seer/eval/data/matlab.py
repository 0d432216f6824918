"""MATLAB's files of release 5 to 7.2, within limits, and the data sets that are listed in them.

scipy reads them; what it would take on trust (sizes, depths, packed bytes) is looked at before.
Format: "MAT-File Format", The MathWorks.
"""

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from seer.data.labelled import Labelled
from seer.errors import first_line
from seer.eval.data.rows import Row, labelled
from seer.inputs import UnreadableError, read_bytes

LARGEST_MAT = 2**25  # bytes, packed and unpacked; lists of ten thousand images have 3 MB
DEEPEST = 16  # matrices within cells and structures
HEADER = 128
HDF5 = b"\x89HDF\r\n\x1a\n"
MATRIX, COMPRESSED = 14, 15  # types of elements
CLASSES = {1, 2, 4, *range(6, 16)}  # cells, structures, text, numbers: no objects and no functions


def read_mat(path: Path, name: str) -> Any:
    """The variable of that name, dimensions of length 1 left out.

    Raises:
        UnreadableError: no file, another release, larger or deeper than any list is, or no such variable.
    """
    try:
        content = read_bytes(path, LARGEST_MAT)
    except FileNotFoundError:
        raise UnreadableError(f"{path} is missing; get it from the data set's owner") from None
    _check_release(content, path)
    order = "<" if content[126:128] == b"IM" else ">"
    _Scan(path, order).elements(memoryview(content)[HEADER:], 0)
    try:
        variables = loadmat(io.BytesIO(content), squeeze_me=True, variable_names=[name])
    except Exception as error:  # scipy has no error of its own for damage
        raise UnreadableError(f"{path}: not readable as MATLAB's ({first_line(error)})") from None
    if name not in variables:
        raise UnreadableError(f"{path}: has no variable '{name}'; get it from the data set's owner")
    return variables[name]


def _check_release(content: bytes, path: Path) -> None:
    if HDF5 in (content[:8], content[512:520]) or content.startswith(b"MATLAB 7.3"):
        raise UnreadableError(
            f"{path}: written by save -v7.3, which is not read; load it in MATLAB and save it with -v7"
        )
    if content[126:128] not in (b"IM", b"MI") or b"\x01" not in content[124:126]:
        raise UnreadableError(
            f"{path}: not a MATLAB file of release 5 to 7.2; save it in MATLAB with -v7"
        )


class _Scan:
    """A walk over the elements of a file, which refuses what is cut short, deep, or larger than it
    is.
    """

    def __init__(self, path: Path, order: str):
        self.path = path
        self.order = order
        self.left = LARGEST_MAT

    def elements(self, content: memoryview, depth: int) -> None:
        if depth > DEEPEST:
            raise self.refusal(f"more than {DEEPEST} levels")
        position = 0
        while position < len(content):
            kind, start, size = self.tag(content, position)
            body = content[start : start + size]
            if len(body) < size:
                raise self.refusal("cut short")
            if kind == COMPRESSED:
                self.elements(self.inflated(body), depth + 1)
            elif kind == MATRIX:
                self.matrix(body, depth)
            # What is packed is not padded to 8 bytes.
            position = start + size + (0 if kind == COMPRESSED else -(start + size) % 8)

    def matrix(self, body: memoryview, depth: int) -> None:
        """Flags, dimensions, a name, values: elements all of them."""
        if not body:
            return  # an empty cell
        _, flags, _ = self.tag(body, 0)
        (flag,) = self.numbers(body, flags, 1)
        if flag & 0xFF not in CLASSES:
            raise self.refusal("it holds something else than numbers, texts, cells and structures")
        _, start, size = self.tag(body, flags + 8)
        if prod(self.numbers(body, start, size // 4)) > len(body):
            raise self.refusal("a matrix has more values than the file")
        self.elements(body, depth + 1)

    def tag(self, content: memoryview, position: int) -> tuple[int, int, int]:
        """An element's type, and where its bytes start and how many they are."""
        kind, size = self.numbers(content, position, 2)
        if kind >> 16:  # at most four bytes, in the place of the size
            return kind & 0xFFFF, position + 4, 4
        return kind, position + 8, size

    def numbers(self, content: memoryview, position: int, count: int) -> tuple[int, ...]:
        try:
            return struct.unpack_from(f"{self.order}{count}I", content, position)
        except struct.error:
            raise self.refusal("cut short") from None

    def inflated(self, body: memoryview) -> memoryview:
        try:
            content = zlib.decompressobj().decompress(body, self.left)
        except zlib.error as error:
            raise self.refusal(first_line(error)) from None
        self.left -= len(content)
        if self.left <= 0:
            raise self.refusal(f"more than {LARGEST_MAT:,} bytes when unpacked")
        return memoryview(content)

    def refusal(self, reason: str) -> UnreadableError:
        return UnreadableError(f"{self.path}: not readable as a list of images ({reason})")


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
        names = texts(read_mat(folder / self.classes[0], self.classes[1]))
        for split, (files, image) in self.splits.items():
            paths = [folder / file for file in files]
            path = next((path for path in paths if path.is_file()), paths[0])
            annotations = np.atleast_1d(read_mat(path, "annotations"))
            fields = annotations.dtype.names or ()
            if missing := {"fname", "class"} - set(fields):
                raise UnreadableError(f"{path}: its annotations have no {min(missing)}")
            numbers = whole_numbers(np.array(annotations["class"].tolist()), path)
            for file, number in zip(texts(annotations["fname"]), numbers.tolist(), strict=True):
                if not 1 <= number <= len(names):
                    raise UnreadableError(
                        f"{path}: {file[:80]} is of class {number}, and {self.classes[0]} names 1 to {len(names)}"
                    )
                yield Row(split, image.format(file), names[number - 1])


def whole_numbers(values: Any, path: Path) -> np.ndarray:
    """`(N,)` int64. Raises `UnreadableError` if they are none."""
    array = np.atleast_1d(values)
    if array.dtype.kind not in "iuf" or array.ndim != 1 or not (array == np.floor(array)).all():
        raise UnreadableError(f"{path}: its labels or numbers are no list of whole numbers")
    return array.astype(np.int64)


def texts(values: Any) -> list[str]:
    """The texts of a list of cells."""
    return [str(value) for value in np.atleast_1d(values).tolist()]
