"""Whether shards are what their manifest and indices say: every byte, every member, nothing
missing, nothing extra.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seer.data.decoding.decode import DamagedImage
from seer.data.storage.index import EXTRAS, LARGEST_TABLE, Manifest, index_path, parse_index
from seer.errors import InputError, first_line, quoted
from seer.inputs import read_bytes
from seer.schema import MismatchError
from shards import pool, takedown
from shards.archives.tars import sha256_file
from shards.indexing import index
from shards.records import quarantine
from shards.records.state import Progress
from shards.sources.listing import Listing
from shards.sources.places import is_tar
from shards.sources.samples import look, row_in_tar
from shards.sources.scan import labelled_rows, scan_tar

# What a tar can tell about a sample.
COMPARED = (
    "key",
    "offset",
    "size",
    "width",
    "height",
    "format",
    "sha256",
    "label",
    EXTRAS,  # unless an earlier version wrote the index
)
MOST_MEMBERS = 5  # named per shard
INTERRUPTED = (
    "a removal was interrupted or is under way; if none is, run: seer shards verify --repair"
)


@dataclass(frozen=True)
class VerifyReport:
    """`problems` has one line each; there are none in a sound data set. `repaired` are shards
    indexed anew.
    """

    directory: str
    shards: int
    samples: int
    problems: list[str]
    repaired: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def lines(self) -> list[str]:
        """The report for a terminal."""
        extent = f"{self.shards:,} shards, {self.samples:,} images in {self.directory}"
        result = (
            [f"ok: {extent}"]
            if self.ok
            else [*self.problems, f"{len(self.problems):,} problems: {extent}"]
        )
        return [*(f"repaired: {shard} was indexed anew" for shard in self.repaired), *result]


def verify(
    directory: str | Path, workers: int = 0, progress: Progress | None = None, repair: bool = False
) -> VerifyReport:
    """Compare tars, indices and manifest byte by byte.

    Args:
        directory: the shards. workers: processes; 0 for one per core. progress: called with shards done and in all.
        repair: index anew, from their tars, shards whose tar is sound and those that were replaced since. Tars are
            never touched, and a damaged one is not taken for a replaced one: the index must be older.

    Raises:
        InputError: there is no manifest, or it cannot be read.
    """
    report = _verify(directory, workers, progress)
    if not repair or report.ok:
        return report
    takedown.settle(Path(directory))
    wrong = {line.split(":")[0] for line in report.problems}
    rows = [row for row in Manifest.load(directory).table.to_pylist() if row["shard"] in wrong]
    tars = [
        tar
        for row in rows
        if (tar := Path(directory, row["shard"])).is_file() and _may_be_indexed(tar, row)
    ]
    if tars:
        index(tars, workers, anew=True)
    return replace(_verify(directory, workers, None), repaired=[tar.name for tar in tars])


def _may_be_indexed(tar: Path, row: dict[str, Any]) -> bool:
    index = index_path(tar)
    replaced = index.exists() and index.stat().st_mtime_ns < tar.stat().st_mtime_ns
    return replaced or (tar.stat().st_size == row["bytes"] and sha256_file(tar) == row["sha256"])


def _verify(directory: str | Path, workers: int, progress: Progress | None) -> VerifyReport:
    manifest = Manifest.load(directory)
    rows = manifest.table.to_pylist()
    known = {entry["source"] for entry in quarantine.read(manifest.directory)}
    problems: dict[str, list[str]] = {}
    tasks = ((manifest.directory, row, known, manifest.classes or []) for row in rows)
    for shard, found in pool.run(verify_shard, tasks, min(workers or pool.cores(), len(rows))):
        problems[shard] = found
        if progress:
            progress(len(problems), len(rows))
    lines = [INTERRUPTED] if (manifest.directory / takedown.STATE).exists() else []
    lines += [f"{shard}: {line}" for shard in manifest.shards for line in problems[shard]]
    lines += [
        f"{path.name}: not in the manifest; run: seer shards index {quoted(path)}"
        for path in _strangers(manifest, known)
    ]
    return VerifyReport(str(directory), len(rows), manifest.samples, lines, repaired=[])


def _strangers(manifest: Manifest, known: set[str]) -> list[Path]:
    """Tars that the manifest lacks, unless indexing them found nothing that can be used."""
    shards = {manifest.directory / shard for shard in manifest.shards}
    others = set(filter(is_tar, manifest.directory.iterdir())) - shards
    return sorted(
        path for path in others if path.is_file() and not _sources(scan_tar(path)) <= known
    )


def _sources(listing: Listing) -> set[str]:
    names = listing.table["name"].to_pylist()
    return {listing.containers[0].source_of(name) for name in names} | {
        e["source"] for e in listing.quarantine
    }


def verify_shard(
    task: tuple[Path, dict[str, Any], set[str], list[str]], tick: pool.Tick
) -> tuple[str, list[str]]:
    """The shard's name and what is wrong with it.

    `known` are the members quarantined when it was indexed, `classes` the names of classes by
    number.
    """
    directory, row, known, classes = task
    tar = directory / row["shard"]
    if not tar.is_file():
        what = "no file" if tar.exists() else "missing"
        return row["shard"], [f"{what}, although the manifest names it"]
    return row["shard"], [*_wrong_bytes(tar, row), *_wrong_index(tar, row, known, classes)]


def _wrong_bytes(tar: Path, row: dict[str, Any]) -> Iterator[str]:
    size = tar.stat().st_size
    if size == row["bytes"] and sha256_file(tar) == row["sha256"]:
        return
    index = index_path(tar)
    if index.exists() and index.stat().st_mtime_ns < tar.stat().st_mtime_ns:
        yield f"changed after it was indexed; if that was meant, run: seer shards index {quoted(tar)}"
    elif size != row["bytes"]:
        yield f"{size:,} bytes instead of {row['bytes']:,}"
    else:
        yield "damaged: its SHA-256 is not the manifest's"


def _wrong_index(tar: Path, row: dict[str, Any], known: set[str], classes: list[str]) -> list[str]:
    path = index_path(tar)
    if not path.exists():
        return [f"has no index; run: seer shards index {quoted(tar)}"]
    try:
        table = parse_index(read_bytes(path, LARGEST_TABLE))
    except (OSError, MismatchError, InputError) as error:
        return [
            f"its index cannot be read ({first_line(error)}); run: seer shards index {quoted(tar)}"
        ]
    compared = [name for name in COMPARED if name in table.column_names]
    indexed = {item["key"]: item for item in table.select(compared).to_pylist()}
    listing = scan_tar(tar)
    problems = [entry["reason"] for entry in listing.quarantine if entry["source"] not in known]
    if len(table) != row["samples"]:
        problems.append(
            f"its index has {len(table):,} samples, the manifest says {row['samples']:,}"
        )
    members = list(_wrong_members(listing, indexed, known, classes))
    more = (
        [f"… and {len(members) - MOST_MEMBERS:,} members more"]
        if len(members) > MOST_MEMBERS
        else []
    )
    return [*problems, *members[:MOST_MEMBERS], *more]


def _wrong_members(
    listing: Listing, indexed: dict[str, dict[str, Any]], known: set[str], classes: list[str]
) -> Iterator[str]:
    """The rows of the index that the tar has not, and then each sample of the tar against its row."""
    container = listing.containers[0]
    present = set(listing.table["key"].to_pylist())
    yield from (
        f"{key} is in the index but not in the tar" for key in indexed if key not in present
    )
    for row in labelled_rows(listing, classes):
        expected = indexed.get(row["key"])
        source = container.source_of(row["name"])
        if expected is None:
            if source not in known:
                yield f"{row['key']} is in the tar but not in the index"
            continue
        try:
            sample = row_in_tar(row, container, look)
            wrong = [name for name in expected if sample[name] != expected[name]]
        except DamagedImage as damage:
            wrong = [damage.reason]
        if wrong:
            yield f"{row['key']} is not as its index says ({', '.join(wrong)})"
