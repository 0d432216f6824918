"""Folders and tars into shards: in parallel, restartable at any moment, and the same bytes whatever happened.

The listed samples are put in a fixed random order and cut into blocks of `shard_size`. One block makes one shard, less
what is quarantined, so that a shard depends on nothing but its block: any number of processes may write them in any
order, and a shard that a killed build had not finished is simply written again.
"""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seer.data.hashing import mix
from seer.data.index import MANIFEST, Manifest, write_manifest
from seer.errors import InputError
from shards import pool, prune, quarantine, state
from shards.dedup import IN_EVALUATION, DedupOptions
from shards.quarantine import counts
from shards.sources import Listing, scan
from shards.state import Progress
from shards.writer import ShardTask, write_shard

MAX_CLASSES = 1 << 20


@dataclass(frozen=True)
class BuildOptions:
    """How to build. Everything but `workers` is part of a build's identity.

    Attributes:
        shard_size: samples per shard, before quarantine.
        workers: processes; 0 for one per core.
        labels: the folder directly below each source is the class of what it holds.
        max_side: pixels; images whose longer side exceeds it are made smaller, to JPEG (quality 95 or `reencode`).
        reencode: JPEG quality, 1 to 100, at which every image is encoded anew; None keeps the original bytes.
        shuffle: put the samples in a fixed random order, so that a class folder does not fill whole shards; without
            it they stay in the order of their names, which reads huge tars from front to back.
        dedup: which duplicates, and images of other data sets, to leave out.
    """

    shard_size: int = 10_000
    workers: int = 0
    labels: bool = False
    max_side: int | None = None
    reencode: int | None = None
    shuffle: bool = True
    dedup: DedupOptions = field(default_factory=DedupOptions)

    def check(self) -> None:
        """Raise InputError for a value out of range."""
        limits = {"shard_size": (1, None), "workers": (0, None), "max_side": (1, None), "reencode": (1, 100)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is not None and (value < low or (high is not None and value > high)):
                bounds = f"from {low} to {high}" if high else f"at least {low}"
                raise InputError(f"--{name.replace('_', '-')} {value}: must be {bounds}")
        self.dedup.check()

    def identity(self) -> dict[str, Any]:
        """The options that a build's result depends on."""
        own = {name: value for name, value in asdict(self).items() if name not in ("workers", "dedup")}
        return {**own, **self.dedup.identity()}


@dataclass(frozen=True)
class BuildReport:
    """What a build made. `quarantined` and `ignored` count by reason and by suffix."""

    out: str
    shards: int
    samples: int
    bytes: int
    quarantined: dict[str, int]
    ignored: dict[str, int]
    classes: list[str] | None
    already_complete: bool
    continued: int  # shards that an earlier, interrupted run had finished
    seconds: float

    def lines(self) -> list[str]:
        """The report for a terminal."""
        done = "already complete, nothing to do: " if self.already_complete else ""
        lines = [f"{done}{self.samples:,} images in {self.shards:,} shards, {self.bytes / 1e6:,.1f} MB, in {self.out}"]
        if self.continued:
            lines.append(f"continued an interrupted build: {self.continued:,} shards were there")
        if self.classes:
            lines.append(f"{len(self.classes):,} classes")
        if self.quarantined:
            where = Path(self.out, quarantine.QUARANTINE)
            lines.append(f"{sum(self.quarantined.values()):,} quarantined ({counts(self.quarantined)}): see {where}")
        if found := self.quarantined.get(IN_EVALUATION):
            where = Path(self.out, prune.CONTAMINATION)
            lines.append(f"contamination: {found:,} images are in an evaluation set and were left out: see {where}")
        if self.ignored:
            lines.append(f"{sum(self.ignored.values()):,} files ignored that are no images ({counts(self.ignored)})")
        if not self.already_complete and self.seconds:
            lines.append(f"{self.seconds:.1f} s, {self.samples / self.seconds:,.0f} images/s")
        return lines


def build(
    sources: Sequence[str | Path],
    out: str | Path,
    options: BuildOptions = BuildOptions(),
    progress: Progress | None = None,
) -> BuildReport:
    """Make shards in `out` from folders of images and WebDataset tars, or continue the build that `out` holds.

    Args:
        sources: folders (any depth) and tars.
        out: a new or empty folder, or one with the same build, unfinished or complete.
        progress: called with samples done and in all, a few times per second.

    Raises:
        InputError: a source is missing, unreadable or without one usable image; `out` holds something else or is being
            built by another process; the disk is full. Nothing that was there is changed.
    """
    started, out = time.monotonic(), Path(out)
    options.check()
    plan: dict[str, Any] = {"options": options.identity(), "sources": [os.path.abspath(source) for source in sources]}
    state.refuse_another(out, plan)  # before the long look through the sources
    listing = scan(sources, options.labels, skip=out)
    plan |= {"samples": len(listing.table), "listing": listing.fingerprint}
    state.refuse_another(out, plan)
    complete, continued = state.is_complete(out), 0
    if not complete or (out / state.STATE).exists():
        with state.locked(out):
            state.refuse_another(out, plan)  # another process may have begun, or even ended, meanwhile
            complete = state.is_complete(out)
            if not complete:
                with state.writing(out):
                    state.begin(out, plan)
                    prune.settle(out)
                    continued = _write_shards(listing, out, options, progress or (lambda done, total: None))
                    shards = _shard_names(len(listing.table), options.shard_size)
                    prune.prune(out, shards, options.dedup, options.workers)
                    _finish(out, plan, listing)
            state.end(out)
    return _report(out, complete, continued, time.monotonic() - started)


def _write_shards(listing: Listing, out: Path, options: BuildOptions, progress: Progress) -> int:
    """Write what is missing; returns the number of shards that were there."""
    total, size = len(listing.table), options.shard_size
    names = _shard_names(total, size)
    missing = [number for number, name in enumerate(names) if state.record_of(out, name) is None]
    done = total - sum(min(size, total - number * size) for number in missing)
    workers = options.workers or pool.cores()
    processes = min(workers, len(missing))
    threads = math.ceil(workers / max(processes, 1))  # fewer shards than cores: threads share a shard

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    tick(0)
    order = np.argsort(mix(np.arange(total)), kind="stable") if options.shuffle else np.arange(total)
    tasks = (_task(listing, out, names[n], order[n * size : (n + 1) * size], options, threads) for n in missing)
    for _ in pool.run(write_shard, tasks, processes, tick):
        pass
    return len(names) - len(missing)


def _shard_names(samples: int, shard_size: int) -> list[str]:
    return [f"shard-{number:06d}.tar" for number in range(math.ceil(samples / shard_size))]


def _task(listing: Listing, out: Path, shard: str, block: np.ndarray, options: BuildOptions, threads: int) -> ShardTask:
    rows = listing.table.take(pa.array(block)).to_pylist()
    labels = {name: label for label, name in enumerate(listing.classes or [])}
    for row in rows:
        row["label"] = labels.get(row.pop("class"))
    containers = {number: listing.containers[number] for number in {row["container"] for row in rows}}
    return ShardTask(out, shard, rows, containers, options.max_side, options.reencode, threads)


def _finish(out: Path, plan: dict[str, Any], listing: Listing) -> None:
    """Gather the shards' records: quarantine first, and last the manifest, which makes the build complete."""
    names = _shard_names(len(listing.table), plan["options"]["shard_size"])
    records = [record for name in names if (record := state.record_of(out, name)) is not None]
    assert len(records) == len(names), "a shard was written without its record"
    entries = listing.quarantine + [entry for record in records for entry in record["quarantine"]]
    reasons = quarantine.tally(entries)
    shards = [record for record in records if record["samples"]]
    if not shards:
        state.end(out)
        first = f"{entries[0]['source']}: {entries[0]['reason']}"
        raise InputError(f"none of {len(listing.table):,} images is usable: {counts(reasons)}; for example {first}")
    quarantine.write(out, entries)
    prune.write_contamination(out, records)
    ignored = dict(sorted(listing.ignored.items()))
    classes = listing.classes or _classes_of_tars(listing, max(record["labels"] for record in records))
    rows = ({key: record[key] for key in ("shard", "samples", "bytes", "sha256")} for record in shards)
    write_manifest(out, rows, state.sealed(classes, {**plan, "quarantined": reasons, "ignored": ignored}))


def _classes_of_tars(listing: Listing, labels: int) -> list[str] | None:
    """Names for labels below `labels` found in `.cls` members: those that all the tars' manifests give, or digits."""
    if not 0 < labels <= MAX_CLASSES:
        return None
    folders = sorted({os.path.dirname(container.path) for container in listing.containers if container.is_tar})
    named = [Manifest.load(folder).classes if Path(folder, MANIFEST).exists() else None for folder in folders]
    first = named[0]
    if first is not None and len(first) >= labels and all(classes == first for classes in named):
        return first
    return [str(label) for label in range(labels)]


def _report(out: Path, complete: bool, continued: int, seconds: float) -> BuildReport:
    manifest = Manifest.load(out)
    if gone := [shard for shard in manifest.shards if not (out / shard).exists()]:
        raise InputError(f"{out} lacks {gone[0]}, which its manifest names; put it back, or delete {out} and rebuild")
    made = manifest.build
    return BuildReport(
        out=str(out),
        shards=len(manifest.shards),
        samples=manifest.samples,
        bytes=sum(pq.read_table(out / MANIFEST, columns=["bytes"])["bytes"].to_pylist()),
        quarantined=made["quarantined"],
        ignored=made["ignored"],
        classes=manifest.classes,
        already_complete=complete,
        continued=continued,
        seconds=seconds,
    )
