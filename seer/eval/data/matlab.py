"""MATLAB's files of release 5 to 7.2, read within limits: numbers, texts, cells and structures.

Format: "MAT-File Format", The MathWorks, section on level 5. scipy reads these files as well, and
ends the process by a fault in memory where one is damaged.
"""

import struct
import zlib
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seer.errors import first_line
from seer.inputs import UnreadableError, read_bytes

LARGEST_MAT = 2**25  # bytes, packed and unpacked; lists of ten thousand images have 3 MB
DEEPEST = 16  # matrices within cells and structures
HEADER = 128
HDF5 = b"\x89HDF\r\n\x1a\n"
MATRIX, COMPRESSED = 14, 15  # types of elements
NUMBERS = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
CODINGS = {2: "latin1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, STRUCT, CHAR = 1, 2, 4  # classes of matrices
NUMERIC = range(6, 16)
COMPLEX = 0x0800  # of a matrix's flags


class Element(NamedTuple):
    """A piece of a file: its type, its bytes, and where the next one starts."""

    kind: int
    body: memoryview
    end: int


def read_mat(path: Path, name: str) -> Any:
    """The variable of that name: an array, dimensions of length 1 left out; a text; the list of a
    cell array's values; or a structure's fields, each with the list of its values.

    Raises:
        UnreadableError: no file, another release, larger or deeper than any list is, or no such variable.
    """
    try:
        content = read_bytes(path, LARGEST_MAT)
    except FileNotFoundError:
        raise UnreadableError(f"{path} is missing; get it from the data set's owner") from None
    _check_release(content, path)
    order = "<" if content[126:128] == b"IM" else ">"
    try:
        return _Parser(order).variable(memoryview(content)[HEADER:], name)
    except KeyError:
        raise UnreadableError(
            f"{path}: has no variable '{name}'; get it from the data set's owner"
        ) from None
    except (ValueError, struct.error, zlib.error) as error:
        reason = "cut short" if isinstance(error, struct.error) else first_line(error)
        raise UnreadableError(
            f"{path}: not readable as a list of images ({reason}); get it again"
        ) from None


def _check_release(content: bytes, path: Path) -> None:
    if HDF5 in (content[:8], content[512:520]) or content.startswith(b"MATLAB 7.3"):
        raise UnreadableError(
            f"{path}: written by save -v7.3, which is not read; load it in MATLAB and save it with -v7"
        )
    if content[124:128] not in (b"\x00\x01IM", b"\x01\x00MI"):
        raise UnreadableError(
            f"{path}: not a MATLAB file of release 5 to 7.2; save it in MATLAB with -v7"
        )


class _Parser:
    """Raises ValueError for what is no such file."""

    def __init__(self, order: str):
        self.order = order
        self.left = LARGEST_MAT  # bytes that may still be unpacked

    def variable(self, content: memoryview, name: str) -> Any:
        position = 0
        while position < len(content):
            element = self.element(content, position)
            if element.kind == COMPRESSED:
                element = self.element(self.inflated(element.body), 0)
            if element.kind == MATRIX and self.head(element.body)[2] == name:
                return self.matrix(element.body, 0)
            position = self.element(content, position).end
        raise KeyError(name)

    def element(self, content: memoryview, position: int) -> Element:
        kind, size = struct.unpack_from(f"{self.order}II", content, position)
        start = position + 8
        if kind >> 16:  # at most four bytes, in the place of the size
            kind, size, start = kind & 0xFFFF, kind >> 16, position + 4
            if size > 4:
                raise ValueError("a piece is longer than its place")
            end = position + 8
        else:
            # All but what is packed is filled up to eight bytes.
            end = start + size + (0 if kind == COMPRESSED else -size % 8)
        body = content[start : start + size]
        if len(body) < size:
            raise ValueError("cut short")
        return Element(kind, body, end)

    def inflated(self, body: memoryview) -> memoryview:
        content = zlib.decompressobj().decompress(body, self.left)
        self.left -= len(content)
        if self.left <= 0:
            raise ValueError(f"more than {LARGEST_MAT:,} bytes when unpacked")
        return memoryview(content)

    def head(self, body: memoryview) -> tuple[int, list[int], str, int]:
        """A matrix's flags, dimensions and name, and where its values start."""
        flags = self.element(body, 0)
        dims = self.element(body, flags.end)
        name = self.element(body, dims.end)
        (flag,) = struct.unpack_from(f"{self.order}I", flags.body)
        return flag, self.numbers(dims).tolist(), str(name.body, "latin1"), name.end

    def matrix(self, body: memoryview, depth: int) -> Any:
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} levels")
        if not body:
            return np.zeros(0)  # an empty cell
        flag, dims, _, start = self.head(body)
        count = prod(dims)
        if not 0 <= count <= len(body) or min(dims, default=0) < 0:
            raise ValueError("a matrix has more values than the file")
        kind = flag & 0xFF
        if kind == CELL:
            return self.matrices(body, start, count, depth)
        if kind == STRUCT:
            return self.fields(body, start, count, depth)
        if kind not in (CHAR, *NUMERIC) or flag & COMPLEX:
            raise ValueError("it holds something else than numbers, texts, cells and structures")
        values = self.element(body, start)
        if kind == CHAR:
            return self.text(values)
        numbers = self.numbers(values)
        if len(numbers) != count:
            raise ValueError(f"{len(numbers)} values where {count} are said to be")
        return numbers.reshape(dims, order="F").squeeze()

    def matrices(self, body: memoryview, start: int, count: int, depth: int) -> list[Any]:
        values = []
        for _ in range(count):
            element = self.element(body, start)
            if element.kind != MATRIX:
                raise ValueError("a cell holds no matrix")
            values.append(self.matrix(element.body, depth + 1))
            start = element.end
        return values

    def fields(self, body: memoryview, start: int, count: int, depth: int) -> dict[str, list[Any]]:
        width = self.element(body, start)
        names = self.element(body, width.end)
        (length,) = self.numbers(width).tolist()
        if not 0 < length <= 64 or len(names.body) % length:
            raise ValueError("a structure's fields have no names")
        starts = range(0, len(names.body), length)
        cut = [bytes(names.body[at : at + length]).split(b"\0")[0] for at in starts]
        fields = [str(name, "latin1") for name in cut]
        values = self.matrices(body, names.end, count * len(fields), depth)
        return {name: values[i :: len(fields)] for i, name in enumerate(fields)}

    def numbers(self, element: Element) -> np.ndarray:
        if element.kind not in NUMBERS:
            raise ValueError(f"no numbers but a piece of type {element.kind}")
        return np.frombuffer(element.body, self.order + NUMBERS[element.kind])

    def text(self, element: Element) -> str:
        if element.kind not in CODINGS:
            raise ValueError(f"no text but a piece of type {element.kind}")
        coding = CODINGS[element.kind]
        wide = ("-le" if self.order == "<" else "-be") if coding in ("utf-16", "utf-32") else ""
        return str(element.body, coding + wide)
