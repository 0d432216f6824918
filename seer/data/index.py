"""What makes plain tars addressable: one Parquet index per shard, and one manifest over all shards.

The specification is `shards/README.md`; this module is its schema, and reads and writes both kinds of file.
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
from seer.data.decode import image_suffixes
from seer.data.store import NotThereError, Url, place
from seer.errors import InputError, first_line, unreadable

FORMAT = "seer-shards/1"
MANIFEST = "manifest.parquet"
METADATA_KEY, SEAL_KEY = b"seer", b"sha256"
UNSEALED = b"0" * 64

MANIFEST_SCHEMA = pa.schema(
    [("shard", pa.string()), ("samples", pa.int64()), ("bytes", pa.int64()), ("sha256", pa.string())]
)
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
    ]
)


def index_path(shard: Any) -> Any:
    """`x.tar` → `x.index.parquet`, as a `Path` or `Url` (img2dataset keeps `x.parquet` for itself)."""
    return shard.with_suffix(".index.parquet")


def read_parquet(source: Path | str | bytes, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or its content, in this thread. Raises OSError or `pa.ArrowException`.

    Not by `pq.read_table`: its pool of threads may be letting go of Python's memory just when the interpreter ends,
    and that aborts the process.
    """
    whole = pa.BufferReader(source) if isinstance(source, bytes) else source
    with pq.ParquetFile(whole, pre_buffer=False) as file:
        if missing := set(columns or ()).difference(file.schema_arrow.names):
            raise pa.ArrowInvalid(f"it has no column {min(missing)}")
        return file.read(columns, use_threads=False)


def write_index(path: Path | str, rows: Iterable[Mapping] | pa.Table) -> None:
    """Write one shard's index, in the order of the samples in the tar. The file appears whole or not at all."""
    _write(Path(path), rows, INDEX_SCHEMA)


def read_index(path: Path | Url | str, columns: list[str] | None = None) -> pa.Table:
    """Read one shard's index, or some of its columns. Raises `InputError` if it is missing or unreadable."""
    try:
        return read_parquet(path.read_bytes() if isinstance(path, Url) else path, columns)
    except (OSError, pa.ArrowException, NotThereError) as error:
        raise InputError(f"{path} is no readable index ({first_line(error)}); run: seer shards index") from error


def write_manifest(directory: Path | str, rows: Iterable[Mapping] | pa.Table, metadata: Mapping) -> None:
    """Write the manifest of the shards in `directory`; `metadata` holds `classes` (or None) and `build`."""
    note = json.dumps({"format": FORMAT, "classes": None, "build": {}, **metadata}, sort_keys=True)
    schema = MANIFEST_SCHEMA.with_metadata({METADATA_KEY: note.encode()})
    _write(Path(directory) / MANIFEST, rows, schema)


class Manifest:
    """The shards of a data set, in the order that global sample ids count through.

    Attributes:
        directory: where the shards lie: a `Path`, or a `Url` of a store.
        shards: file names. sizes, bytes: `(shards,)` int64, samples and length of each tar. digests: its hex sha256.
        classes: class names, if the samples are labelled. build: how the shards were made.
    """

    def __init__(self, directory: Path | Url, table: pa.Table):
        note = json.loads((table.schema.metadata or {})[METADATA_KEY])
        self.directory: Any = directory
        self.table = table
        self.format: str = note["format"]
        self.classes: list[str] | None = note.get("classes")
        self.build: dict = note.get("build", {})
        self.shards: list[str] = table["shard"].to_pylist()
        self.sizes: np.ndarray = table["samples"].to_numpy().astype(np.int64)
        self.bytes: np.ndarray = table["bytes"].to_numpy().astype(np.int64)
        self.digests: list[str] = table["sha256"].to_pylist()

    @classmethod
    def load(cls, url: Path | str) -> "Manifest":
        """Read the manifest of shards in a folder or a store. Raises `InputError` that says what is there instead."""
        path = place(url)
        path = path if path.name == MANIFEST else path / MANIFEST
        if isinstance(path, Path) and not path.is_file():
            raise InputError(_what_is_there_instead(path.parent))
        try:
            content = path.read_bytes()
        except NotThereError as error:
            raise InputError(
                f"{error}; if only tars are there, run seer shards index *.tar where they can be written, and upload "
                f"{MANIFEST} and the *.index.parquet that it writes"
            ) from error
        try:
            check_seal(content)
            manifest = cls(path.parent, read_parquet(content))
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise InputError(
                f"{path} is no readable manifest ({first_line(error)}); run: seer shards index {path.parent}/*.tar"
            ) from error
        if manifest.format != FORMAT:
            raise InputError(f"{path} has format {manifest.format}, this seer reads {FORMAT}; update seer")
        if manifest.samples == 0:
            raise InputError(f"{path} lists no samples; rebuild it: seer shards build SOURCE --out {path.parent}")
        return manifest

    def save(self, directory: Path | str) -> None:
        """Write a copy of it, as a run keeps one: what the run saw can be told when the data are gone."""
        write_manifest(directory, self.table, {"classes": self.classes, "build": self.build})

    @property
    def samples(self) -> int:
        """N, the number of samples."""
        return int(self.sizes.sum())

    def check_size(self, shard: int, found: int | None) -> None:
        """Raise `InputError` if a tar has not the length (None: not known) that it had when it was indexed."""
        if found is not None and found != self.bytes[shard]:
            raise InputError(
                f"{self.directory / self.shards[shard]} has {found} bytes and had {self.bytes[shard]} when it was "
                "indexed; restore it, or run: seer shards index"
            )

    @cached_property
    def hash(self) -> str:
        """16 hex digits that change with the content or order of the shards, not with where they lie."""
        content = list(zip(self.shards, self.sizes.tolist(), self.digests, strict=True))
        return hashlib.sha256(json.dumps([content, self.classes]).encode()).hexdigest()[:16]


def _write(path: Path, rows: Iterable[Mapping] | pa.Table, schema: pa.Schema) -> None:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=schema)
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema) as writer:
        writer.write_table(table.cast(schema))
        writer.add_key_value_metadata({SEAL_KEY: UNSEALED})
    with files.replacing(path) as beside:
        beside.write_bytes(_sealed(buffer.getvalue()))


def _sealed(content: bytes) -> bytes:
    """The file with its own SHA-256 in the metadata. Parquet has checksums of pages only, and much lies outside."""
    return hashlib.sha256(content).hexdigest().encode().join(content.rsplit(UNSEALED, 1))


def check_seal(content: bytes) -> None:
    """Raise `ValueError` unless every bit of an index or manifest is as it was written.

    Its metadata hold, under `sha256`, the hex digest of the file with 64 zeros in the digest's place.
    """
    seal = (pq.read_metadata(pa.BufferReader(content)).metadata or {}).get(SEAL_KEY, b"")
    if not seal:
        raise ValueError("it has no seal: an older seer wrote it, or it is damaged")
    if hashlib.sha256(UNSEALED.join(content.rsplit(seal, 1))).hexdigest().encode() != seal:
        raise ValueError("its seal is broken: some of its bits are not as they were written")


def _what_is_there_instead(directory: Path) -> str:
    if not directory.exists():
        return f"{directory} does not exist; give a directory of shards, made by: seer shards build SOURCE --out DIR"
    if not directory.is_dir():
        return f"{directory} is a file; give the directory that holds the shards"
    tree = os.walk(directory, onerror=unreadable)
    names = list(islice((name.lower() for _, _, files in tree for name in files), 10_000))
    if not names:
        return f"{directory} is empty; put shards there: seer shards build SOURCE --out {directory}"
    if any(name.endswith(".tar") for name in names):
        return f"{directory} holds tars without a manifest; run: seer shards index {directory}/*.tar"
    if any(Path(name).suffix in image_suffixes() for name in names):
        return f"{directory} holds images, not shards; run: seer shards build {directory} --out SHARDS"
    return f"{directory} holds no {MANIFEST} and no images; give a directory made by: seer shards build"
