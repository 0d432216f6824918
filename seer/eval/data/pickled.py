"""CIFAR-10 and CIFAR-100 as their owners lay them out: arrays in pickles or in plain binary files.

A pickle is a program. These are read by an interpreter that knows what such files hold, lists,
names and arrays of bytes, and calls nothing else.
"""

import hashlib
import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seer.data.labelled import Labelled
from seer.errors import first_line
from seer.eval.data.rows import lines
from seer.inputs import UnreadableError, read_bytes

SIDE = 32
PIXELS = 3 * SIDE**2
LARGEST_BATCH = 2**28  # bytes; 50,000 images have 154 MB
HEADER = f"P6\n{SIDE} {SIDE}\n255\n".encode()  # of a PPM, which is pixels and nothing else


class Arrays:
    """Images in memory, `(N, 32, 32, 3)` uint8, encoded as PPM when they are asked for."""

    def __init__(self, pixels: np.ndarray, file: str):
        self.pixels = pixels
        self.file = file
        self.fingerprint = hashlib.sha256(pixels.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.pixels)

    def bytes(self, i: int) -> bytes:
        return HEADER + self.pixels[i].tobytes()

    def key(self, i: int) -> str:
        return str(i)

    def name(self, i: int) -> str:
        return f"image {i} of {self.file}"


@dataclass(frozen=True)
class Batches:
    """Files of images and labels.

    Attributes:
        splits: split → its files, to which the binary version adds `.bin`.
        labels: the key of the labels in a pickle. names: file and key of the classes' names; binary: file alone.
        label_bytes: before each image of a binary file; the last one counts.
    """

    splits: Mapping[str, tuple[str, ...]]
    labels: str
    names: tuple[str, str]
    binary_names: str
    label_bytes: int

    def __call__(self, folder: Path) -> dict[str, Labelled]:
        binary = (folder / self.binary_names).is_file()
        if binary:
            classes = list(lines(folder / self.binary_names))
        else:
            classes = _class_names(folder / self.names[0], self.names[1])
        images = {}
        for split, files in self.splits.items():
            read = self._binary if binary else self._pickle
            batches = [read(folder / file) for file in files]
            pixels, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
            images[split] = Labelled(Arrays(pixels, f"{folder}, {split}"), labels, classes)
        return images

    def _pickle(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        content = unpickled(path)
        pixels, labels = content.get("data"), content.get(self.labels)
        if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != PIXELS:
            raise UnreadableError(
                f"{path}: has no 'data' of {PIXELS:,} bytes an image; get it again"
            )
        if not isinstance(labels, list) or len(labels) != len(pixels):
            raise UnreadableError(f"{path}: has no '{self.labels}' for each of its images")
        if not all(type(label) is int and 0 <= label < 2**31 for label in labels):
            raise UnreadableError(f"{path}: a label is no number of a class; get it again")
        return _channels_last(pixels), np.array(labels, dtype=np.int64)

    def _binary(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        path = path.with_name(f"{path.name}.bin")
        content = np.frombuffer(_content(path), np.uint8)
        row = self.label_bytes + PIXELS
        if not len(content) or len(content) % row:
            raise UnreadableError(f"{path}: {len(content):,} bytes are no images of {row:,} each")
        rows = content.reshape(-1, row)
        labels = rows[:, self.label_bytes - 1].astype(np.int64)
        return _channels_last(rows[:, self.label_bytes :]), labels


def _channels_last(pixels: np.ndarray) -> np.ndarray:
    """`(N, 3 · 32 · 32)` → `(N, 32, 32, 3)`."""
    planes = pixels.reshape(-1, 3, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def _class_names(path: Path, key: str) -> list[str]:
    names = unpickled(path).get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UnreadableError(f"{path}: has no '{key}', the classes' names; get it again")
    return names


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path, LARGEST_BATCH)
    except FileNotFoundError:
        raise UnreadableError(f"{path} is missing; get it from the data set's owner") from None


def unpickled(path: Path) -> dict[str, Any]:
    """The mapping that a pickle holds: numbers, texts, lists, and arrays `(N, D)` of uint8.

    Raises:
        UnreadableError: it holds anything else, or asks for anything to be called.
    """
    try:
        content = _Interpreter(io.BytesIO(_content(path))).load()
        items = {_text(key): _plain(value) for key, value in content.items()}
    except UnreadableError:
        raise
    except Exception as error:  # a wrong program fails in any way
        raise UnreadableError(
            f"{path}: not a pickle of arrays and lists as CIFAR's are ({first_line(error)}); get it again"
        ) from None
    return items


class _Array:
    """What stands in a pickle for an array, until its bytes are there. It runs nothing of NumPy's."""

    def __init__(self) -> None:
        self.state: tuple = ()

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def values(self) -> np.ndarray:
        _, shape, kind, in_columns, content = self.state
        if not isinstance(kind, _Kind) or kind.name != "u1" or in_columns:
            raise ValueError("an array of something else than bytes")
        content = content.encode("latin1") if isinstance(content, str) else content
        rows, width = shape
        return np.frombuffer(content, np.uint8).reshape(rows, width)


class _Kind:
    """What stands in a pickle for an array's type."""

    def __init__(self, name: object, *_: object) -> None:
        self.name = _text(name)

    def __setstate__(self, state: tuple) -> None:
        pass  # byte order, which bytes have none of


def _new_array(*_: object) -> _Array:
    return _Array()


def _new_bytes(text: str, coding: object) -> bytes:
    return text.encode("latin1")


# What a pickle of arrays calls, by the name that it calls, and what is called in its place.
STAND_INS: dict[tuple[str, str], Callable] = {
    ("numpy.core.multiarray", "_reconstruct"): _new_array,  # NumPy 1
    ("numpy._core.multiarray", "_reconstruct"): _new_array,  # NumPy 2
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _new_bytes,  # bytes, where Python 3 wrote for Python 2
}


# In Python: the one in C takes memory for as many values as a pickle claims.
class _Interpreter(pickle._Unpickler):
    def __init__(self, file: io.BytesIO):
        super().__init__(file, encoding="bytes")  # texts of Python 2

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise ValueError(f"it asks for {module}.{name}")
        return STAND_INS[module, name]


def _text(value: object) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.values()
    if isinstance(value, list):
        return [_text(item) if isinstance(item, bytes) else item for item in value]
    return value
