"""One block of listed samples to one shard: tar, index and record, in this order."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from seer.data.decoding.decode import DamagedImage
from seer.data.storage.index import index_path, write_index
from shards import pool
from shards.archives.tars import TarWriter
from shards.options import DownloadOptions
from shards.records import state
from shards.records.quarantine import Entry
from shards.sources.listing import Container
from shards.sources.policy import Policy
from shards.sources.samples import Extra, Sample, fit, load


@dataclass(frozen=True)
class ShardTask:
    """One block of the listing, to be made into one shard. `rows` are of the listing, with `label`
    for `class`.
    """

    out: Path
    shard: str
    rows: list[dict[str, Any]]
    containers: dict[int, Container]
    policy: Policy
    threads: int
    download: DownloadOptions


def write_shard(
    task: ShardTask, tick: pool.Tick, loaded: Iterator[Sample | Entry] | None = None
) -> None:
    """Write one shard, then its index, then the record that makes both count.

    Args:
        loaded: what has come of the task's rows, in their order; None reads them now.
    """
    path = task.out / task.shard
    temporary = task.out / state.STATE / f".{task.shard}.{os.getpid()}"
    with state.writing(task.out):
        try:
            with open(temporary, "wb") as file:
                rows, record = _fill(task, file, tick, loaded or _loaded(task))
                file.flush()
                os.fsync(file.fileno())
            if rows:
                os.replace(temporary, path)
                write_index(index_path(path), rows)
            state.write_record(task.out, record)
        finally:
            temporary.unlink(missing_ok=True)


def _fill(
    task: ShardTask, file: BinaryIO, tick: pool.Tick, found: Iterator[Sample | Entry]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Write the members; returns the rows of the index, and the record."""
    writer = TarWriter(file)
    rows = list[dict[str, Any]]()
    quarantine = list[Entry]()
    for loaded in found:
        if isinstance(loaded, Sample):
            rows.append(_write(writer, loaded))
        else:
            quarantine.append(loaded)
        tick(1)
    writer.close()
    record = {
        "shard": task.shard,
        "samples": len(rows),
        "bytes": writer.bytes,
        "sha256": writer.sha256.hexdigest(),
        "labels": max((row["label"] + 1 for row in rows if row["label"] is not None), default=0),
        "quarantine": quarantine,
    }
    return rows, record


def _loaded(task: ShardTask) -> Iterator[Sample | Entry]:
    if task.threads == 1:
        yield from map(partial(attempt, task), task.rows)
        return
    with ThreadPoolExecutor(task.threads) as executor:
        yield from pool.ahead(executor, partial(attempt, task), task.rows, 4 * task.threads)


def attempt(task: ShardTask, row: dict[str, Any], data: bytes | None = None) -> Sample | Entry:
    """The sample of a row, or why there is none. `data` is an image that was downloaded."""
    container = task.containers[row["container"]]
    try:
        return load(row, container, partial(fit, policy=task.policy), data)
    except DamagedImage as damage:
        return {"source": container.source_of(row["name"]), "reason": damage.reason}


def _write(writer: TarWriter, sample: Sample) -> dict[str, Any]:
    members = list[Extra]()
    for suffix, data in sample.members:
        offset = writer.add(f"{sample.key}.{suffix}", data)
        members.append({"suffix": suffix, "offset": offset, "size": len(data)})
    image, *extras = members
    return sample.index_row(image["offset"], extras)
