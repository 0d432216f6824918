"""The rows of a list, whatever its format: as batches of the columns that a `RowList` describes."""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from seer.errors import InputError
from shards.archives.columns import parquet
from shards.records.notes import Notes, display
from shards.sources import labels
from shards.sources.lines import REMEDY, csv_rows, json_rows, lines, printable, tsv_rows
from shards.sources.listing import ROWS_PER_BATCH

Columns = Mapping[str, str]  # what it says → the column's name, or "" for none
Arrays = dict[str, pa.Array]  # by what they say

TEXT_ROLES = "url", "key", "caption", "label"  # the rest is metadata
SINGLE_ROLES = "caption", "label"  # of which one is wanted, where a data set may have several
NAMES_FROM = 1000  # first lines of a JSONL file in which its columns are looked for
NO_IMAGES = "holds no images"
AS_JSON = ""  # in place of roles: metadata that are JSON already


class Table(Protocol):
    """A list that was opened: the `names` of its columns, and its rows."""

    names: list[str]

    def unfit(self, role: str, column: str) -> str:
        """Why a column can not be what it shall be: "holds …"; "" if it can."""

    def batches(self, chosen: Columns, notes: Notes) -> Iterator[Arrays]:
        """Batches of the chosen columns, under the names of what they say. Raises InputError,
        `pa.ArrowException`.
        """


class ParquetTable:
    """Columns of any type, of which there may be several with one name."""

    def __init__(self, path: Path):
        self.file = parquet(path)
        self.schema = self.file.schema_arrow
        self.names = self.schema.names

    def unfit(self, role: str, column: str) -> str:
        """As `Table` has it."""
        kind = self.schema.field(self.names.index(column)).type
        if role == "image":
            return "" if _is_image(kind) else NO_IMAGES
        if role in TEXT_ROLES and pa.types.is_nested(kind):
            return f"holds {kind}"
        return ""

    def batches(self, chosen: Columns, notes: Notes) -> Iterator[Arrays]:
        """As `Table` has it; where only images are wanted, rows without a URL."""
        if not chosen:
            yield {"url": pa.nulls(self.file.metadata.num_rows, pa.string())}
            return
        names = _class_names(self.schema, chosen.get("label", ""))
        wanted = sorted(set(chosen.values()))
        for batch in self.file.iter_batches(ROWS_PER_BATCH, columns=wanted, use_threads=False):
            places = batch.schema.names
            arrays = {role: batch.column(places.index(column)) for role, column in chosen.items()}
            if names is not None:
                numbers = arrays["label"]
                arrays["label"] = names.take(
                    pc.if_else(pc.less(numbers, 0), pa.scalar(None, numbers.type), numbers)
                )
            yield {
                role: _as_strings(array) if role in TEXT_ROLES else array
                for role, array in arrays.items()
            }


class DelimitedTable:
    """CSV or TSV, by a function that gives `(line, fields)`. Everything is text."""

    def __init__(self, path: Path, rows: Callable[[Path], Iterator[tuple[int, list[str]]]]):
        self.path = path
        self.rows = rows
        self.names = next((fields for _, fields in rows(path)), [])

    def unfit(self, role: str, column: str) -> str:
        """As `Table` has it: text formats hold no images; what others call so may be what is a URL
        there.
        """
        return NO_IMAGES if role == "image" else ""

    def batches(self, chosen: Columns, notes: Notes) -> Iterator[Arrays]:
        """As `Table` has it."""
        places = {role: self.names.index(column) for role, column in chosen.items()}
        rows = self._checked()
        while chunk := list(islice(rows, ROWS_PER_BATCH)):
            yield {
                role: pa.array([fields[place] or None for fields in chunk], pa.string())
                for role, place in places.items()
            }

    def _checked(self) -> Iterator[list[str]]:
        """The rows after the first, which names the columns."""
        for line, fields in islice(self.rows(self.path), 1, None):
            if len(fields) != len(self.names):
                columns = f"{len(fields)} columns and the first line {len(self.names)}"
                raise InputError(f"{self.path} line {line} has {columns}; {REMEDY}")
            yield fields


class JsonTable:
    """An object per line; the types of a key may differ from line to line. Metadata stay JSON."""

    def __init__(self, path: Path):
        self.path = path
        first = islice(json_rows(path), NAMES_FROM)
        self.names = list(dict.fromkeys(name for _, row in first for name in row))

    def unfit(self, role: str, column: str) -> str:
        """As `Table` has it."""
        return NO_IMAGES if role == "image" else ""

    def batches(self, chosen: Columns, notes: Notes) -> Iterator[Arrays]:
        """As `Table` has it."""
        rows = json_rows(self.path)
        kept = {name: column for name, column in chosen.items() if name not in TEXT_ROLES}
        while chunk := list(islice(rows, ROWS_PER_BATCH)):
            arrays = {
                role: pa.array(
                    [self._text(line, row, role, chosen[role], notes) for line, row in chunk],
                    pa.string(),
                )
                for role in TEXT_ROLES
                if role in chosen
            }
            if kept:
                metadata = [
                    {name: row.get(column) for name, column in kept.items()} for _, row in chunk
                ]
                arrays[AS_JSON] = pa.array(
                    [json.dumps(each, allow_nan=False) for each in metadata], pa.string()
                )
            yield arrays

    def _text(
        self, line: int, row: dict[str, Any], role: str, column: str, notes: Notes
    ) -> str | None:
        value = row.get(column)
        if role in SINGLE_ROLES and isinstance(value, list | dict):
            kind = f"rows of {self.path.name} whose {column!r} is no single value, so their images have no {role}"
            notes.add(kind, f"line {line}")
            return None
        return (
            value
            if value is None
            else printable(value if isinstance(value, str) else json.dumps(value))
        )


class UrlTable:
    """A URL per line; blank lines and comments are passed over."""

    def __init__(self, path: Path):
        self.path = path
        self.names = ["url"]

    def unfit(self, role: str, column: str) -> str:
        """As `Table` has it."""
        return ""

    def batches(self, chosen: Columns, notes: Notes) -> Iterator[Arrays]:
        """As `Table` has it."""
        stripped = (line.strip() for _, line in lines(self.path, "backslashreplace"))
        urls = (line for line in stripped if line and not line.startswith("#"))
        while chunk := list(islice(urls, ROWS_PER_BATCH)):
            yield {"url": pa.array(chunk, pa.string())}


FORMATS: dict[str, Callable[[Path], Table]] = {
    ".parquet": ParquetTable,
    ".csv": lambda path: DelimitedTable(path, csv_rows),
    ".tsv": lambda path: DelimitedTable(path, tsv_rows),
    ".jsonl": JsonTable,
    ".ndjson": JsonTable,
    ".txt": UrlTable,
}


def arranged(arrays: Arrays, name: str, notes: Notes) -> pa.RecordBatch:
    """A batch of the list `name` in the columns that `RowList` describes."""
    columns = {role: arrays[role] for role in TEXT_ROLES if role in arrays}
    if "url" in columns:
        columns["url"] = pc.utf8_trim_whitespace(columns["url"]).cast(pa.binary())
    if "label" in columns:
        columns["label"], bad = labels.cleaned(columns["label"])
        for text, count in bad:
            notes.add(labels.LEFT_OUT, f"{display(text)!r} in {name}", count)
    if "key" in columns:  # as `key_of` does, and a column at a time
        for pattern, by in ((r"[.\x00-\x1f\x7f]", "_"), ("/+", "/")):
            columns["key"] = pc.replace_substring_regex(columns["key"], pattern, by)
        columns["key"] = pc.utf8_rtrim(
            pc.utf8_ltrim(columns["key"], characters="_/"), characters="/"
        )
    metadata = {role: array for role, array in arrays.items() if role not in TEXT_ROLES}
    if AS_JSON in metadata:
        columns["metadata"] = metadata[AS_JSON]
    elif metadata:
        columns["metadata"] = pa.StructArray.from_arrays(
            list(metadata.values()), names=list(metadata)
        )
    return pa.RecordBatch.from_pydict(columns or {"url": pa.array([], pa.binary())})


def _is_image(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold images: bytes, or a struct with `bytes`, as Hugging
    Face has it.
    """
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _is_bytes(kind.field(place).type)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _as_strings(array: pa.Array) -> pa.Array:
    """The values as text; bytes that are no UTF-8 become escapes."""
    if _is_bytes(array.type):
        texts = [
            None if value is None else value.decode("utf-8", "backslashreplace")
            for value in array.to_pylist()
        ]
        return pa.array(texts, pa.string())
    return array.cast(pa.string())


def _class_names(schema: pa.Schema, column: str) -> pa.Array | None:
    """What the numbers in this column stand for, where Hugging Face's `datasets` has noted it."""
    note = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        return pa.array(json.loads(note)["info"]["features"][column]["names"], pa.string())
    except (ValueError, KeyError, TypeError, RecursionError, pa.ArrowException):
        return None
