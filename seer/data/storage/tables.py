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
from seer.schema import DIGEST, FileName, Integer, Kind, Maybe, MismatchError, Plain, Text

CODECS = {"UNCOMPRESSED", "SNAPPY"}  # what we write; others can expand a thousandfold
# Types of pages.
DATA = 0
DICTIONARY = 2
DATA_V2 = 3
# Encodings.
PLAIN = 0
RLE_ENCODING = 3
DICTIONARY_ENCODINGS = {2, 8}
HEX = np.isin(np.arange(256), list(b"0123456789abcdef"))
UNFIT = np.isin(np.arange(256), [*range(32), *b"/\\\x7f"])  # in a file's name


@dataclass(frozen=True)
class TableFormat:
    """What a Parquet file holds: its exact columns, what may stand in each, and how many rows there
    may be.

    A column whose kind is a `Maybe` may have nulls; `Plain` leaves its values to the column's type.
    """

    schema: pa.Schema
    kinds: Mapping[str, Kind]
    most_rows: int
    most_bytes: int = 2**29  # of one column, as it will lie in memory

    def parse(self, content: bytes, columns: list[str] | None = None) -> pa.Table:
        """The table that a file's content is, or some of its columns. Raises `MismatchError`."""
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
        self._check_columns(metadata.schema.to_arrow_schema())
        if metadata.num_rows > self.most_rows:
            raise MismatchError(
                "", f"it has {metadata.num_rows:,} rows; at most {self.most_rows:,} are read"
            )
        texts = []
        for name in columns:
            field = self.schema.get_field_index(name)
            pages = _checked_pages(content, metadata, field)
            if sum(page.size for page in pages) > self.most_bytes:
                raise MismatchError(name, f"more than {self.most_bytes:,} bytes")
            if _expanded(pages) > self.most_bytes and self.schema.field(field).type == pa.string():
                texts.append(name)
        with pq.ParquetFile(
            buffer, metadata=metadata, read_dictionary=texts, pre_buffer=False
        ) as file:
            table = file.read(columns, use_threads=False)
        for name in texts:
            column = _decoded(table[name], self.most_bytes)
            table = table.set_column(
                table.column_names.index(name), self.schema.field(name), column
            )
        table.validate(full=True)  # that texts are UTF-8, above all
        return table

    def _check_columns(self, schema: pa.Schema) -> None:
        if missing := [name for name in self.schema.names if name not in schema.names]:
            raise MismatchError("", f"it has no column {missing[0]}")
        if not schema.equals(self.schema):
            raise MismatchError(
                "", f"its columns are not {', '.join(self.schema.names)}, or of other types"
            )


def check_column(column: pa.ChunkedArray, kind: Kind, name: str) -> None:
    """Raise `MismatchError` that names the first value of a column that is not of the kind."""
    if isinstance(kind, Maybe):
        kind = kind.kind
        column = column.drop_null() if column.null_count else column
    elif column.null_count:
        raise MismatchError(name, "it has a row without a value")
    start = 0
    for chunk in column.chunks:
        if len(chunk) and not _surely_fits(kind, chunk):
            for i, value in enumerate(chunk.to_pylist(), start):
                kind.check(value, f"{name}[{i}]")
        start += len(chunk)


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
    if kind == DIGEST:
        return shortest == longest == 64 and bool(HEX[data].all())
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


def _decoded(column: pa.ChunkedArray, most_bytes: int) -> pa.ChunkedArray:
    """Texts out of a dictionary, unless they would take too much memory."""
    size = 0
    for chunk in column.chunks:
        indices = chunk.indices.drop_null().to_numpy()
        lengths = (
            np.diff(_bytes_of(chunk.dictionary)[0])
            if len(chunk.dictionary)
            else np.zeros(0, np.int64)
        )
        size += int(lengths[indices].sum(dtype=np.int64))
    if size > most_bytes:
        raise MismatchError("", f"a column of {size:,} bytes; at most {most_bytes:,} are read")
    return column.cast(pa.string())


class Page(NamedTuple):
    """What a page's header says."""

    type: int
    size: int  # bytes when it is unpacked
    values: int
    encoding: int


def _checked_pages(content: bytes, metadata: pq.FileMetaData, column: int) -> list[Page]:
    """The pages of a column. Raises `MismatchError` if they are not as we write them."""
    pages = list[Page]()
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunk = group.column(column)
        if chunk.compression not in CODECS:
            raise MismatchError("", f"compressed by {chunk.compression}; only snappy is read")
        of_chunk = list(_pages(content, chunk)) if group.num_rows else []
        rows = sum(page.values for page in of_chunk if page.type != DICTIONARY)
        if not group.num_rows == chunk.num_values == rows:
            raise MismatchError("", "its pages have not the rows that its footer says")
        pages += of_chunk
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
