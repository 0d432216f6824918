import io
import struct
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seer.data.storage.tables import TableFormat, check_column
from seer.data.storage.thrift import ThriftError, read_struct
from seer.schema import (
    DIGEST,
    SUFFIX,
    FileName,
    Integer,
    ListOf,
    Maybe,
    MismatchError,
    Plain,
    Record,
    Text,
)
from tests.kit.fuzzing import within_memory
from tests.kit.strategies import HOSTILE, values

SCHEMA = pa.schema([("name", pa.string()), ("size", pa.int64()), pa.field("note", pa.string())])
FORMAT = TableFormat(
    SCHEMA, {"name": Text(2**24), "size": Integer(0, 9), "note": Maybe(Plain())}, 10**7
)


def parquet(names: pa.Array, schema: pa.Schema = SCHEMA, **options) -> bytes:
    columns = [
        names,
        pa.array([1] * len(names), pa.int64()),
        pa.array([None] * len(names), pa.string()),
    ]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), file, **options)
    return file.getvalue()


def fits(kind, value) -> bool:
    try:
        kind.check(value)
    except MismatchError:
        return False
    return True


TEXTS = [value for value in HOSTILE if isinstance(value, str) and value.isascii()] + [
    "ü.tar",
    "\x7f.tar",
    "a" * 252 + ".tar",
]


@pytest.mark.parametrize(
    "kind",
    [DIGEST, SUFFIX, FileName(".tar"), FileName(), Text(4, 1), Text(3), Text(9, 0, "[a-c]*")],
)
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_columns_of_texts_are_judged_as_their_values_are(kind, data):
    texts = data.draw(st.lists(values(kind) | st.sampled_from(TEXTS), min_size=1, max_size=6))
    array = pa.array(["x" * 5, *texts])[1:]  # whose first byte is not the buffer's
    if all(fits(kind, text) for text in texts):
        check_column(pa.chunked_array([array]), kind, "name")
    else:
        with pytest.raises(MismatchError, match=r"name\[\d\]: .* is not "):
            check_column(pa.chunked_array([array]), kind, "name")


@given(st.lists(st.integers(-5, 15), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_columns_of_numbers_are_judged_as_their_values_are(numbers):
    column = pa.chunked_array([pa.array(numbers, pa.int64())])
    if all(0 <= number <= 9 for number in numbers):
        check_column(column, Integer(0, 9), "size")
    else:
        with pytest.raises(
            MismatchError, match=r"size\[\d+\]: .* is not a whole number from 0 to 9"
        ):
            check_column(column, Integer(0, 9), "size")


def test_nulls_stand_where_they_may():
    column = pa.chunked_array([pa.array([1, None, 3])])
    check_column(column, Maybe(Integer(1, 3)), "label")
    with pytest.raises(MismatchError, match="label: it has a row without a value"):
        check_column(column, Integer(1, 3), "label")
    with pytest.raises(MismatchError, match=r"label\[1\]: 3 is not"):
        check_column(column, Maybe(Integer(1, 2)), "label")


@pytest.mark.parametrize(
    "options", [{}, {"use_dictionary": False}, {"data_page_version": "2.0"}, {"row_group_size": 7}]
)
def test_what_was_written_is_read(options):
    names = pa.array([f"name {i % 40}" for i in range(100)])
    table = FORMAT.parse(parquet(names, **options))
    assert table["name"].to_pylist() == names.to_pylist()
    assert FORMAT.parse(parquet(names, **options), ["size"]).column_names == ["size"]


def test_a_small_file_that_means_a_huge_table_is_refused():
    """A megabyte, forty thousand times: by a dictionary, by what texts share, and by a codec that
    expands.
    """
    text = "x" * 2**20
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 40_000, pa.int32()), pa.array([text]))
    schema = pa.schema(
        [pa.field("name", pa.dictionary(pa.int32(), pa.string())), *list(SCHEMA)[1:]]
    )
    bomb = parquet(repeated, schema, store_schema=False)
    shared = parquet(
        pa.array([text] * 300), use_dictionary=False, column_encoding={"name": "DELTA_BYTE_ARRAY"}
    )
    packed = parquet(pa.array([text] * 2), compression="zstd")
    assert max(len(bomb), len(shared), len(packed)) < 3 * 2**20
    for content, problem in (
        (bomb, r"a column of 41,943,040,000 bytes; at most"),
        (shared, r"encoded in a way that is not read \(Parquet's number 7\)"),
        (packed, "compressed by ZSTD"),
    ):
        with within_memory(), pytest.raises(MismatchError, match=problem):
            FORMAT.parse(content)


ITEM = Record({"suffix": SUFFIX, "size": Integer(0, 9)}, extra=None)
ITEMS = pa.list_(pa.struct([("suffix", pa.string()), ("size", pa.int64())]))
LISTS = TableFormat(
    pa.schema([("id", pa.int64()), ("items", ITEMS)]),
    {"id": Plain(), "items": Maybe(ListOf(ITEM))},
    most_rows=10**6,
    most_items=1000,
    optional=frozenset(["items"]),
)


def lists(rows: list, repeating: bool = True, **options) -> bytes:
    file = io.BytesIO()
    columns = [pa.array(range(len(rows)), pa.int64()), pa.array(rows, ITEMS)]
    dictionaries = ["items.list.element.suffix"] if repeating else False
    pq.write_table(
        pa.Table.from_arrays(columns, schema=LISTS.schema),
        file,
        use_dictionary=dictionaries,
        **options,
    )
    return file.getvalue()


def items(kind: Maybe) -> st.SearchStrategy:
    """Lists of the kind, and such with one thing wrong that the column's type can hold."""
    wrong = st.sampled_from(
        [{"suffix": "a/b"}, {"suffix": None}, {"suffix": "A"}, {"size": 10}, {"size": None}]
    )
    spoiled = st.tuples(values(kind.kind).filter(len), wrong).map(
        lambda pair: [*pair[0][:-1], pair[0][-1] | pair[1]]
    )
    return values(kind) | spoiled | st.just([None])


@given(st.lists(items(LISTS.kinds["items"]), min_size=1, max_size=5), st.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_columns_of_lists_are_judged_as_their_values_are(rows, row_group_size):
    content = lists(rows, row_group_size=row_group_size)
    if all(fits(LISTS.kinds["items"], row) for row in rows):
        assert LISTS.parse(content)["items"].to_pylist() == rows
    else:
        with pytest.raises(MismatchError, match="items"):
            LISTS.parse(content)
    assert LISTS.parse(content, ["id"]).to_pylist() == [{"id": i} for i in range(len(rows))]


def test_lists_are_bounded_together():
    whole = [{"suffix": "a", "size": 1}] * 500
    assert LISTS.parse(lists([whole, whole])).num_rows == 2
    with pytest.raises(MismatchError, match="lists of 1,003 items; at most 1,000 are read"):
        LISTS.parse(lists([whole, [*whole, *whole[:3]]]))


def test_a_small_file_that_means_huge_lists_is_refused():
    """Three million items by run length, and one long text for each of them."""
    numbers = pa.array([0] * 3_000_000, pa.int32())
    size = pa.DictionaryArray.from_arrays(numbers, pa.array([1]))
    text = pa.DictionaryArray.from_arrays(numbers, pa.array(["x" * 2000]))
    many = pa.StructArray.from_arrays([text, size], ["suffix", "size"])
    column = pa.ListArray.from_arrays(pa.array([0, len(many)], pa.int32()), many)
    table = pa.Table.from_arrays([pa.array([0]), column], ["id", "items"])
    file = io.BytesIO()
    pq.write_table(table, file, store_schema=False)
    assert len(file.getvalue()) < 10_000_000
    roomy = replace(LISTS, most_items=10**7)
    for format, problem in (
        (LISTS, "lists of 3,000,000 items"),
        (roomy, "a column of 6,000,000,000 bytes"),
    ):
        with within_memory(2**29), pytest.raises(MismatchError, match=problem):
            format.parse(file.getvalue())


def test_a_column_that_earlier_versions_did_not_write_may_be_missing():
    file = io.BytesIO()
    pq.write_table(pa.table({"id": [1, 2]}), file)
    assert LISTS.parse(file.getvalue()).column_names == ["id"]
    assert LISTS.parse(file.getvalue(), ["id", "items"]).column_names == ["id"]
    with pytest.raises(MismatchError, match="it has no column id"):
        LISTS.parse(lists([None]).replace(b"id", b"ie"))


def test_long_texts_of_a_dictionary_are_written_out():
    rows = [[{"suffix": "x" * 200 + str(i % 3), "size": 1}] * 4 for i in range(100)]
    close = replace(LISTS, most_bytes=100_000)
    assert close.parse(lists(rows))["items"].to_pylist() == rows
    assert close.parse(lists(rows)).schema.equals(LISTS.schema)


def test_more_rows_than_there_may_be():
    with pytest.raises(MismatchError, match="it has 11 rows; at most 10 are read"):
        TableFormat(SCHEMA, FORMAT.kinds, 10).parse(parquet(pa.array(["a"] * 11)))


def test_other_columns_are_refused():
    names = pa.array(["a"])
    for schema, problem in (
        (
            pa.schema([("name", pa.string()), ("size", pa.int64()), ("more", pa.string())]),
            "it has no column note",
        ),
        (
            pa.schema([("name", pa.large_string()), *list(SCHEMA)[1:]]),
            "its columns are not name, size, note, or of",
        ),
    ):
        with pytest.raises(MismatchError, match=problem):
            FORMAT.parse(parquet(names.cast(schema.field("name").type), schema))
    for content in (b"", b"PAR1", b"PAR1" * 9, struct.pack("<4sI4s", b"PAR1", 2**31, b"PAR1")):
        with pytest.raises(MismatchError, match="not readable as Parquet"):
            FORMAT.parse(content)


def test_texts_that_are_not_utf8_are_refused():
    raw = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(struct.pack("<2i", 0, 2)), pa.py_buffer(b"\xff\xfe")]
    )
    with pytest.raises(MismatchError, match="not readable as Parquet"):
        FORMAT.parse(parquet(raw))


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_structure_or_refused(content):
    try:
        _, place = read_struct(content, 0, len(content))
    except ThriftError:
        return
    assert 0 < place <= len(content)
