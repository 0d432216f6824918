"""Structures of Thrift's compact protocol, as far as headers of Parquet's pages need them; nothing
is taken on trust.

Format: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TRUE = 1
FALSE = 2
BYTE = 3
I16 = 4
I32 = 5
I64 = 6
DOUBLE = 7
BINARY = 8
STRUCT = 12
MISSING: tuple[int, Any] = 0, None
DEEPEST = 4  # of structures within structures
LONGEST = 10  # bytes of a number of 64 bits


class ThriftError(ValueError):
    """Bytes that are no such structure."""


@dataclass(frozen=True)
class Struct:
    """Fields by number: each a type and a value."""

    fields: Mapping[int, tuple[int, Any]]

    def number(self, field: int) -> int:
        """A field that must be there, as 32 bits."""
        kind, value = self.fields.get(field, MISSING)
        if kind != I32 or not -(2**31) <= value < 2**31:
            raise ThriftError(f"field {field} of a page's header is no number of 32 bits")
        return value

    def struct(self, field: int) -> "Struct":
        """A structure that must be there."""
        kind, value = self.fields.get(field, MISSING)
        if kind != STRUCT:
            raise ThriftError(f"field {field} of a page's header is missing")
        return value


def read_struct(content: bytes, place: int, end: int) -> tuple[Struct, int]:
    """The structure that begins at `place`, and where it ends. Raises `ThriftError`.

    Numbers of fields must rise: of a field that comes twice, two readers may believe different
    ones.
    """
    reader = _Reader(content, place, end)
    return reader.struct(0), reader.place


class _Reader:
    def __init__(self, content: bytes, place: int, end: int):
        self.content = content
        self.place = place
        self.end = end

    def struct(self, depth: int) -> Struct:
        if depth == DEEPEST:
            raise ThriftError("a page's header is nested too deeply")
        fields: dict[int, tuple[int, Any]] = {}
        number = 0
        while header := self._byte():
            if not header >> 4:
                raise ThriftError("a page's header has fields that do not rise")
            number += header >> 4
            kind = header & 15
            fields[number] = kind, self._value(kind, depth)
        return Struct(fields)

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (TRUE, FALSE):
            return kind == TRUE
        if kind == BYTE:
            return self._byte()
        if kind in (I16, I32, I64):
            number = self._varint()
            return number >> 1 ^ -(number & 1)
        if kind in (DOUBLE, BINARY):
            return self._pass_over(8 if kind == DOUBLE else self._varint())
        if kind == STRUCT:
            return self.struct(depth + 1)
        raise ThriftError(f"a page's header has a field of type {kind}")

    def _varint(self) -> int:
        number = 0
        for shift in range(0, 7 * LONGEST, 7):
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise ThriftError("a page's header has a number without end")

    def _byte(self) -> int:
        if self.place >= self.end:
            raise ThriftError("a page's header ends early")
        self.place += 1
        return self.content[self.place - 1]

    def _pass_over(self, length: int) -> None:
        self.place += length
        if self.place > self.end:
            raise ThriftError("a page's header ends early")
