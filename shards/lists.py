"""Lists of images: Parquet, CSV, TSV, JSONL or TXT with URLs, and Parquet with the images themselves in a column.

A list may have 10⁸ rows. It is read batch by batch into an Arrow file without a name that is then mapped into memory,
so that rows become Python objects only when their block's turn comes.
"""

import json
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from seer.errors import InputError, first_line, nearest
from shards.columns import group_starts
from shards.listing import ROWS_PER_BATCH, Container, Listing, RowList, key_of
from shards.tars import sha256_file

Columns = Mapping[str, str]  # what it says → the column's name, or "" for none

# Names by which a column is known, in any case, where `--columns` does not say. The rest is metadata, kept if named.
USUAL = {
    "url": ("url", "image_url", "img_url"),
    "image": ("image", "jpg", "png", "webp", "img", "bytes", "image_bytes"),
    "caption": ("caption", "text", "txt", "alt", "alt_text"),
    "label": ("label", "class", "cls"),
    "licence": ("licence", "license"),
    "key": ("key", "__key__"),
}
TEXT_COLUMNS = "url", "key", "caption", "label"


def parse_columns(text: str) -> dict[str, str]:
    """`"url=URL,caption=TEXT"` as a dict; a name before `=` that is none of `USUAL` is metadata to keep under it."""
    pairs = [pair.strip().partition("=") for pair in text.split(",") if pair.strip()]
    if bad := [name for name, equals, _ in pairs if not equals or not name]:
        raise InputError(f"--columns {text}: {bad[0]!r} is not NAME=COLUMN; write for example url=URL,caption=TEXT")
    return {name.strip(): column.strip() for name, _, column in pairs}


def read_all(sources: Sequence[str | Path], listing: Listing, columns: Columns, folder: Path | None) -> list[RowList]:
    """The lists, entered into the listing's containers; their scratch files go to `folder`.

    Raises:
        InputError: a list cannot be read, has neither URLs nor images, lacks a column, or its keys repeat.
    """
    found = [_read(Path(source), listing, columns, folder) for source in sources]
    taken = set[str]()
    for each in found:
        stem = key_of(Path(listing.containers[each.container].path).stem)
        each.prefix = next(
            p for p in chain([stem], (f"{stem}~{n}" for n in count(2))) if p not in taken | _folders(p, listing)
        )
        taken.add(each.prefix)
    _check_keys(found, listing)
    return found


def _folders(prefix: str, listing: Listing) -> set[str]:
    """The prefix itself, if keys of files begin with it as their folder."""
    return {prefix} if pc.any(pc.starts_with(listing.table["key"], f"{prefix}/")).as_py() else set()


def _check_keys(found: list[RowList], listing: Listing) -> None:
    keyed = [each for each in found if "key" in each.table.column_names]
    keys = [each.table["key"].drop_null() for each in keyed]
    together = pa.chunked_array([chunk for key in keys for chunk in key.chunks], pa.string())
    if pc.count_distinct(together).as_py() < len(together):
        names = ", ".join(Path(listing.containers[each.container].path).name for each in keyed)
        raise InputError(f"keys repeat in {names}; give another column, or number the rows: --columns key=")
    if pc.any(pc.is_in(together, value_set=listing.table["key"])).as_py():
        raise InputError("keys of lists repeat those of files; number the rows of lists: --columns key=")


def _read(path: Path, listing: Listing, columns: Columns, folder: Path | None) -> RowList:
    try:
        names, read = READERS[path.suffix.lower()]
        chosen = _choose(path, names(path), columns)
        container, groups = Container(os.path.abspath(path), "", "urls"), None
        if column := chosen.pop("image", ""):
            prefix = "" if "url" in chosen else f"{path.name}/"
            container, groups = Container(os.path.abspath(path), prefix, "column", column), group_starts(str(path))
        return RowList(listing.add(container), _spool(read(path, chosen), folder), sha256_file(path), groups)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} cannot be read as a list ({first_line(error)}); repair it or leave it out") from None


def _choose(path: Path, names: list[str], columns: Columns) -> dict[str, str]:
    """What the list says → its column of that. Explicit columns must exist; others are found by their usual names."""
    if missing := [column for column in columns.values() if column and column not in names]:
        raise InputError(f"{path} has no column {missing[0]!r}{nearest(missing[0], names)}; see --columns")
    lower = {name.lower(): name for name in reversed(names)}
    usual = {role: next((lower[n] for n in known if n in lower), "") for role, known in USUAL.items()}
    if path.suffix.lower() != ".parquet":
        usual["image"] = ""  # text formats hold no images; there it may be what others call a URL
    chosen = {role: column for role, column in {**usual, **columns}.items() if column}
    if "url" not in chosen and "image" not in chosen:
        raise InputError(f"{path} has neither URLs nor images (columns: {', '.join(names)}); see --columns url=NAME")
    return chosen


def _arranged(batch: pa.RecordBatch, chosen: Columns) -> pa.RecordBatch:
    """The batch in the columns that `RowList` describes."""
    arrays = {}
    for role in TEXT_COLUMNS:
        if role in chosen:
            arrays[role] = batch[chosen[role]].cast(pa.string())
    if "url" in arrays:
        arrays["url"] = pc.utf8_trim_whitespace(arrays["url"]).cast(pa.binary())
    if "label" in arrays:  # -1 is what many data sets write for none
        arrays["label"] = pc.if_else(pc.equal(arrays["label"], "-1"), pa.scalar(None, pa.string()), arrays["label"])
    if "key" in arrays:  # as `key_of` does, and a column at a time
        for pattern, by in ((r"[.\x00-\x1f\x7f]", "_"), ("/+", "/")):
            arrays["key"] = pc.replace_substring_regex(arrays["key"], pattern, by)
        arrays["key"] = pc.utf8_rtrim(pc.utf8_ltrim(arrays["key"], characters="_/"), characters="/")
    if metadata := {name: batch[column] for name, column in chosen.items() if name not in TEXT_COLUMNS}:
        arrays["metadata"] = pa.StructArray.from_arrays(list(metadata.values()), names=list(metadata))
    arrays = arrays or {"url": pa.nulls(len(batch), pa.binary())}
    return pa.RecordBatch.from_pydict(arrays)


def _parquet(path: Path, chosen: Columns) -> Iterator[pa.RecordBatch]:
    file, wanted = pq.ParquetFile(path), sorted(set(chosen.values()))
    if not wanted:
        yield pa.RecordBatch.from_pydict({"url": pa.nulls(file.metadata.num_rows, pa.binary())})
        return
    names = _class_names(file, chosen.get("label", ""))
    for batch in file.iter_batches(ROWS_PER_BATCH, columns=wanted, use_threads=False):
        if names is not None:
            numbers = batch[chosen["label"]]
            labels = names.take(pc.if_else(pc.less(numbers, 0), pa.scalar(None, numbers.type), numbers))
            batch = batch.set_column(batch.schema.get_field_index(chosen["label"]), chosen["label"], labels)
        yield _arranged(batch, chosen)


def _class_names(file: pq.ParquetFile, column: str) -> pa.Array | None:
    """What the numbers in this column stand for, where Hugging Face's `datasets` has noted it."""
    note = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        return pa.array(json.loads(note)["info"]["features"][column]["names"], pa.string())
    except (ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def _csv(path: Path, chosen: Columns) -> Iterator[pa.RecordBatch]:
    wanted = sorted(set(chosen.values()))
    # Everything is text: a type guessed from the first block need not fit the others.
    convert = csv.ConvertOptions(
        include_columns=wanted,
        column_types=dict.fromkeys(wanted, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
    )
    for batch in csv.open_csv(path, parse_options=_delimited(path), convert_options=convert):
        yield _arranged(batch, chosen)


def _delimited(path: Path) -> csv.ParseOptions:
    return csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=True)


def _jsonl(path: Path, chosen: Columns) -> Iterator[pa.RecordBatch]:
    """By Python's parser: the types of a key may differ from line to line. Metadata stay JSON."""
    kept = {name: column for name, column in chosen.items() if name not in TEXT_COLUMNS}
    schema = pa.schema([(role, pa.string()) for role in TEXT_COLUMNS if role in chosen])
    with open(path, encoding="utf-8") as file:
        lines = (_json_object(path, number, line) for number, line in enumerate(file, 1) if line.strip())
        while rows := list(islice(lines, ROWS_PER_BATCH)):
            texts = [{role: _as_text(row.get(chosen[role])) for role in schema.names} for row in rows]
            batch = _arranged(pa.RecordBatch.from_pylist(texts, schema), {name: name for name in schema.names})
            if kept:
                metadata = [json.dumps({name: row.get(column) for name, column in kept.items()}) for row in rows]
                batch = batch.append_column("metadata", pa.array(metadata, pa.string()))
            yield batch


def _json_object(path: Path, number: int, line: str) -> dict:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise InputError(f"{path} line {number} is no JSON object; repair it or leave the list out")
    return row


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _txt(path: Path, chosen: Columns) -> Iterator[pa.RecordBatch]:
    with open(path, encoding="utf-8", errors="backslashreplace") as file:
        lines = (line.strip() for line in file)
        urls = (line for line in lines if line and not line.startswith("#"))
        while batch := list(islice(urls, ROWS_PER_BATCH)):
            yield pa.RecordBatch.from_pydict({"url": pa.array(batch, pa.string()).cast(pa.binary())})


def _jsonl_names(path: Path) -> list[str]:
    """Names that occur in the first lines."""
    with open(path, encoding="utf-8") as file:
        lines = (_json_object(path, number, line) for number, line in enumerate(file, 1) if line.strip())
        return list(dict.fromkeys(name for row in islice(lines, 1000) for name in row))


def _csv_names(path: Path) -> list[str]:
    return csv.open_csv(path, parse_options=_delimited(path)).schema.names


# By suffix: how to find a list's columns, and how to read those that were chosen.
READERS: dict[str, tuple[Callable[[Path], list[str]], Callable[[Path, Columns], Iterator[pa.RecordBatch]]]] = {
    ".parquet": (lambda path: pq.read_schema(path).names, _parquet),
    ".csv": (_csv_names, _csv),
    ".tsv": (_csv_names, _csv),
    ".jsonl": (_jsonl_names, _jsonl),
    ".ndjson": (_jsonl_names, _jsonl),
    ".txt": (lambda path: ["url"], _txt),
}


def scratch(out: Path | None) -> Path | None:
    """Where scratch files go: beside the output, which will need more room; None for the system's own place."""
    return next((folder for folder in out.absolute().parents if folder.is_dir()), None) if out else None


def _spool(batches: Iterator[pa.RecordBatch], folder: Path | None) -> pa.Table:
    """All batches as one table that lies in a file and not in memory. The file has no name, so nothing can leave it."""
    first = next(batches, None)
    if first is None:
        return pa.table({"url": pa.array([], pa.binary())})
    with tempfile.TemporaryFile(dir=folder) as file:
        with pa.ipc.new_file(file, first.schema) as writer:
            writer.write_batch(first)
            for batch in batches:
                writer.write_batch(batch.cast(first.schema))
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return pa.ipc.open_file(pa.py_buffer(mapped)).read_all()
