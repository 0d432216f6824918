"""Images as their hashes alone: what duplicates are looked for in."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from seer.data.decoding.decode import DamagedImage, decode
from seer.data.storage.index import MANIFEST, Manifest, index_path, read_index
from seer.errors import InputError, quoted
from seer.inputs import UnreadableError, parse_json, read_text
from seer.schema import Maybe, Record, Text
from shards import pool
from shards.dedup.alike import SIDE, thumbnail
from shards.sources.listing import Container
from shards.sources.phash import FEATURELESS
from shards.sources.samples import fit, load, look
from shards.sources.scan import scan

IMAGES_PER_TASK = 256
LARGEST_LIST = 2**32  # bytes
REFUSED = Record(
    {"sha256": Text(64, 64, "[0-9a-fA-F]{64}", "64 hex digits (a SHA-256)")},
    {"key": Maybe(Text(2**20))},
)


class Task(NamedTuple):
    """Rows of `shards.sources.scan.LISTING`, as far as reading needs them, and the containers that
    they are in.
    """

    rows: list[dict[str, Any]]
    containers: dict[int, Container]


class Hashes(NamedTuple):
    """One image: a name, the SHA-256 of its bytes, and its perceptual hash, `FEATURELESS` if not
    known.
    """

    name: str
    sha256: bytes
    phash: int


@dataclass
class Known:
    """Images in their order: 24 bytes of memory each, and their names on demand.

    Attributes:
        name: where they are, for messages.
        digests: `(N, 2)` uint64, the first half of each SHA-256.
        hashes: `(N,)` uint64 of `shards.sources.phash`; `FEATURELESS` also where it is not known.
        names: the names at `(n,)` increasing places.
        tasks: what `thumbnails_of` needs to read the images at `(n,)` increasing places, in their order.
    """

    name: str
    digests: np.ndarray
    hashes: np.ndarray
    names: Callable[[np.ndarray], pa.Array]
    tasks: Callable[[np.ndarray], Iterator[Task]] = lambda places: iter(())

    def __len__(self) -> int:
        return len(self.hashes)


def of_shards(
    directory: Path, shards: Sequence[str], sizes: Sequence[int], need_phash: bool = True
) -> Known:
    """The images of some shards. Raises InputError if an index is unreadable or lacks the
    perceptual hashes needed.
    """
    ends = np.cumsum([0, *sizes])
    try:
        digests = np.empty((ends[-1], 2), np.uint64)
        hashes = np.empty(ends[-1], np.uint64)
    except MemoryError:
        raise InputError(
            f"{directory} has {ends[-1]:,} images, whose hashes do not fit in memory"
        ) from None
    for shard, start, end in zip(shards, ends, ends[1:], strict=False):
        table = read_index(index_path(directory / shard), ["sha256", "phash"])
        if len(table) != end - start:
            raise InputError(
                f"{directory / shard} and its index differ; run: seer shards verify {quoted(directory)}"
            )
        if need_phash and table["phash"].null_count:
            raise InputError(
                f"{directory / shard} has no perceptual hashes; run: seer shards index {quoted(directory)}"
            )
        digests[start:end] = halves(table["sha256"])
        hashes[start:end] = table["phash"].fill_null(FEATURELESS).to_numpy()
    where = directory, shards, ends
    return Known(
        str(directory), digests, hashes, partial(keys_at, *where), partial(tasks_at, *where)
    )


def keys_at(
    directory: Path, shards: Sequence[str], ends: np.ndarray, places: np.ndarray
) -> pa.Array:
    """Keys of the samples at increasing places, when the shards are laid end to end; `ends` begins
    with 0.
    """
    tables = [
        table["key"].combine_chunks()
        for _, table in _rows_at(directory, shards, ends, places, ["key"])
    ]
    return pa.concat_arrays([pa.array([], pa.string()), *tables])


def tasks_at(
    directory: Path, shards: Sequence[str], ends: np.ndarray, places: np.ndarray
) -> Iterator[Task]:
    """How to read these samples."""
    for shard, table in _rows_at(directory, shards, ends, places, ["key", "offset", "size"]):
        containers = {0: Container(str(directory / shard), f"{shard}/", "tar")}
        for start in range(0, len(table), IMAGES_PER_TASK):
            rows = table.slice(start, IMAGES_PER_TASK).to_pylist()
            yield Task(
                [
                    {**row, "container": 0, "name": row["key"].encode(), "extras": []}
                    for row in rows
                ],
                containers,
            )


def _rows_at(
    directory: Path, shards: Sequence[str], ends: np.ndarray, places: np.ndarray, columns: list[str]
) -> Iterator[tuple[str, pa.Table]]:
    """Shard by shard, the rows of the index for samples at increasing places."""
    numbers = np.searchsorted(ends, places, side="right") - 1
    for rows in (
        np.split(np.arange(len(places)), np.flatnonzero(np.diff(numbers)) + 1)
        if len(places)
        else []
    ):
        number = numbers[rows[0]]
        table = read_index(index_path(directory / shards[number]), columns)
        yield shards[number], table.take(pa.array(places[rows] - ends[number]))


def of_dataset(path: Path, need_phash: bool = True, workers: int = 0) -> Known:
    """The images of a data set: shards with a manifest, or else a folder of images (any depth) or a
    tar.

    Raises InputError when there is nothing of the kind. Images that cannot be decoded are left out.
    """
    if (path / MANIFEST).exists():
        manifest = Manifest.load(path)
        return of_shards(path, manifest.shards, manifest.sizes.tolist(), need_phash)
    listing = scan([path])
    if listing.lists:
        raise InputError(f"{path} is a list; give shards, a folder of images, a tar or a zip")
    containers = dict(enumerate(listing.containers))
    tasks = list(_tasks(listing.table.to_pylist(), containers))
    found = dict(pool.run(_hash_images, enumerate(tasks), min(workers or pool.cores(), len(tasks))))
    images = [image for number in range(len(tasks)) for image in found[number]]
    usable = [
        (row, image)
        for row, image in zip((row for task in tasks for row in task.rows), images, strict=True)
        if image
    ]
    rows = [row for row, _ in usable]
    known = _of_hashes(path, [image for _, image in usable])
    known.tasks = lambda places: _tasks([rows[place] for place in places.tolist()], containers)
    return known


def _tasks(rows: list[dict[str, Any]], containers: dict[int, Container]) -> Iterator[Task]:
    for start in range(0, len(rows), IMAGES_PER_TASK):
        yield Task(rows[start : start + IMAGES_PER_TASK], containers)


def _hash_images(task: tuple[int, Task], tick: pool.Tick) -> tuple[int, list[Hashes | None]]:
    """The task's number and its images' hashes, None for those that cannot be decoded."""
    number, (rows, containers) = task
    images = list[Hashes | None]()
    for row in rows:
        try:
            sample = load(row, containers[row["container"]], fit)
            images.append(Hashes(sample.source, sample.sha256, sample.phash or FEATURELESS))
        except DamagedImage:
            images.append(None)
    return number, images


def thumbnails_of(task: tuple[int, Task], tick: pool.Tick) -> tuple[int, np.ndarray]:
    """The task's number and `(n, SIDE, SIDE)` thumbnails of its images, black where one cannot be
    decoded.
    """
    number, (rows, containers) = task
    pictures = np.zeros((len(rows), SIDE, SIDE), np.uint8)
    for picture, row in zip(pictures, rows, strict=True):
        with suppress(DamagedImage):
            picture[:] = thumbnail(
                decode(load(row, containers[row["container"]], look).members[0][1])
            )
    return number, pictures


def of_list(path: Path) -> Known:
    """The images that a file names by their hashes, as `read_hashes` understands it."""
    return _of_hashes(path, read_hashes(path))


def read_hashes(path: Path) -> list[Hashes]:
    """SHA-256 in hex, one per line, or JSON objects with `sha256`, as in `removed.jsonl`; empty
    lines are passed over.

    Raises:
        InputError: the file cannot be read, or a line is neither.
    """
    images = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            text = line if line.startswith("{") else json.dumps({"sha256": line})
            entry = parse_json(text, REFUSED, "")
        except UnreadableError:
            raise InputError(
                f"{path}, entry {number}: {line[:40]!r} is no SHA-256 of 64 hex digits"
            ) from None
        images.append(
            Hashes(entry.get("key") or line[:12], bytes.fromhex(entry["sha256"]), FEATURELESS)
        )
    return images


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without the empty ones. Raises InputError if it cannot be read or
    has none.
    """
    try:
        lines = [line.strip() for line in read_text(path, LARGEST_LIST).splitlines()]
    except FileNotFoundError as error:
        hint = "give a text file with one entry per line"
        raise InputError(f"{path} cannot be read ({error.strerror}); {hint}") from None
    lines = [line for line in lines if line]
    if not lines:
        raise InputError(f"{path} is empty; give a text file with one entry per line")
    return lines


def _of_hashes(path: Path, images: list[Hashes]) -> Known:
    digests = pa.array([image.sha256 for image in images], pa.binary(32))
    hashes = np.array([image.phash for image in images], np.uint64)
    names = pa.array([image.name for image in images], pa.string())
    return Known(str(path), halves(digests), hashes, lambda places: names.take(pa.array(places)))


def halves(digests: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """`(N, 2)` uint64, the first 16 bytes of each."""
    array = digests.combine_chunks() if isinstance(digests, pa.ChunkedArray) else digests
    words = np.frombuffer(array.buffers()[1], np.uint64).reshape(-1, 4)
    return words[array.offset : array.offset + len(array), :2]
