"""Folders, archives and lists of URLs into shards: in parallel, restartable at any moment, the same
bytes whatever happened.

The listed samples are put in a fixed random order and cut into blocks of `shard_size`. One block
makes one shard, less what is quarantined, so that a shard depends on nothing but its block: any
number of processes may write them in any order, and a shard that a killed build had not finished is
simply written again.
"""

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seer.data.storage.index import MANIFEST, Manifest, write_manifest
from seer.errors import InputError
from shards import pool, prune
from shards.dedup.find import IN_EVALUATION
from shards.options import BuildOptions
from shards.records import quarantine, state
from shards.records.quarantine import Entry, counts
from shards.records.state import Progress
from shards.sources.labels import MAX_CLASSES
from shards.sources.listing import Listing
from shards.sources.lists import parse_columns
from shards.sources.policy import PRIVATE_SCHEMES, Policy
from shards.sources.scan import scan
from shards.writing import parts
from shards.writing.parts import Part
from shards.writing.writer import ShardTask, write_shard


@dataclass(frozen=True)
class BuildReport:
    """What a build made. `quarantined` and `ignored` count by reason and by suffix.

    Of a part that is not the last to end, this says what it made itself, and `complete` is false.
    """

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
    complete: bool = True
    notes: Sequence[str] = ()  # what else was not taken as an image of its own

    def lines(self) -> list[str]:
        """The report for a terminal."""
        done = "already complete, nothing to do: " if self.already_complete else ""
        lines = [
            f"{done}{self.samples:,} images in {self.shards:,} shards, {self.bytes / 1e6:,.1f} MB, in {self.out}"
        ]
        if not self.complete:
            lines.append(
                "other parts of the build are not finished; the one that ends last writes the manifest"
            )
        if self.continued:
            lines.append(f"continued an interrupted build: {self.continued:,} shards were there")
        if self.classes:
            lines.append(f"{len(self.classes):,} classes")
        if self.quarantined:
            where: object = Path(self.out, quarantine.QUARANTINE)
            where = f": see {where}" if self.complete else ""
            lines.append(
                f"{sum(self.quarantined.values()):,} quarantined ({counts(self.quarantined)}){where}"
            )
        if found := self.quarantined.get(IN_EVALUATION):
            where = f": see {Path(self.out, quarantine.CONTAMINATION)}" if self.complete else ""
            lines.append(
                f"contamination: {found:,} images are in an evaluation set and were left out{where}"
            )
        if self.ignored:
            lines.append(
                f"{sum(self.ignored.values()):,} files ignored that are no images ({counts(self.ignored)})"
            )
        lines += self.notes
        if not self.already_complete and self.seconds:
            lines.append(f"{self.seconds:.1f} s, {self.samples / self.seconds:,.0f} images/s")
        return lines


def build(
    sources: Sequence[str | Path],
    out: str | Path,
    options: BuildOptions = BuildOptions(),
    progress: Progress | None = None,
    listing: Listing | None = None,
) -> BuildReport:
    """Make shards in `out` from folders of images, archives and lists, or continue the build that
    `out` holds.

    Args:
        sources: folders (any depth), tars, zips and lists.
        out: a new or empty folder, or one with the same build, unfinished or complete.
        progress: called with samples done and in all, a few times per second.
        listing: what the sources hold, where somebody has looked already.

    Raises:
        InputError: a source is missing, unreadable or without one usable image; `out` holds something else or is being
            built by another process; too few downloads succeed; the disk is full. Nothing that was there is changed.
    """
    started = time.monotonic()
    out = Path(out)
    tick = progress or (lambda *_: None)
    options.validate()
    part = parts.parse(options.part)
    columns = parse_columns(options.columns)
    plan: dict[str, Any] = {
        "options": options.identity(),
        "sources": [quarantine.text(os.fsencode(os.path.abspath(source))) for source in sources],
    }
    state.refuse_another(out, plan)  # before the long look through the sources
    _refuse_unwritable(out)
    listing = listing or scan(sources, options.labels, out, columns)
    if not options.download.allow_private:
        _refuse_private(listing)
    plan |= {"samples": len(listing), "listing": listing.fingerprint}
    state.refuse_another(out, plan)
    if part:
        return _build_part(part, listing, out, plan, options, tick, started)
    complete = state.is_complete(out)
    continued = 0
    if not complete or (out / state.STATE).exists():
        with state.locked(out):
            # Another process may have begun, or even ended, meanwhile.
            state.refuse_another(out, plan)
            complete = state.is_complete(out)
            if not complete:
                with state.writing(out):
                    state.begin(out, plan)
                    prune.settle(out)
                    names = _shard_names(len(listing), options.shard_size)
                    missing = state.unfinished(out, names)
                    with state.worthwhile(out):
                        continued = _write_shards(listing, out, names, missing, options, tick)
                    prune.prune(out, names, options.unwanted, options.workers)
                    _finish(out, plan, listing)
            state.end(out)
    return replace(
        _report(out, complete, continued, time.monotonic() - started), notes=listing.notes.lines()
    )


def _refuse_unwritable(out: Path) -> None:
    """Raise InputError when what is still to be built could not be written, as far as permissions
    can tell.
    """
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not state.is_complete(out) and not os.access(place, os.W_OK | os.X_OK):
        raise InputError(
            f"{out} cannot be written (no permission in {place}); mend that or give another --out"
        )


def _refuse_private(listing: Listing) -> None:
    """Raise InputError for a list of which no URL may be followed, rather than after all of them
    have failed.
    """
    for each in listing.lists:
        container = listing.containers[each.container]
        if container.kind == "urls" and (scheme := each.only_scheme()) in PRIVATE_SCHEMES:
            raise InputError(
                f"{container.path} has {scheme}:// URLs, which are read with your rights and credentials; look at the "
                "list, and allow them as private addresses are: --allow-private"
            )


def _build_part(
    part: Part,
    listing: Listing,
    out: Path,
    plan: dict[str, Any],
    options: BuildOptions,
    tick: Progress,
    started: float,
) -> BuildReport:
    """Write this part's shards, and finish the build if all others are there."""
    names = _shard_names(len(listing), options.shard_size)
    continued = 0
    mine = part.share(names)
    already = state.is_complete(out)
    if not already:
        with state.locked(out, part.name), state.writing(out):
            with state.alone(out):
                state.refuse_another(out, plan)  # another part may have begun with other options
                already = state.is_complete(out)  # or all of them may have ended
                if not already:
                    state.begin(out, plan, mine)
                    prune.settle(out)
                missing = state.unfinished(out, mine)
            continued = _write_shards(listing, out, mine, missing, options, tick)
            made = [record for name in mine if (record := state.record_of(out, name))]
            with state.alone(out):
                if not state.is_complete(out) and not state.unfinished(out, names):
                    prune.prune(out, names, options.unwanted, options.workers)
                    _finish(out, plan, listing)
    if state.is_complete(out):
        if (out / state.STATE).exists():
            state.end(out)
        report = _report(out, already, continued, time.monotonic() - started)
        return replace(report, notes=listing.notes.lines())
    return BuildReport(
        out=str(out),
        shards=sum(record["samples"] > 0 for record in made),
        samples=sum(record["samples"] for record in made),
        bytes=sum(record["bytes"] for record in made if record["samples"]),
        quarantined=quarantine.tally(entry for record in made for entry in record["quarantine"]),
        ignored={},
        classes=None,
        already_complete=False,
        continued=continued,
        seconds=time.monotonic() - started,
        complete=False,
        notes=listing.notes.lines(),
    )


def _write_shards(
    listing: Listing,
    out: Path,
    names: list[str],
    missing: list[str],
    options: BuildOptions,
    progress: Progress,
) -> int:
    """Write those of `names` that are `missing`; returns the number of shards that were there."""
    total = len(listing)
    size = options.shard_size
    samples = {name: min(size, total - _number(name) * size) for name in names}
    mine = sum(samples.values())
    done = mine - sum(samples[name] for name in missing)
    workers = options.workers or pool.cores()
    processes = min(workers, len(missing))
    # Fewer shards than cores: threads share a shard.
    threads = math.ceil(workers / max(processes, 1))

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress(done, mine)

    tick(0)
    order = listing.order(options.shuffle)
    blocks = ((name, order[_number(name) * size :][:size]) for name in missing)
    tasks = (_task(listing, out, name, block, options, threads) for name, block in blocks)
    if any(container.kind == "urls" for container in listing.containers):
        from shards.writing.pipeline import (
            write_shards,
        )  # whose client takes a fifth of a second to load

        pool.share(write_shards, tasks, processes, tick)
    else:
        for _ in pool.run(write_shard, tasks, processes, tick):
            pass
    return len(names) - len(missing)


def _shard_names(samples: int, shard_size: int) -> list[str]:
    return [f"shard-{number:06d}.tar" for number in range(math.ceil(samples / shard_size))]


def _number(name: str) -> int:
    return int(name.removeprefix("shard-").removesuffix(".tar"))


def _task(
    listing: Listing, out: Path, shard: str, block: np.ndarray, options: BuildOptions, threads: int
) -> ShardTask:
    rows = listing.rows(block)
    labels = {name: label for label, name in enumerate(listing.classes or [])}
    for row in rows:
        row["label"] = labels.get(row.pop("class"))
    containers = {
        number: listing.containers[number] for number in {row["container"] for row in rows}
    }
    return ShardTask(out, shard, rows, containers, Policy.of(options), threads, options.download)


def _finish(out: Path, plan: dict[str, Any], listing: Listing) -> None:
    """Gather the shards' records: quarantine first, and last the manifest, which makes the build
    complete.
    """
    names = _shard_names(len(listing), plan["options"]["shard_size"])

    def entries() -> Iterator[
        Entry
    ]:  # twice read, since there may be more of them than fit in memory
        yield from listing.quarantine
        for name in names:
            yield from state.finished(out, name)["quarantine"]

    reasons = quarantine.tally(entries())
    facts = ("shard", "samples", "bytes", "sha256", "labels")
    shards = [
        {key: record[key] for key in facts}
        for name in names
        if (record := state.finished(out, name))["samples"]
    ]
    if not shards:
        first = next(entries())
        state.end(out)
        example = f"{first['source']}: {first['reason']}"
        raise InputError(
            f"none of {len(listing):,} images is usable: {counts(reasons)}; for example {example}"
        )
    quarantine.write(out, entries())
    prune.write_contamination(out, (state.finished(out, name) for name in names))
    ignored = dict(sorted(listing.ignored.items()))
    classes = listing.classes or _classes_of_tars(
        listing, max(shard.pop("labels") for shard in shards)
    )
    write_manifest(
        out,
        shards,
        {"classes": classes, "build": {**plan, "quarantined": reasons, "ignored": ignored}},
    )


def _classes_of_tars(listing: Listing, labels: int) -> list[str] | None:
    """Names for labels below `labels` found in `.cls` members: those that all the tars' manifests
    give, or digits.
    """
    if not 0 < labels <= MAX_CLASSES:
        return None
    folders = sorted(
        {os.path.dirname(container.path) for container in listing.containers if container.is_tar}
    )
    named = [
        Manifest.load(folder).classes if Path(folder, MANIFEST).exists() else None
        for folder in folders
    ]
    first = named[0] if named else None
    if first is not None and len(first) >= labels and all(classes == first for classes in named):
        return first
    return [str(label) for label in range(labels)]


def _report(out: Path, complete: bool, continued: int, seconds: float) -> BuildReport:
    manifest = Manifest.load(out)
    if gone := [shard for shard in manifest.shards if not (out / shard).exists()]:
        raise InputError(
            f"{out} lacks {gone[0]}, which its manifest names; put it back, or delete {out} and rebuild"
        )
    made = manifest.build
    return BuildReport(
        out=str(out),
        shards=len(manifest.shards),
        samples=manifest.samples,
        bytes=int(manifest.bytes.sum()),
        quarantined=made["quarantined"],
        ignored=made["ignored"],
        classes=manifest.classes,
        already_complete=complete,
        continued=continued,
        seconds=seconds,
    )
