"""Removing images from finished shards: what is asked for goes, and at every moment there is one
whole data set.

Shards are never changed: one without some of its samples is written under a new name,
`shard-000003.r1.tar` for `shard-000003.tar`, in the same place of the manifest. Replacing the
manifest is what makes the removal happen, for all shards at once; before it everything is as it
was, and afterwards only deleting the old files is left to do. Copies of a shard elsewhere (caches,
buckets, a training run's open files) can therefore never mix old bytes with a new index.
"""

import glob
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seer import files
from seer.data.storage.index import (
    MANIFEST,
    SHARD,
    Manifest,
    index_path,
    read_index,
    write_index,
    write_manifest,
)
from seer.errors import InputError, quoted
from seer.inputs import UnreadableError, read_json, read_rows
from seer.schema import DIGEST, Integer, MapOf, Maybe, Record, Text
from shards import pool
from shards.archives.tars import sha256_file
from shards.dedup.known import read_hashes, read_lines
from shards.records import quarantine, state
from shards.records.state import Progress
from shards.writing.cut import cut

REMOVED = "removed.jsonl"
STATE = ".removal"  # beside the shards while some are replaced
JOURNAL = "journal.json"
ENTRIES = "entries.jsonl"
REVISION = re.compile(r"(.*?)(?:\.r(\d{1,9}))?\.tar", re.IGNORECASE)
HASH = Text(16, 16, "[0-9a-f]{16}", "a manifest's hash of 16 hex digits")
JOURNAL_KIND = Record(
    {"before": HASH, "log": Integer(0), "shards": MapOf(Maybe(SHARD), SHARD, 2**20)}, extra=None
)
ENTRY = Record(
    {
        "key": Text(2**20),
        "source": Text(2**20),
        "sha256": DIGEST,
        "shard": SHARD,
        "row": Integer(0),
    },
    {"becomes": Maybe(SHARD), "manifest_before": HASH, "manifest_after": HASH},
)

# What images can be named by: how a list is read, and the column of the index that it names.
BY: dict[str, tuple[Callable[[Path], list], str]] = {
    "keys": (read_lines, "key"),
    "urls": (read_lines, "source"),
    "hashes": (lambda path: [image.sha256 for image in read_hashes(path)], "sha256"),
}


@dataclass(frozen=True)
class RemovalReport:
    """What a removal did. `already` were removed before, `unknown` are not in the data set: entries
    of the list.
    """

    directory: str
    removed: int  # images
    shards: int  # written anew, or dropped because nothing was left of them
    already: int
    unknown: int
    first_unknown: str | None
    samples: int  # images that are left

    @property
    def ok(self) -> bool:
        """Whether anything of the list was, or had been, in the data set."""
        return bool(self.removed or self.already)

    def lines(self) -> list[str]:
        """The report for a terminal."""
        lines = [
            f"{self.removed:,} images removed from {self.shards:,} shards; {self.samples:,} left"
        ]
        if self.already:
            lines.append(
                f"{self.already:,} had been removed before: see {Path(self.directory, REMOVED)}"
            )
        if self.unknown:
            lines.append(
                f"{self.unknown:,} are not in {self.directory}, for example {self.first_unknown}"
            )
        return lines


def remove(
    directory: str | Path,
    list_file: str | Path,
    by: str,
    workers: int = 0,
    progress: Progress | None = None,
) -> RemovalReport:
    """Remove the images that a file names, and note in `removed.jsonl` which they were.

    Args:
        list_file: one entry per line; for `hashes` also a `removed.jsonl`.
        by: `keys`, `urls` (the index's `source`) or `hashes` (SHA-256 of the image, in hex).
        workers: processes; 0 for one per core. progress: called with shards done and in all.

    Raises:
        InputError: no shards, an unreadable list, nothing would be left, or another removal is under way.
    """
    directory = Path(directory)
    list_file = Path(list_file)
    read, column = BY[by]
    wanted = pa.array(
        list(dict.fromkeys(read(list_file))), pa.binary(32) if column == "sha256" else pa.string()
    )
    Manifest.load(directory)
    with _held(directory):
        manifest = Manifest.load(directory)
        concerned, unmatched = _match(manifest, wanted, column)
        if sum(map(len, concerned.values())) == manifest.samples:
            raise InputError(
                f"{list_file} names every image of {directory}; delete the folder instead"
            )
        if concerned:
            _replace(
                manifest,
                concerned,
                {"by": by, "list": str(list_file.absolute())},
                workers,
                progress,
            )
    already, unknown = _known_before(directory, column, unmatched)
    return RemovalReport(
        directory=str(directory),
        removed=sum(map(len, concerned.values())),
        shards=len(concerned),
        already=already,
        unknown=len(unknown),
        first_unknown=unknown[0] if unknown else None,
        samples=Manifest.load(directory).samples,
    )


def _match(
    manifest: Manifest, wanted: pa.Array, column: str
) -> tuple[dict[str, np.ndarray], pa.Array]:
    """Rows by shard, of the shards that have any, and what was named in vain."""
    rows_of = dict[str, np.ndarray]()
    is_there = pa.array(np.zeros(len(wanted), bool))
    for number, shard in enumerate(manifest.shards):
        values = manifest.index(number, [column])[column]
        is_wanted = pc.is_in(values, wanted).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(is_wanted)
        if len(rows):
            rows_of[shard] = rows
            matching = values.take(pa.array(rows)).combine_chunks()
            is_there = pc.or_(is_there, pc.is_in(wanted, matching))
    in_vain = wanted.filter(pc.invert(is_there))
    return rows_of, in_vain


def _replace(
    manifest: Manifest,
    concerned: dict[str, np.ndarray],
    order: dict[str, str],
    workers: int,
    progress: Progress | None,
) -> None:
    """Write the shards concerned without these rows, and make the manifest name the new ones."""
    directory = manifest.directory
    new_names = _new_names(manifest, concerned)
    log = directory / REMOVED
    journal = {
        "before": manifest.hash,
        "log": log.stat().st_size if log.exists() else 0,
        "shards": new_names,
    }
    files.write(directory / STATE / JOURNAL, json.dumps(journal))
    rows = {row["shard"]: row for row in manifest.table.to_pylist()}
    entries = dict[str, list]()
    tasks = [
        (directory, shard, rows[shard]["sha256"], new_names[shard], gone)
        for shard, gone in concerned.items()
    ]
    for shard, row, gone in pool.run(
        replace_shard, tasks, min(workers or pool.cores(), len(concerned))
    ):
        rows[shard] = row
        entries[shard] = gone
        if progress:
            progress(len(entries), len(concerned))
    left = [row for row in rows.values() if row]  # the order is the manifest's
    removed = manifest.build.get("removed", 0) + sum(map(len, entries.values()))
    note = {"classes": manifest.classes, "build": {**manifest.build, "removed": removed}}
    staged = directory / STATE / "new"
    staged.mkdir(exist_ok=True)
    write_manifest(staged, left, note)
    facts = {**order, "time": datetime.now(UTC).isoformat(timespec="seconds")}
    facts |= {"manifest_before": manifest.hash, "manifest_after": Manifest.load(staged).hash}
    lines = (
        json.dumps({**facts, **entry}) + "\n" for shard in concerned for entry in entries[shard]
    )
    files.write(directory / STATE / ENTRIES, "".join(lines))
    os.replace(staged / MANIFEST, directory / MANIFEST)


def _new_names(manifest: Manifest, concerned: dict[str, np.ndarray]) -> dict[str, str | None]:
    """For each shard the name of what replaces it; None if it loses all its samples."""
    names: dict[str, str | None] = {}
    for shard, size in zip(manifest.shards, manifest.sizes.tolist(), strict=True):
        if shard not in concerned:
            continue
        found = REVISION.fullmatch(shard)
        assert found, f"{shard} is no tar"
        revision = int(found[2] or 0) + 1
        while os.path.lexists(manifest.directory / f"{found[1]}.r{revision}.tar"):
            revision += 1
        names[shard] = f"{found[1]}.r{revision}.tar" if len(concerned[shard]) < size else None
    return names


def replace_shard(
    task: tuple[Path, str, str, str | None, np.ndarray], tick: pool.Tick
) -> tuple[str, dict[str, Any] | None, list[dict[str, Any]]]:
    """Write a shard anew without some rows; returns its old name, its row of the manifest and what
    is to be logged.
    """
    directory, shard, digest, new_name, rows = task
    index = read_index(index_path(directory / shard))
    row = None
    if new_name:
        if (
            not (directory / shard).is_file() or sha256_file(directory / shard) != digest
        ):  # damage must not be hidden
            raise InputError(
                f"{directory / shard} is not as its manifest says; run: seer shards verify {quoted(directory)}"
            )
        with state.writing(directory):
            path = directory / new_name
            new = cut(directory / shard, index, rows, path)
            write_index(index_path(path), new.table)
            files.sync(path)
        row = {
            "shard": new_name,
            "samples": len(new.table),
            "bytes": new.bytes,
            "sha256": new.sha256,
        }
    gone = [
        {
            **{name: image[name] for name in ("key", "source")},
            "sha256": image["sha256"].hex(),
            "phash": None if image["phash"] is None else f"{image['phash']:016x}",
            "shard": shard,
            "row": int(number),
            "becomes": new_name,
        }
        for number, image in zip(rows, index.take(pa.array(rows)).to_pylist(), strict=True)
    ]
    return shard, row, gone


def settle(directory: Path) -> None:
    """Complete or undo what a killed removal left; nothing where there is none. Raises InputError
    if one is running.
    """
    if (directory / STATE).exists():
        with _held(directory):
            pass


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Hold a data set for changing it; what is unfinished, of an earlier process or of this one, is
    settled.
    """
    with state.writing(directory), state.held(directory, STATE):
        _settle(directory)
        state.clear(directory / STATE)
        try:
            yield
        finally:
            _settle(directory)
            state.drop(directory / STATE)


def _settle(directory: Path) -> None:
    """Whichever shards the manifest does not name go, and if these are the old ones, what was
    removed is logged.
    """
    path = state.file_of(directory, STATE, JOURNAL)
    if not path.exists():
        return
    manifest = Manifest.load(directory)
    try:
        journal = read_json(path, JOURNAL_KIND)
        done = manifest.hash != journal["before"]
        problem = (
            _problem_of_log(directory, journal, manifest)
            if done
            else _problem_of_names(journal, manifest)
        )
    except UnreadableError as error:
        raise InputError(f"{error}; nothing was changed; remove {path.parent}") from None
    if problem:
        raise InputError(
            f"{path} is not of this data set ({problem}); nothing was changed; remove {path.parent}"
        )
    if done:
        _log(directory, journal["log"])
        _rename_in_quarantine(directory, journal["shards"])
    for old, new in journal["shards"].items():
        if name := old if done else new:
            (directory / name).unlink(missing_ok=True)
            index_path(directory / name).unlink(missing_ok=True)
        for half_written in directory.glob(f".{glob.escape(index_path(Path(new or old)).name)}.*"):
            half_written.unlink()
    path.unlink()


def _problem_of_names(journal: dict[str, Any], manifest: Manifest) -> str:
    """Why it cannot be that a removal began to write these shards: they are not what it would name
    them.
    """
    shards = set(manifest.shards)
    for old, new in journal["shards"].items():
        if old not in shards:
            return f"the manifest has no {old}"
        if new and (new in shards or _stem(new) != _stem(old) or new == f"{_stem(new)}.tar"):
            return f"{new} is no new name of {old}"
    return ""


def _problem_of_log(directory: Path, journal: dict[str, Any], manifest: Manifest) -> str:
    """Why it cannot be that a removal of these shards led to this manifest: what it meant to log
    says otherwise.
    """
    changed = set(journal["shards"])
    if changed & set(manifest.shards) or not {
        new for new in journal["shards"].values() if new
    } <= set(manifest.shards):
        return "the manifest names what was replaced, or not what replaced it"
    logged = set[str]()
    for entry in read_rows(state.file_of(directory, STATE, ENTRIES), ENTRY):
        if (entry.get("manifest_before"), entry.get("manifest_after")) != (
            journal["before"],
            manifest.hash,
        ):
            return f"{ENTRIES} is of other manifests"
        logged.add(entry["shard"])
    if logged != changed:
        return f"{ENTRIES} is of other shards"
    log = directory / REMOVED
    if journal["log"] > (log.stat().st_size if log.exists() else 0):
        return f"{REMOVED} is shorter than it was"
    return ""


def _stem(shard: str) -> str:
    """The name of a shard without its revision and suffix."""
    found = REVISION.fullmatch(shard)
    assert found, f"{shard} is no tar"
    return found[1]


def _log(directory: Path, length: int) -> None:
    """Append what was removed to the log, whose first `length` bytes are of earlier removals."""
    entries = state.file_of(directory, STATE, ENTRIES).read_bytes()
    with files.open_own(directory / REMOVED, "ab") as log:
        log.truncate(length)  # less what an earlier attempt at this wrote
        log.write(entries)
        log.flush()
        os.fsync(log.fileno())


def _rename_in_quarantine(directory: Path, new_names: dict[str, str | None]) -> None:
    """Members that cannot be used are still in the tars of others, under the tars' new names."""
    entries = quarantine.read(directory)
    for entry in entries:
        if new := new_names.get(entry.get("shard", "")):
            entry["source"] = entry["source"].replace(entry["shard"], new, 1)
            entry["shard"] = new
    quarantine.write(directory, entries)


def read_log(directory: Path) -> list[dict[str, Any]]:
    """What was removed from a data set, the first first; empty if nothing was. Raises InputError
    for a wrong line.
    """
    return list(read_rows(directory / REMOVED, ENTRY))


def _known_before(directory: Path, column: str, unmatched: pa.Array) -> tuple[int, list[str]]:
    """How many of the entries the log has, and those that it has not."""
    names = [value.hex() if isinstance(value, bytes) else value for value in unmatched.to_pylist()]
    logged = {entry[column] for entry in read_log(directory)} if names else set()
    unknown = [name for name in names if name not in logged]
    return len(names) - len(unknown), unknown
