"""Indices and a manifest for tars that someone else wrote; the tars themselves are not touched."""

import fcntl
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from seer import files, inputs
from seer.data.decoding.decode import DamagedImage
from seer.data.storage.index import (
    EXTRAS,
    MANIFEST,
    Manifest,
    index_path,
    read_index,
    write_index,
    write_manifest,
)
from seer.errors import InputError, quoted
from shards import pool, takedown
from shards.archives.tars import sha256_file
from shards.records import quarantine, state
from shards.records.notes import Notes, display
from shards.records.quarantine import counts
from shards.records.state import Progress
from shards.sources.labels import MAX_CLASSES
from shards.sources.places import homes, left_out, nested_tars, own_tars
from shards.sources.samples import fit, look, row_in_tar, with_extras
from shards.sources.scan import labelled_rows, scan_tar

COMPLETED = "indices completed, which an earlier version wrote without masks, captions and the like"


@dataclass
class IndexReport:
    """What was indexed, in all the folders that were named."""

    folders: list[str] = field(default_factory=list)
    indexed: int = 0  # tars
    current: int = 0  # tars whose index was right already
    samples: int = 0  # in all tars of the manifests
    quarantined: dict[str, int] = field(default_factory=dict)  # by kind of reason, in all tars
    # Members of samples without an image, by suffix.
    ignored: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what else was not taken as an image of its own

    def lines(self) -> list[str]:
        """The report for a terminal."""
        lines = [
            f"{self.indexed:,} tars indexed, {self.current:,} up to date; {self.samples:,} images in all"
        ]
        if self.quarantined:
            lines.append(
                f"{sum(self.quarantined.values()):,} quarantined ({counts(self.quarantined)})"
            )
        if self.ignored:
            lines.append(
                f"{sum(self.ignored.values()):,} members ignored, without an image ({counts(self.ignored)})"
            )
        return [
            *lines,
            *self.notes,
            *(f"manifest: {Path(folder, MANIFEST)}" for folder in self.folders),
        ]


def index(
    urls: Sequence[str | Path],
    workers: int = 0,
    check: bool = True,
    progress: Progress | None = None,
    anew: bool = False,
    index_dir: Path | None = None,
) -> IndexReport:
    """Index tars, and write or extend the manifest of the folder that each lies in. Current indices
    are kept.

    Args:
        urls: tars, or folders of tars; see `shards.sources.places.homes`.
        workers: processes; 0 for one per core.
        check: decode every image, so that what cannot be read is quarantined now; else only headers are looked at.
        progress: called with tars done and in all.
        anew: also where an index seems to be right.
        index_dir: where indices and manifest go, with links to the tars; None: beside the tars.

    Raises:
        InputError: nothing to index, no usable image in a folder's tars, a manifest that names a missing shard, a
            folder that cannot be written, or classes by name and by number in one data set.
    """
    report = IndexReport()
    notes = Notes()
    if not index_dir:
        for url in urls:
            takedown.settle(Path(url) if Path(url).is_dir() else Path(url).parent)
    found = homes(urls, index_dir)
    if not found:
        raise InputError(
            f"no .tar in {', '.join(map(str, urls))}; give tars, or the folder that holds them"
        )
    total = sum(map(len, found.values()))
    for folder, paths in found.items():
        known = _manifest_of(folder)
        stale = [
            path for path in paths if anew or not is_current(path, known.rows.get(path.name), check)
        ]
        results = []
        with state.writing(folder):
            current = sorted(set(paths) - set(stale))
            for path, fitting in _complete(current, workers):
                if fitting:
                    notes.add(COMPLETED, str(path))
                else:
                    stale.append(path)
            report.current += len(paths) - len(stale)
            for result in _index_all(stale, known, check, workers):
                results.append(result)
                notes.update(result["notes"])
                report.indexed += 1
                if progress:
                    progress(report.indexed + report.current, total)
            _extend(folder, known, results, report)
    if others := left_out(urls):
        notes.add("tars in folders below left out", str(others[0]), len(others))
    report.notes = notes.lines()
    return report


@dataclass
class _Known:
    """The manifest that a folder has already: rows by shard, and the rest of it."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    classes: list[str] | None = None
    build: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of classes; none where labels are numbers that nobody has named."""
        classes = self.classes or []
        return [] if classes == [str(number) for number in range(len(classes))] else classes

    def add_names(self, names: set[str], numbered: str) -> None:
        """Number further classes. Raises InputError where others have numbers alone; `numbered` is
        an example.
        """
        numbered = numbered or ("the manifest" if self.classes else "")
        if numbered and not self.names:
            raise InputError(
                f"classes by name would mix with numbers ({display(min(names))!r} in one place, numbers in "
                f"{numbered}); put such tars in folders of their own"
            )
        self.classes = [*self.names, *sorted(names)]
        if len(self.classes) > MAX_CLASSES:
            raise InputError(
                f"{len(self.classes):,} different labels are no classes; there can be {MAX_CLASSES:,}"
            )


def _manifest_of(folder: Path) -> _Known:
    if not (folder / MANIFEST).exists():
        return _Known()
    try:
        manifest = Manifest.load(folder)
    except InputError as error:
        raise InputError(
            f"{error}; but delete {folder / MANIFEST} first: names of classes are lost with it"
        ) from error
    if gone := [shard for shard in manifest.shards if not (folder / shard).exists()]:
        raise InputError(
            f"{folder / MANIFEST} names {gone[0]}, which is missing; put it back or delete the manifest"
        )
    return _Known(
        {row["shard"]: row for row in manifest.table.to_pylist()}, manifest.classes, manifest.build
    )


def _index_all(
    tars: list[Path], known: _Known, check: bool, workers: int
) -> Iterator[dict[str, Any]]:
    """What `index_tar` gives for each tar. Tars with classes that have no number yet are taken up a
    second time.
    """
    workers = workers or pool.cores()
    numbered = ""
    unknown: dict[Path, list[str]] = {}
    for result in pool.run(
        index_tar, ((tar, check, known.names) for tar in tars), min(workers, len(tars))
    ):
        numbered = numbered or result["numbered"]
        if "unknown" in result:
            unknown[result["tar"]] = result["unknown"]
        else:
            yield result
    if unknown:
        known.add_names(set(chain.from_iterable(unknown.values())), numbered)
        tasks = ((tar, check, known.names) for tar in sorted(unknown))
        yield from pool.run(index_tar, tasks, min(workers, len(unknown)))


def _complete(tars: list[Path], workers: int) -> Iterator[tuple[Path, bool]]:
    """Enter the members besides the images where an index lacks them; of each of these tars whether
    its samples are where the index has them.

    Only the tars' headers are read: no image is decoded for that.
    """
    lacking = [
        tar for tar in tars if EXTRAS not in read_index(index_path(tar), [EXTRAS]).schema.names
    ]
    processes = min(workers or pool.cores(), len(lacking))
    yield from pool.run(complete_tar, lacking, processes)


def complete_tar(tar: Path, tick: pool.Tick) -> tuple[Path, bool]:
    """Write the index of one tar again, with what it lacked."""
    index = read_index(index_path(tar))
    listed = scan_tar(tar).table
    extras = dict(zip(listed["offset"].to_pylist(), listed["extras"].to_pylist(), strict=True))
    offsets = index["offset"].to_pylist()
    fitting = set(offsets) <= extras.keys()
    if fitting:
        write_index(index_path(tar), with_extras(index, [extras[offset] for offset in offsets]))
    return tar, fitting


def _extend(
    folder: Path, known: _Known, results: list[dict[str, Any]], report: IndexReport
) -> None:
    """Bring quarantine and manifest up to date with what was indexed now, and add that to the
    report.
    """
    known.rows |= {result["row"]["shard"]: result["row"] for result in results}
    again = {result["row"]["shard"] for result in results}
    entries = [entry for entry in quarantine.read(folder) if entry.get("shard") not in again]
    entries += sorted(
        (entry for result in results for entry in result["quarantine"]),
        key=lambda item: item["source"],
    )
    reasons = quarantine.tally(entries)
    rows = [row for _, row in sorted(known.rows.items()) if row["samples"]]
    if not rows:
        raise InputError(
            f"no usable image in the tars of {folder} ({counts(reasons) or 'no images'}); give other tars"
        )
    labels = max((result["labels"] for result in results), default=0)
    classes = known.classes or []
    known.classes = [*classes, *map(str, range(len(classes), labels))] or None
    quarantine.write(folder, entries)
    write_manifest(
        folder, rows, {"classes": known.classes, "build": {**known.build, "quarantined": reasons}}
    )
    report.folders.append(str(folder))
    report.samples += sum(row["samples"] for row in rows)
    report.quarantined = dict(Counter(report.quarantined) + Counter(reasons))
    for result in results:
        report.ignored = dict(Counter(report.ignored) + result["ignored"])


def is_current(tar: Path, row: dict[str, Any] | None, hashed: bool = False) -> bool:
    """Whether the tar has an index made from these very bytes, going by size and time, and in doubt
    by SHA-256.

    `hashed` asks for perceptual hashes as well.
    """
    path = index_path(tar)
    if row is None or tar.stat().st_size != row["bytes"]:
        return False
    try:
        table = read_index(path)
    except InputError:  # missing, damaged, or of an earlier version
        return False
    if len(table) != row["samples"] or (hashed and table["phash"].null_count):
        return False
    # Copying may leave an index older than its tar, so age alone proves nothing.
    return path.stat().st_mtime_ns >= tar.stat().st_mtime_ns or sha256_file(tar) == row["sha256"]


def index_tar(task: tuple[Path, bool, list[str]], tick: pool.Tick) -> dict[str, Any]:
    """Write the index of one tar, if it has a usable image; returns its manifest row and what is to
    be reported.

    `task` is the tar, whether to decode, and the names of classes by number. Where the tar names
    others nothing is written, and what is returned has them under `unknown`.
    """
    path, check, names = task
    try:
        inputs.open_file(path).close()
    except FileNotFoundError:
        raise InputError(f"{path}: a link to nothing; remove it, or put the tar there") from None
    listing, sources = scan_tar(path), _sources(path)
    if unknown := set(listing.table["class"].drop_null().to_pylist()) - set(names):
        return {"tar": path, "unknown": sorted(unknown), "numbered": listing.numbered}
    entries, rows = listing.quarantine, []
    for row in labelled_rows(listing, names):
        try:
            made = row_in_tar(row, listing.containers[0], fit if check else look)
            rows.append(
                {**made, "source": sources.get((made["key"], made["sha256"]), made["source"])}
            )
        except DamagedImage as damage:
            entries.append(
                {"source": listing.containers[0].source_of(row["name"]), "reason": damage.reason}
            )
    if rows:
        write_index(index_path(path), rows)
    return {
        "row": {
            "shard": path.name,
            "samples": len(rows),
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        },
        "labels": max((row["label"] + 1 for row in rows if row["label"] is not None), default=0),
        "quarantine": [{**entry, "shard": path.name} for entry in entries],
        "ignored": listing.ignored,
        "numbered": listing.numbered,
        "notes": listing.notes,
    }


def _sources(tar: Path) -> dict[tuple[str, bytes], str]:
    """Where the images of a tar came from, by key and SHA-256, as far as an earlier index can still
    tell.
    """
    try:
        rows = read_index(index_path(tar), ["key", "sha256", "source"])
    except InputError:
        return {}
    return {(row["key"], row["sha256"]): row["source"] for row in rows.to_pylist()}


def index_on_first_use(
    folders: Iterable[str],
    shown: Callable[[Path], AbstractContextManager[Progress]],
    nested: bool = False,
) -> None:
    """Index the tars of folders that have no manifest; anything else is left as it is.

    Args:
        shown: a context around the indexing of a folder, which gives what is called with tars done and in all.
        nested: also where tars lie in folders below alone.

    Raises InputError for a folder of tars that cannot be written.
    """
    for folder in map(Path, folders):
        built = (folder / MANIFEST).exists() or (folder / state.STATE).exists()  # or begun to be
        if built or not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
            continue
        if not own_tars(folder) and not (nested and nested_tars(folder)):
            continue
        if not os.access(folder, os.W_OK):
            raise InputError(
                f"{folder} holds tars without a manifest and cannot be written; run: "
                f"seer shards index {quoted(folder)} --index-dir DIR, and give DIR as the data"
            )
        with state.writing(folder), files.open_own(folder / ".indexing", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # ranks that torchrun has started come here together
            try:
                if not (folder / MANIFEST).exists():
                    with shown(folder) as progress:
                        index([folder], progress=progress)
            finally:
                Path(lock.name).unlink(missing_ok=True)
