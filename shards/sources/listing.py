"""What there is to put into shards, in a fixed order, before any image is read: files, members and
rows of lists.
"""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seer.data.hashing import mix
from shards.records.notes import Notes
from shards.records.quarantine import Entry, text

ROWS_PER_BATCH = 1 << 16

# One row per sample. Names are bytes because a file name need not be text. `offset` is -1 for a
# file of its own.
LISTING = pa.schema(
    [
        ("container", pa.int32()),  # what holds it: a place in `Listing.containers`
        ("name", pa.binary()),  # path below the folder, or the image's member name
        ("offset", pa.int64()),  # of the member's data in a tar; the member's number in a zip
        ("size", pa.int64()),
        ("key", pa.string()),
        ("class", pa.string()),
        (
            "extras",
            pa.list_(
                pa.struct([("suffix", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])
            ),
        ),
    ]
)


@dataclass
class Container:
    """What holds images. `path` opens it; `prefix` begins the recorded source of what it holds.

    `kind` is `folder`, `tar`, `zip`, `urls` (a list of them) or `column` (a Parquet file whose
    `column` has images).
    """

    path: str
    prefix: str
    kind: str
    column: str = ""

    def __post_init__(self) -> None:
        self.prefix = text(os.fsencode(self.prefix))

    @property
    def is_tar(self) -> bool:
        """Whether its members may bring companions, suffix and label along."""
        return self.kind == "tar"

    def source_of(self, name: bytes) -> str:
        """What the index records as the origin of `name` in this container."""
        return self.prefix + text(name)


@dataclass
class RowList:
    """The rows of one list, which may be too many to exist as Python objects: a memory-mapped
    table.

    Attributes:
        container: a place in `Listing.containers`.
        table: those of the columns url (binary), key, caption, label (strings) and metadata (a struct, or a string of
            JSON) that the list has; at least one of them.
        digest: SHA-256 of the file. groups: first row of each of a Parquet file's row groups, if images are in it.
        prefix: begins the keys of rows that have none of their own.
    """

    container: int
    table: pa.Table
    digest: str
    groups: np.ndarray | None = None
    prefix: str = ""

    def __post_init__(self) -> None:
        self.batches = self.table.to_batches()
        self.starts = np.cumsum([0, *(len(batch) for batch in self.batches)])
        labels = (
            [batch["label"] for batch in self.batches] if "label" in self.table.column_names else []
        )
        self.labelled = any(len(each) > each.null_count for each in labels)
        self.numbered = self.labelled and all(
            pc.all(pc.match_substring_regex(each, r"^\d+$"), min_count=0).as_py() for each in labels
        )

    @property
    def classes(self) -> set[str]:
        """The class names that its labels are; none when they are numbers."""
        named = self.labelled and not self.numbered
        return set(pc.unique(self.table["label"]).drop_null().to_pylist()) if named else set()

    def only_scheme(self) -> str:
        """The scheme that all its URLs have, in lower case; "" if they differ, or some have none."""
        if "url" not in self.table.column_names:
            return ""
        schemes = set[str]()
        for batch in self.batches:
            matches = pc.extract_regex(batch["url"], r"^(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
            names = pc.unique(pc.struct_field(matches, "scheme"))
            for name in names.to_pylist():
                schemes.add(text(name).lower() if name else "")
        return schemes.pop() if len(schemes) == 1 else ""

    def rows(self, numbers: np.ndarray) -> Iterator[dict[str, Any]]:
        """Rows like those of `LISTING`, and under `members` what the list says: `(suffix, data)`
        pairs.
        """
        batch_of = np.searchsorted(self.starts, numbers, side="right") - 1
        rows: dict[int, dict[str, Any]] = {}
        # Batch by batch: `Table.take` would copy whole columns.
        for batch in np.unique(batch_of):
            of_batch = numbers[batch_of == batch]
            places = pa.array(of_batch - self.starts[batch])
            taken = self.batches[batch].take(places)
            pairs = zip(of_batch.tolist(), taken.to_pylist(), strict=True)
            rows.update(pairs)
        in_order = numbers.tolist()
        return (self._row(number, rows[number]) for number in in_order)

    def _row(self, number: int, values: dict[str, Any]) -> dict[str, Any]:
        url = values.get("url")
        label = values.get("label")
        members = [("cls", label.encode())] if self.numbered and label else []
        if values.get("caption") is not None:
            members.append(("txt", values["caption"].encode()))
        metadata = values.get("metadata") or {}
        metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
        metadata = {"url": text(url), **metadata} if url else metadata
        if metadata:
            members.append(("json", _as_json(metadata)))
        return {
            "container": self.container,
            "name": url or str(number).encode(),
            "offset": number,
            "size": -1,
            "key": values.get("key") or f"{self.prefix}/{number:09}",
            "class": None if self.numbered else label,
            "extras": [],
            "members": members,
        }


def _as_json(metadata: dict[str, Any]) -> bytes:
    content = json.dumps(_finite(metadata), default=_plain, ensure_ascii=False, allow_nan=False)
    return content.encode("utf-8", "backslashreplace")  # which is how JSON escapes what is no text


def _finite(value: Any) -> Any:
    """The value with None for numbers that JSON has not; as deep as a column's type, or as
    `lines.py` lets.
    """
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> str:
    """What JSON has no form for."""
    return text(value) if isinstance(value, bytes) else str(value)


@dataclass
class Listing:
    """Everything found: first the files and members, then the rows of lists, each in their order.

    Attributes:
        table: `LISTING` rows in an order that depends on names alone, keys made unique. lists: the lists.
        classes: sorted names of classes, when folders or lists give any.
        quarantine: `{"source", "reason"}` of what could not be listed. ignored: files that are no images, by suffix.
        notes: what else was not taken as an image of its own. numbered: a `.cls` member with a number, or "".
    """

    containers: list[Container] = field(default_factory=list)
    table: pa.Table = field(default_factory=LISTING.empty_table)
    lists: list[RowList] = field(default_factory=list)
    classes: list[str] | None = None
    quarantine: list[Entry] = field(default_factory=list)
    ignored: Counter = field(default_factory=Counter)
    notes: Notes = field(default_factory=Notes)
    numbered: str = ""

    def __len__(self) -> int:
        return len(self.table) + sum(len(each.table) for each in self.lists)

    @property
    def fingerprint(self) -> str:
        """64 hex digits that change when a file is added, removed, renamed or changes its size, or
        a list changes.
        """
        digest = hashlib.sha256()
        for batch in self.table.to_batches(ROWS_PER_BATCH):
            digest.update(
                "\n".join(repr(tuple(row.values())) for row in batch.to_pylist()).encode()
            )
        digest.update("".join(each.digest for each in self.lists).encode())
        return digest.hexdigest()

    def add(self, container: Container) -> int:
        """Its number."""
        self.containers.append(container)
        return len(self.containers) - 1

    def order(self, shuffle: bool) -> np.ndarray:
        """`(samples,)` int64: a fixed random order of all samples, or their own.

        The rows of one Parquet row group stay together, because reading any image of it means
        reading all.
        """
        units = np.arange(len(self))
        if not shuffle:
            return units
        start = len(self.table)
        for each in self.lists:
            here = units[start : start + len(each.table)]
            if each.groups is not None:
                here[:] = (
                    start
                    + each.groups[np.searchsorted(each.groups, here - start, side="right") - 1]
                )
            start += len(each.table)
        return np.argsort(mix(units), kind="stable")

    def rows(self, block: np.ndarray) -> list[dict[str, Any]]:
        """The samples of these numbers, in the order given."""
        found: dict[int, dict[str, Any]] = {}
        start = 0
        parts = [
            (len(self.table), self._files),
            *((len(each.table), each.rows) for each in self.lists),
        ]
        for count, rows_of in parts:
            mine = block[(block >= start) & (block < start + count)]
            found |= zip(mine.tolist(), rows_of(mine - start), strict=True)
            start += count
        return [found[number] for number in block.tolist()]

    def _files(self, numbers: np.ndarray) -> list[dict[str, Any]]:
        return self.table.take(pa.array(numbers, pa.int64())).to_pylist()


class Described(Listing):
    """Files of a folder that somebody else has listed, each with a member that is made when it is written.

    Args:
        paths: below the folder, in the order in which they stay.
        suffix: of the member. content: what it is, by the file's place in `paths`.
        digest: of all members.
    """

    def __init__(
        self,
        folder: str,
        paths: Sequence[str],
        suffix: str,
        content: Callable[[int], bytes],
        digest: str,
    ):
        super().__init__()
        self._suffix = suffix
        self._content = content
        self._digest = digest
        number = self.add(Container(folder, "", "folder"))
        self.table = table_of(file_row(number, path, -1, _size(folder, path)) for path in paths)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{super().fingerprint}{self._digest}".encode()).hexdigest()

    def order(self, shuffle: bool) -> np.ndarray:
        """Their own: who reads them trains in an order that depends on it."""
        return np.arange(len(self))

    def _files(self, numbers: np.ndarray) -> list[dict[str, Any]]:
        rows = super()._files(numbers)
        for number, row in zip(numbers.tolist(), rows, strict=True):
            row["members"] = [(self._suffix, self._content(number))]
        return rows


def _size(folder: str, path: str) -> int:
    return os.stat(os.path.join(folder, path)).st_size


def file_row(container: int, name: str, offset: int, size: int) -> dict[str, Any]:
    """The row of an image that is a file, or a zip's member, of its own."""
    return {
        "container": container,
        "name": os.fsencode(name),
        "offset": offset,
        "size": size,
        "key": key_of(os.path.splitext(name)[0]),
        "class": None,
        "extras": [],
    }


def key_of(path: str) -> str:
    """A WebDataset key out of a path: no dots in the base name, nothing that `tar` or a shell would
    stumble over.
    """
    parts = [part for part in text(os.fsencode(path)).split("/") if part not in ("", ".", "..")]
    key = "/".join([*parts[:-1], parts[-1].replace(".", "_")]) if parts else ""
    key = "".join(char if char.isprintable() else "_" for char in key)
    return key.lstrip("_/") or "image"  # `__name__` is WebDataset's own


def table_of(rows: Iterator[dict[str, Any]]) -> pa.Table:
    """`LISTING` rows as a table, whose keys are made unique."""
    batches = []
    while chunk := list(islice(rows, ROWS_PER_BATCH)):
        batches.append(pa.RecordBatch.from_pylist(chunk, LISTING))
    table = pa.Table.from_batches(batches, LISTING).combine_chunks()
    return table.set_column(LISTING.get_field_index("key"), "key", _unique(table["key"]))


def _unique(keys: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The keys, the second `key` as `key~2` and so on."""
    if len(pc.unique(keys)) == len(keys):
        return keys
    names = keys.to_pylist()
    taken = set(names)
    count = Counter[str]()
    unique = []
    for name in names:
        count[name] += 1
        new = name
        while count[name] > 1 and new in taken:
            new = f"{name}~{count[name]}"
            count[name] += new in taken
        taken.add(new)
        unique.append(new)
    return pa.array(unique, pa.string())
