"""Lists of images: Parquet, CSV, TSV, JSONL or TXT with URLs, and Parquet with the images
themselves in a column.

A list may have 10⁸ rows. It is read batch by batch into an Arrow file without a name that is then
mapped into memory, so that rows become Python objects only when their block's turn comes.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from seer.errors import InputError, first_line, nearest
from shards.archives.columns import group_starts
from shards.archives.tars import sha256_file
from shards.records.notes import Notes
from shards.sources.formats import FORMATS, NO_IMAGES, Columns, Table, arranged
from shards.sources.listing import Container, Listing, RowList, key_of

# Names by which a column is known, in any case, where `--columns` does not say. The rest is
# metadata, kept if named.
USUAL = {
    "url": ("url", "image_url", "img_url"),
    "image": ("image", "jpg", "png", "webp", "img", "bytes", "image_bytes"),
    "caption": ("caption", "text", "txt", "alt", "alt_text"),
    "label": ("label", "class", "cls"),
    "licence": ("licence", "license"),
    "key": ("key", "__key__"),
}


def parse_columns(text: str) -> dict[str, str]:
    """`"url=URL,caption=TEXT"` as a dict; a name before `=` that is none of `USUAL` is metadata to
    keep under it.
    """
    pairs = [pair.strip().partition("=") for pair in text.split(",") if pair.strip()]
    if bad := [name for name, equals, _ in pairs if not equals or not name]:
        raise InputError(
            f"--columns {text}: {bad[0]!r} is not NAME=COLUMN; write for example url=URL,caption=TEXT"
        )
    return {name.strip(): column.strip() for name, _, column in pairs}


def read_all(
    sources: Sequence[str | Path], listing: Listing, columns: Columns, folder: Path | None
) -> list[RowList]:
    """The lists, entered into the listing's containers; their scratch files go to `folder`.

    Raises:
        InputError: a list cannot be read, has neither URLs nor images, lacks a column, or its keys repeat.
    """
    found = [_read(Path(source), listing, columns, folder) for source in sources]
    taken = set[str]()
    for each in found:
        stem = key_of(Path(listing.containers[each.container].path).stem)
        each.prefix = next(
            p
            for p in chain([stem], (f"{stem}~{n}" for n in count(2)))
            if p not in taken | _folders(p, listing)
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
        raise InputError(
            f"keys repeat in {names}; give another column, or number the rows: --columns key="
        )
    if pc.any(pc.is_in(together, value_set=listing.table["key"])).as_py():
        raise InputError(
            "keys of lists repeat those of files; number the rows of lists: --columns key="
        )


def _read(path: Path, listing: Listing, columns: Columns, folder: Path | None) -> RowList:
    try:
        table = FORMATS[path.suffix.lower()](path)
        chosen = _choose(path, table, columns, listing.notes)
        container = Container(os.path.abspath(path), "", "urls")
        groups = None
        if column := chosen.pop("image", ""):
            prefix = "" if "url" in chosen else f"{path.name}/"
            container = Container(os.path.abspath(path), prefix, "column", column)
            groups = group_starts(path)
        batches = (
            arranged(batch, path.name, listing.notes)
            for batch in table.batches(chosen, listing.notes)
        )
        return RowList(listing.add(container), _spool(batches, folder), sha256_file(path), groups)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} cannot be read as a list ({first_line(error)}); repair it or leave it out"
        ) from None


def _choose(path: Path, table: Table, columns: Columns, notes: Notes) -> dict[str, str]:
    """What the list says → its column of that. Explicit columns must exist; others are found by
    their usual names.

    Raises InputError, also for explicit columns whose values can not be what they shall be.
    """
    names = table.names
    if not names:
        raise InputError(f"{path} is empty; fill it or leave it out")
    if missing := [column for column in columns.values() if column and column not in names]:
        raise InputError(
            f"{path} has no column {missing[0]!r}{nearest(missing[0], names)}; see --columns"
        )
    chosen = {role: _usual(path, table, role, notes) for role in USUAL if role not in columns}
    for role, column in columns.items():
        if column and (reason := table.unfit(role, column)):
            raise InputError(
                f"{path}: column {column!r} {reason} and can not be the {role}; see --columns"
            )
        chosen[role] = column
    chosen = {role: column for role, column in chosen.items() if column}
    if "url" not in chosen and "image" not in chosen:
        raise InputError(
            f"{path} has neither URLs nor images (columns: {', '.join(names)}); see --columns url=NAME"
        )
    for column in sorted(set(chosen.values())):
        if names.count(column) > 1:
            notes.add(
                f"columns {column!r} in {path.name}, of which the first is taken",
                column,
                names.count(column),
            )
    return chosen


def _usual(path: Path, table: Table, role: str, notes: Notes) -> str:
    """The first column by one of the role's usual names whose values fit; "" for none."""
    lower = {name.lower(): name for name in reversed(table.names)}
    for column in (lower[name] for name in USUAL[role] if name in lower):
        reason = table.unfit(role, column)
        if not reason:
            return column
        if reason != NO_IMAGES:
            remedy = f"--columns {role}=,{column}s={column} keeps it in key.json"
            notes.add(
                f"column left out of {path.name}: {column!r} {reason}, so images have no {role}",
                remedy,
            )
    return ""


def scratch(out: Path | None) -> Path | None:
    """Where scratch files go: beside the output, which will need more room; None for the system's
    own place.
    """
    return (
        next((folder for folder in out.absolute().parents if folder.is_dir()), None)
        if out
        else None
    )


def _spool(batches: Iterator[pa.RecordBatch], folder: Path | None) -> pa.Table:
    """All batches as one table that lies in a file and not in memory. The file has no name, so
    nothing can leave it.
    """
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
