"""Parquet files that somebody else may have written, read as their owner declared them, in memory
that is bounded.

A Parquet file of a kilobyte can hold a billion rows of a megabyte: rows repeat by run length, texts
by a dictionary or by what they share with the text before. So before anything is read, the headers
of all pages are looked at: they, and not the footer, say what a reader will do. What is read then
is checked column by column against kinds of `seer.schema`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seer.data.storage.thrift import Struct, read_struct
from seer.errors import first_line
from seer.schema import (
    DIGEST,
    SUFFIX,
    FileName,
    Integer,
    Kind,
    ListOf,
    Maybe,
    MismatchError,
    Plain,
    Record,
    Text,
)

CODECS = {"UNCOMPRESSED", "SNAPPY"}  # what we write; others can expand a thousandfold
# Types of pages.
DATA = 0
DICTIONARY = 2
DATA_V2 = 3
# Encodings.
PLAIN = 0
RLE_ENCODING = 3
DICTIONARY_ENCODINGS = {2, 8}
# Kinds of texts that only have to be of some length and of these bytes.
BYTES = {
    DIGEST: np.isin(np.arange(256), list(b"0123456789abcdef")),
    SUFFIX: np.isin(np.arange(256), list(b"abcdefghijklmnopqrstuvwxyz0123456789_+.-")),
}
UNFIT = np.isin(np.arange(256), [*range(32), *b"/\\\x7f"])  # in a file's name


@dataclass(frozen=True)
class TableFormat:
    """What a Parquet file holds: its exact columns, what may stand in each, and how many rows there
    may be.

    A column whose kind is a `Maybe` may have nulls; `Plain` leaves its values to the column's type.
    A column of lists has structures as their items: its kind is a `ListOf` a `Record`, perhaps in a
    `Maybe`.
    """

    schema: pa.Schema
    kinds: Mapping[str, Kind]
    most_rows: int
    most_bytes: int = 2**29  # of one column, as it will lie in memory
    most_items: int = 0  # of all lists of a column
    optional: frozenset[str] = frozenset()  # columns that earlier versions did not write

    def parse(self, content: bytes, columns: list[str] | None = None) -> pa.Table:
        """The table that a file's content is, or some of its columns. Raises `MismatchError`.

        An optional column that the file has not is not in the table, either.
        """
        try:
            table = self._read(content, columns or self.schema.names)
            for name in table.column_names:
                check_column(table[name], self.kinds[name], name)
            return table
        except MismatchError:
            raise
        except (
            OSError,
            ValueError,
            pa.ArrowException,
        ) as error:  # whatever a library says of bytes
            raise MismatchError("", f"not readable as Parquet ({first_line(error)})") from None

    def _read(self, content: bytes, columns: list[str]) -> pa.Table:
        # Not by `pq.read_table`: its pool of threads may be letting go of Python's memory just when
        # the interpreter ends, and that aborts the process.
        buffer = pa.BufferReader(content)
        metadata = pq.read_metadata(buffer)
        present = self._check_columns(metadata.schema.to_arrow_schema())
        if metadata.num_rows > self.most_rows:
            raise MismatchError(
                "", f"it has {metadata.num_rows:,} rows; at most {self.most_rows:,} are read"
            )
        columns = [name for name in columns if name in present.names]
        texts: dict[str, str] = {}  # to be read as dictionaries: their place in the file by column
        for leaf in range(metadata.num_columns):
            place = metadata.schema.column(leaf)
            name = place.path.split(".")[0]
            if name not in columns:
                continue
            most_items = self.most_items if "." in place.path else 0
            pages = _checked_pages(content, metadata, leaf, most_items)
            if sum(page.size for page in pages) > self.most_bytes:
                raise MismatchError(name, f"more than {self.most_bytes:,} bytes")
            if _expanded(pages) > self.most_bytes and place.physical_type == "BYTE_ARRAY":
                texts[name] = place.path
        with pq.ParquetFile(
            buffer, metadata=metadata, read_dictionary=list(texts.values()), pre_buffer=False
        ) as file:
            table = file.read(columns, use_threads=False)
        for name, path in texts.items():
            _check_expanded(table[name], path, self.most_bytes)
        if texts:
            table = table.cast(pa.schema([present.field(name) for name in table.column_names]))
        table.validate(full=True)  # that texts are UTF-8, above all
        return table

    def _check_columns(self, schema: pa.Schema) -> pa.Schema:
        """The columns that are there, of those that there should be."""
        missing = [name for name in self.schema.names if name not in schema.names]
        required = [name for name in missing if name not in self.optional]
        if required:
            raise MismatchError("", f"it has no column {required[0]}")
        present = pa.schema([field for field in self.schema if field.name not in missing])
        if not schema.equals(present):
            raise MismatchError(
                "", f"its columns are not {', '.join(self.schema.names)}, or of other types"
            )
        return present


def check_column(column: pa.ChunkedArray, kind: Kind, name: str) -> None:
    """Raise `MismatchError` that names the first value of a column that is not of the kind."""
    if isinstance(kind, Maybe):
        kind = kind.kind
        column = column.drop_null() if column.null_count else column
    elif column.null_count:
        raise MismatchError(name, "it has a row without a value")
    if isinstance(kind, ListOf):
        assert isinstance(kind.kind, Record)
        for chunk in column.chunks:
            _check_items(chunk.flatten(), kind.kind, name)
        return
    start = 0
    for chunk in column.chunks:
        if len(chunk) and not _surely_fits(kind, chunk):
            for i, value in enumerate(chunk.to_pylist(), start):
                kind.check(value, f"{name}[{i}]")
        start += len(chunk)


def _check_items(items: pa.StructArray, kind: Record, name: str) -> None:
    """The same for what stands in lists."""
    if items.null_count:
        raise MismatchError(name, "it has an item without a value")
    for field, below in kind.required.items():
        check_column(pa.chunked_array([items.field(field)]), below, f"{name}.{field}")


def _surely_fits(kind: Kind, values: pa.Array) -> bool:
    """Whether all values are of the kind, as far as that can be told quickly; false where each has
    to be looked at.
    """
    match kind:
        case Plain():
            return True
        case Integer(low, high):
            numbers = values.to_numpy()
            return low <= int(numbers.min()) and int(numbers.max()) <= high
        case Text() | FileName():
            ends, data = _bytes_of(values)
            return _surely_texts(kind, ends, data)
    return False


def _surely_texts(kind: Text | FileName, ends: np.ndarray, data: np.ndarray) -> bool:
    lengths = np.diff(ends)
    shortest = int(lengths.min())
    longest = int(lengths.max())
    if kind in BYTES:
        assert isinstance(kind, Text)
        fitting = kind.shortest <= shortest and longest <= kind.longest
        return fitting and bool(BYTES[kind][data].all())
    if isinstance(kind, FileName):
        suffix = np.frombuffer(kind.suffix.encode(), np.uint8)
        if not suffix.size or shortest <= len(suffix) or longest > 255:
            return False
        if UNFIT[data].any():
            return False
        # Where in `data` the last bytes of each name are, `(N, len(suffix))`.
        places = (ends[1:] - ends[0])[:, None]
        places = places - np.arange(len(suffix), 0, -1)
        return bool((data[places] == suffix).all())
    if kind.pattern:
        return False
    # No text has more characters than bytes, or fewer than a quarter of them.
    return kind.shortest <= shortest // 4 and longest <= kind.longest


def _bytes_of(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """`(n + 1,)` places where texts begin and end, and the bytes from the first place to the last."""
    _, offsets, data = values.buffers()
    ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    whole = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return ends, whole[ends[0] : ends[-1]]


def _check_expanded(column: pa.ChunkedArray, path: str, most_bytes: int) -> None:
    """Raise `MismatchError` if a dictionary's texts, once written out, would take too much memory.

    The dictionary is the column, or, by its `path` in the file, a field of its lists' items.
    """
    size = 0
    for chunk in column.chunks:
        if "." in path:
            chunk = chunk.flatten().field(path.rpartition(".")[2])
        indices = chunk.indices.drop_null().to_numpy()
        lengths = (
            np.diff(_bytes_of(chunk.dictionary)[0])
            if len(chunk.dictionary)
            else np.zeros(0, np.int64)
        )
        size += int(lengths[indices].sum(dtype=np.int64))
    if size > most_bytes:
        raise MismatchError("", f"a column of {size:,} bytes; at most {most_bytes:,} are read")


class Page(NamedTuple):
    """What a page's header says."""

    type: int
    size: int  # bytes when it is unpacked
    values: int
    encoding: int


def _checked_pages(
    content: bytes, metadata: pq.FileMetaData, column: int, most_items: int
) -> list[Page]:
    """The pages of a column. Raises `MismatchError` if they are not as we write them.

    Where there are lists, a value of a page is an item, or a row whose list has none.
    """
    pages = list[Page]()
    values = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunk = group.column(column)
        if chunk.compression not in CODECS:
            raise MismatchError("", f"compressed by {chunk.compression}; only snappy is read")
        of_chunk = list(_pages(content, chunk)) if group.num_rows else []
        in_pages = sum(page.values for page in of_chunk if page.type != DICTIONARY)
        without_lists = chunk.num_values == group.num_rows
        fitting = chunk.num_values >= group.num_rows if most_items else without_lists
        if not fitting or chunk.num_values != in_pages:
            raise MismatchError("", "its pages have not the rows that its footer says")
        values += in_pages
        pages += of_chunk
    if values > metadata.num_rows + most_items:
        raise MismatchError("", f"lists of {values:,} items; at most {most_items:,} are read")
    if unknown := {page.encoding for page in pages} - {PLAIN, RLE_ENCODING} - DICTIONARY_ENCODINGS:
        raise MismatchError(
            "", f"its pages are encoded in a way that is not read (Parquet's number {min(unknown)})"
        )
    return pages


def _expanded(pages: list[Page]) -> int:
    """Bytes that the values which stand for those of a dictionary take at most: if each is for its
    longest.
    """
    longest = max((page.size for page in pages if page.type == DICTIONARY), default=0)
    repeated = sum(
        page.values
        for page in pages
        if page.type != DICTIONARY and page.encoding in DICTIONARY_ENCODINGS
    )
    return longest * repeated


def _pages(content: bytes, chunk: pq.ColumnChunkMetaData) -> Iterator[Page]:
    """The pages of a column chunk, where a reader will find them."""
    place = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < place:
        place = chunk.dictionary_page_offset
    end = place + chunk.total_compressed_size
    if not 0 <= place <= end <= len(content):
        raise MismatchError("", "its columns lie outside of it")
    while place < end:
        header, place = read_struct(content, place, end)
        page = _page(header)
        place += header.number(3)
        if place > end or page.size < 0 or page.values < 0 or header.number(3) < 0:
            raise MismatchError("", "a page is larger than its column")
        yield page


def _page(header: Struct) -> Page:
    kind = header.number(1)
    if kind not in (DATA, DICTIONARY, DATA_V2):
        raise MismatchError("", f"it has a page of type {kind}")
    below = header.struct({DATA: 5, DICTIONARY: 7, DATA_V2: 8}[kind])
    encoding = below.number(4 if kind == DATA_V2 else 2)
    return Page(kind, header.number(2), below.number(1), encoding)
