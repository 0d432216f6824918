"""What makes plain tars addressable: one Parquet index per shard, and one manifest over all shards.

The specification is `shards/README.md`; this module is its schema, and reads and writes both kinds
of file.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seer import files
from seer.data.decoding.decode import image_suffixes
from seer.data.storage.store import NotThereError, Url, place
from seer.data.storage.tables import TableFormat
from seer.errors import InputError, first_line, quoted, unreadable
from seer.inputs import UnreadableError, parse_json, read_bytes
from seer.schema import (
    DIGEST,
    SUFFIX,
    FileName,
    Integer,
    ListOf,
    MapOf,
    Maybe,
    MismatchError,
    Plain,
    Record,
    Text,
)

FORMAT = "seer-shards/1"
MANIFEST = "manifest.parquet"
METADATA_KEY, SEAL_KEY = b"seer", b"sha256"
UNSEALED = b"0" * 64

# What a stranger's data set may claim at most; memory and the sums of claims stay within bounds by
# it.
MOST_SHARDS, MOST_SAMPLES = 2**20, 2**23  # of a data set; of a shard
LARGEST_TAR, LARGEST_IMAGE = 2**42, 2**29  # bytes
MOST_CLASSES = 2**20
MOST_EXTRAS = 2**24  # of all samples of a shard
LARGEST_TABLE = 2**30  # bytes of a manifest's or an index's file

MANIFEST_SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("samples", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
    ]
)
EXTRAS = "extras"
EXTRA = pa.struct([("suffix", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])
INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # the WebDataset key: member name without its extensions
        ("source", pa.string()),  # path of the original, relative to the folder it came from
        ("offset", pa.int64()),  # of the image's first byte in the tar
        ("size", pa.int64()),  # of the image in bytes
        ("width", pa.int32()),  # after EXIF orientation
        ("height", pa.int32()),
        ("format", pa.string()),  # Pillow's name
        ("sha256", pa.binary(32)),
        pa.field("phash", pa.uint64(), nullable=True),
        pa.field("label", pa.int32(), nullable=True),
        # The sample's other members, which earlier versions did not enter.
        pa.field(EXTRAS, pa.list_(EXTRA), nullable=True),
    ]
)

SHARD = FileName(".tar")
FIRST = "first"  # of a build: only so many of its samples are meant
NOTE = Record(
    {"format": Text(64)},
    {
        "classes": Maybe(ListOf(Text(4096), MOST_CLASSES)),
        "build": Record(
            {},
            {
                "options": MapOf(Plain()),
                "sources": ListOf(Plain()),
                "samples": Integer(0),
                "listing": Text(),
                "quarantined": MapOf(Integer(0)),
                "ignored": MapOf(Integer(0)),
                "removed": Integer(0),
                FIRST: Integer(1),
            },
        ),
    },
)
MANIFEST_FORMAT = TableFormat(
    MANIFEST_SCHEMA,
    {
        "shard": SHARD,
        "samples": Integer(0, MOST_SAMPLES),
        "bytes": Integer(0, LARGEST_TAR),
        "sha256": DIGEST,
    },
    MOST_SHARDS,
)
INDEX_FORMAT = TableFormat(
    INDEX_SCHEMA,
    {
        "key": Text(2**20),
        "source": Text(2**20),
        "offset": Integer(0, LARGEST_TAR),
        "size": Integer(0, LARGEST_IMAGE),
        "width": Integer(1, 2**31 - 1),
        "height": Integer(1, 2**31 - 1),
        "format": Text(64),
        "sha256": Plain(),  # 32 bytes, by its type
        "phash": Maybe(Plain()),
        "label": Maybe(Integer(0, 2**31 - 1)),
        EXTRAS: Maybe(
            ListOf(
                Record(
                    {
                        "suffix": SUFFIX,
                        "offset": Integer(0, LARGEST_TAR),
                        "size": Integer(0, LARGEST_IMAGE),
                    },
                    extra=None,
                ),
                MOST_EXTRAS,
            )
        ),
    },
    MOST_SAMPLES,
    most_items=MOST_EXTRAS,
    optional=frozenset([EXTRAS]),
)


def index_path(shard: Any) -> Any:
    """`x.tar` → `x.index.parquet`, as a `Path` or `Url` (img2dataset keeps `x.parquet` for itself)."""
    return shard.with_suffix(".index.parquet")


def write_index(path: Path | str, rows: Iterable[Mapping] | pa.Table) -> None:
    """Write one shard's index, in the order of the samples in the tar. The file appears whole or
    not at all.
    """
    _write(Path(path), rows, INDEX_SCHEMA)


def read_index(path: Path | Url | str, columns: list[str] | None = None) -> pa.Table:
    """Read one shard's index, or some of its columns. Raises `InputError` if it is missing, damaged
    or forged.

    What it says of a tar is compared with the manifest by `Manifest.index`.
    """
    try:
        content = _content(path)
        return parse_index(content, columns)
    except (OSError, MismatchError, NotThereError) as error:
        raise InputError(
            f"{path} is no readable index ({first_line(error)}); run: seer shards index"
        ) from error


def _content(path: Path | Url | str) -> bytes:
    return (
        path.read_bytes(LARGEST_TABLE)
        if isinstance(path, Url)
        else read_bytes(Path(path), LARGEST_TABLE)
    )


def parse_index(content: bytes, columns: list[str] | None = None) -> pa.Table:
    """An index out of its file's content, whose seal is whole. Raises `MismatchError`."""
    check_seal(content)
    return INDEX_FORMAT.parse(content, columns)


def write_manifest(
    directory: Path | str, rows: Iterable[Mapping] | pa.Table, metadata: Mapping
) -> None:
    """Write the manifest of the shards in `directory`; `metadata` holds `classes` (or None) and
    `build`.
    """
    note = json.dumps({"format": FORMAT, "classes": None, "build": {}, **metadata}, sort_keys=True)
    schema = MANIFEST_SCHEMA.with_metadata({METADATA_KEY: note.encode()})
    _write(Path(directory) / MANIFEST, rows, schema)


class Manifest:
    """The shards of a data set, in the order that global sample ids count through.

    Attributes:
        directory: where the shards lie: a `Path`, or a `Url` of a store.
        shards: file names. sizes, bytes: `(shards,)` int64, samples and length of each tar. digests: its hex sha256.
        is_part: whether it is of some of the samples of its shards.
        classes: class names, if the samples are labelled. build: how the shards were made.
    """

    is_part = False

    def __init__(self, directory: Path | Url, table: pa.Table):
        note = _note(table)
        self.directory: Any = directory
        self.table = table
        self.classes: list[str] | None = note.get("classes")
        self.build: dict = note.get("build", {})
        self.shards: list[str] = table["shard"].to_pylist()
        self.sizes: np.ndarray = table["samples"].to_numpy().astype(np.int64)
        self.bytes: np.ndarray = table["bytes"].to_numpy().astype(np.int64)
        self.digests: list[str] = table["sha256"].to_pylist()
        if len(set(self.shards)) < len(self.shards):
            raise MismatchError("shard", "it names a shard twice")

    @classmethod
    def load(cls, url: Path | str) -> "Manifest":
        """Read the manifest of shards in a folder or a store. Raises `InputError` that says what is
        there instead.
        """
        path = place(url)
        path = path if path.name == MANIFEST else path / MANIFEST
        if isinstance(path, Path) and not path.is_file():
            raise InputError(_what_is_there_instead(path.parent))
        try:
            content = _content(path)
        except NotThereError as error:
            raise InputError(
                f"{error}; if only tars are there, run seer shards index *.tar where they can be written, and upload "
                f"{MANIFEST} and the *.index.parquet that it writes"
            ) from error
        try:
            manifest = cls(path.parent, parse_manifest(content))
        except MismatchError as error:
            remedy = f"run: seer shards index {quoted(path.parent)}"
            if isinstance(path, Url):
                remedy = (
                    "run seer shards index where the tars can be written, "
                    f"and upload the {MANIFEST} that it writes"
                )
            raise InputError(f"{path} is no readable manifest ({error}); {remedy}") from error
        except NewerError as error:
            raise InputError(
                f"{path} has format {error}, this seer reads {FORMAT}; update seer"
            ) from error
        if manifest.samples == 0:
            raise InputError(
                f"{path} lists no samples; rebuild it: seer shards build SOURCE --out {quoted(path.parent)}"
            )
        return manifest

    def index(self, shard: int, columns: list[str] | None = None) -> pa.Table:
        """The index of a shard, or some of its columns, as the manifest has it.

        Without `extras` if an earlier version wrote it.

        Raises:
            InputError: it is unreadable, has another number of samples, or one outside the tar or its classes.
        """
        path = index_path(self.directory / self.shards[shard])
        wanted = columns or INDEX_SCHEMA.names
        places = {"offset", "size"} & set(wanted) and {"offset", "size"}
        table = read_index(path, list(dict.fromkeys([*wanted, *sorted(places)])))
        if FIRST in self.build:
            table = table.slice(0, int(self.sizes[shard]))
        if problem := self._contradiction(shard, table):
            raise InputError(f"{path} {problem}; run: seer shards index")
        return table.select([name for name in wanted if name in table.column_names])

    def _contradiction(self, shard: int, table: pa.Table) -> str:
        """How an index contradicts the manifest; "" if it does not."""
        if len(table) != self.sizes[shard]:
            return f"has {len(table)} samples and the manifest says {self.sizes[shard]}"
        if not len(table):
            return ""
        if "offset" in table.column_names:
            ends = table["offset"].to_numpy() + table["size"].to_numpy()
            if ends.max() > self.bytes[shard]:
                return (
                    f"has a sample that ends at byte {ends.max()} of a tar of {self.bytes[shard]}"
                )
        if EXTRAS in table.column_names:
            extras = table[EXTRAS].combine_chunks().flatten()
            ends = extras.field("offset").to_numpy() + extras.field("size").to_numpy()
            if ends.max(initial=0) > self.bytes[shard]:
                return (
                    f"has a member that ends at byte {ends.max()} of a tar of {self.bytes[shard]}"
                )
        if "label" in table.column_names and self.classes is not None:
            label = table["label"].fill_null(-1).to_numpy().max()
            if label >= len(self.classes):
                return f"has a label {label}, and the manifest {len(self.classes)} classes"
        return ""

    def save(self, directory: Path | str) -> None:
        """Write a copy of it, as a run keeps one: what the run saw can be told when the data are
        gone.
        """
        write_manifest(directory, self.table, {"classes": self.classes, "build": self.build})

    def first(self, count: int) -> "Manifest":
        """That of the first `count` samples alone, which are other data: no image of the others is
        read. What `seer shards build` wrote is mixed, so that they are a random part.
        """
        starts = np.cumsum(self.sizes) - self.sizes
        sizes = np.clip(count - starts, 0, self.sizes)
        kept = int((sizes > 0).sum())
        column = self.table.schema.get_field_index("samples")
        field = self.table.schema.field(column)
        table = self.table.slice(0, kept)
        table = table.set_column(column, field, pa.array(sizes[:kept], field.type))
        note = {**_note(self.table), "build": {**self.build, FIRST: count}}
        metadata = {**(table.schema.metadata or {}), METADATA_KEY: json.dumps(note).encode()}
        return Manifest(self.directory, table.replace_schema_metadata(metadata))

    def chosen(self, shard: int, values: list) -> list:
        """Of a value for each row of a shard's index those that count: all; see `subset.Subset`."""
        return values

    @property
    def image_bytes(self) -> float:
        """Of a sample, on average."""
        return float(self.bytes.sum() / self.samples)

    @property
    def samples(self) -> int:
        """N, the number of samples."""
        return int(self.sizes.sum())

    def check_size(self, shard: int, found: int | None) -> None:
        """Raise `InputError` if a tar has not the length (None: not known) that it had when it was
        indexed.
        """
        if found is not None and found != self.bytes[shard]:
            raise InputError(
                f"{self.directory / self.shards[shard]} has {found} bytes and had {self.bytes[shard]} when it was "
                "indexed; restore it, or run: seer shards index"
            )

    @cached_property
    def hash(self) -> str:
        """16 hex digits that change with the content or order of the shards, not with where they
        lie.
        """
        content = list(zip(self.shards, self.sizes.tolist(), self.digests, strict=True))
        return hashlib.sha256(json.dumps([content, self.classes]).encode()).hexdigest()[:16]


def parse_manifest(content: bytes) -> pa.Table:
    """A manifest out of its file's content, whose seal is whole. Raises `MismatchError`, or
    `NewerError`.
    """
    check_seal(content)
    table = MANIFEST_FORMAT.parse(content)
    _note(table)
    return table


class NewerError(ValueError):
    """A format that this version does not read."""


def _note(table: pa.Table) -> dict[str, Any]:
    """What a manifest says besides its rows."""
    text = (table.schema.metadata or {}).get(METADATA_KEY)
    if text is None:
        raise MismatchError("", "its metadata have no 'seer'")
    try:
        version = parse_json(text, Record({"format": Text(64)}), "its metadata")["format"]
        if version != FORMAT:
            raise NewerError(ascii(version))
        return parse_json(text, NOTE, "its metadata")
    except UnreadableError as error:
        raise MismatchError("", str(error)) from None


def _write(path: Path, rows: Iterable[Mapping] | pa.Table, schema: pa.Schema) -> None:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=schema)
    buffer = io.BytesIO()
    # Of texts that differ from row to row, a dictionary makes a larger file that takes longer to
    # read.
    repeating = ["format", f"{EXTRAS}.list.element.suffix"]
    with pq.ParquetWriter(buffer, schema, use_dictionary=repeating) as writer:
        writer.write_table(table.cast(schema))
        writer.add_key_value_metadata({SEAL_KEY: UNSEALED})
    with files.replacing(path) as beside:
        beside.write_bytes(_sealed(buffer.getvalue()))


def _sealed(content: bytes) -> bytes:
    """The file with its own SHA-256 in the metadata. Parquet has checksums of pages only, and much
    lies outside.
    """
    return hashlib.sha256(content).hexdigest().encode().join(content.rsplit(UNSEALED, 1))


def check_seal(content: bytes) -> None:
    """Raise `MismatchError` unless every bit of an index or manifest is as it was written.

    Its metadata hold, under `sha256`, the hex digest of the file with 64 zeros in the digest's
    place.
    """
    try:
        seal = (pq.read_metadata(pa.BufferReader(content)).metadata or {}).get(SEAL_KEY, b"")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise MismatchError("", first_line(error)) from None
    if not seal:
        raise MismatchError("", "it has no seal: an older seer wrote it, or it is damaged")
    if hashlib.sha256(UNSEALED.join(content.rsplit(seal, 1))).hexdigest().encode() != seal:
        raise MismatchError("", "its seal is broken: some of its bits are not as they were written")


def _what_is_there_instead(directory: Path) -> str:
    if not directory.exists():
        return f"{directory} does not exist; give a directory of shards, made by: seer shards build SOURCE --out DIR"
    if not directory.is_dir():
        return f"{directory} is a file; give the directory that holds the shards"
    tree = os.walk(directory, onerror=unreadable)
    names = list(islice((name.lower() for _, _, files in tree for name in files), 10_000))
    if not names:
        return f"{directory} is empty; put shards there: seer shards build SOURCE --out {quoted(directory)}"
    if any(name.endswith(".tar") for name in names):
        return (
            f"{directory} holds tars without a manifest; run: seer shards index {quoted(directory)}"
        )
    if any(Path(name).suffix in image_suffixes() for name in names):
        return f"{directory} holds images, not shards; run: seer shards build {quoted(directory)} --out SHARDS"
    return f"{directory} holds no {MANIFEST} and no images; give a directory made by: seer shards build"
