"""Shards with a mask for each sample, beside those without: the same images, in the same order and
under the same keys and ids, each followed by its mask.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from seer import files
from seer.data.decoding.decode import DamagedImage, decode
from seer.data.storage.index import Manifest, index_path, read_index, write_index, write_manifest
from seer.data.storage.store import Url
from seer.errors import InputError, quoted
from seer.inputs import open_data
from shards import pool
from shards.archives import tars
from shards.archives.contents import read_contents
from shards.options import SaliencyOptions
from shards.records import quarantine, state
from shards.records.state import Progress
from shards.saliency import salience
from shards.saliency.networks import Network
from shards.takedown import REMOVED
from shards.writing.cut import described, sound

MASK = "mask.png"  # the members' suffix
NAMES = "classes.txt"  # of objects, by who wrote them
KEPT = (quarantine.QUARANTINE, quarantine.CONTAMINATION, REMOVED, NAMES)  # files that go along
COUNTED = ("quarantined", "ignored", "removed")  # of what the manifest says of the build


@dataclass(frozen=True)
class SaliencyReport:
    """What was written. Of what this run wrote, `empty` are masks without an object, `unreadable` images
    that have none, and `object_share` is the mean share of an image that is object.
    """

    out: str
    shards: int
    samples: int
    empty: int
    unreadable: int
    object_share: float
    continued: int  # shards that an earlier, interrupted run had finished
    seconds: float
    already_complete: bool = False

    def lines(self) -> list[str]:
        """The report for a terminal."""
        done = "already complete, nothing to do: " if self.already_complete else ""
        lines = [
            f"{done}{self.samples:,} images with masks in {self.shards:,} shards, in {self.out}"
        ]
        if self.continued:
            lines.append(f"continued: {self.continued:,} shards were there")
        if not self.already_complete:
            lines.append(
                f"objects take up {self.object_share:.0%} of an image; {self.empty:,} images have none"
            )
            if self.unreadable:
                lines.append(f"{self.unreadable:,} images cannot be decoded and have no mask")
            lines.append(f"{self.seconds:.1f} s, {self.samples / self.seconds:,.0f} images/s")
        return lines


def add_masks(
    directory: str | Path,
    out: str | Path,
    options: SaliencyOptions | None = None,
    progress: Progress | None = None,
) -> SaliencyReport:
    """Write the shards of `directory` anew into `out`, with a mask for each image; or go on where that
    was interrupted.

    Args:
        progress: called with images done and in all, a few times per second.

    Raises:
        InputError: no shards, shards that have masks already, a model that is none or gives something else, or `out`
            holds another thing. `directory` is never changed.
    """
    started = time.monotonic()
    options = options or SaliencyOptions()
    options.validate()
    manifest = Manifest.load(directory)
    out = Path(out)
    if isinstance(manifest.directory, Url):
        raise InputError(f"{directory}: masks are made where the shards lie on a disk; copy them")
    if out.resolve() == manifest.directory.resolve():
        raise InputError(f"--out {out} is where the shards are; give another folder")
    estimator(options)  # a model that is none is told before anything is written
    plan = {
        "options": options.identity(),
        "sources": [quarantine.text(os.fsencode(os.path.abspath(manifest.directory)))],
        "samples": manifest.samples,
        "listing": manifest.hash,
    }
    state.refuse_another(out, plan)
    if state.is_complete(out):
        made = Manifest.load(out)
        return SaliencyReport(str(out), len(made.shards), made.samples, 0, 0, 0.0, 0, 0.0, True)
    with state.locked(out), state.writing(out):
        state.refuse_another(out, plan)
        state.begin(out, plan)
        missing = state.unfinished(out, manifest.shards)
        with state.worthwhile(out):
            results = list(_write(manifest, out, missing, options, progress or (lambda *_: None)))
        _finish(manifest, out, plan)
        state.end(out)
    shares = [share for of_shard in results for share in of_shard]
    of_masks = [share for share in shares if share is not None]
    return SaliencyReport(
        out=str(out),
        shards=len(manifest.shards),
        samples=manifest.samples,
        empty=of_masks.count(0.0),
        unreadable=len(shares) - len(of_masks),
        object_share=sum(of_masks) / max(1, len(of_masks)),
        continued=len(manifest.shards) - len(missing),
        seconds=time.monotonic() - started,
    )


def estimator(options: SaliencyOptions) -> Callable[[np.ndarray], np.ndarray]:
    """What maps an image to a map from 0 to 1, of any size."""
    return _network(options.model, options.size) if options.model else salience.classical


@lru_cache(1)
def _network(path: str, size: int) -> Network:
    return Network(Path(path), size)


def mask_of(image: np.ndarray, options: SaliencyOptions) -> np.ndarray:
    """`(H, W)` bool of an `(H, W, 3)` uint8 image: where its object is."""
    map = salience.enlarged(estimator(options)(image), image.shape)
    return salience.cut_off(map, options.threshold, options.min_area)


@dataclass(frozen=True)
class MaskTask:
    """One shard to be written with masks."""

    directory: Path
    shard: str
    digest: str
    out: Path
    options: SaliencyOptions
    threads: int


def _write(
    manifest: Manifest, out: Path, missing: list[str], options: SaliencyOptions, progress: Progress
) -> Iterator[list[float | None]]:
    digests = dict(zip(manifest.shards, manifest.digests, strict=True))
    sizes = dict(zip(manifest.shards, manifest.sizes.tolist(), strict=True))
    done = manifest.samples - sum(sizes[shard] for shard in missing)

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress(done, manifest.samples)

    tick(0)
    workers = options.workers or pool.cores()
    processes = min(workers, len(missing))
    threads = math.ceil(workers / max(processes, 1))
    tasks = (
        MaskTask(manifest.directory, shard, digests[shard], out, options, threads)
        for shard in missing
    )
    yield from pool.run(write_masked, tasks, processes, tick)


def write_masked(task: MaskTask, tick: pool.Tick) -> list[float | None]:
    """Write one shard, its index, and the record by which it counts. Returns each image's share of
    object, None for one without a mask.
    """
    source = task.directory / task.shard
    if not source.is_file() or tars.sha256_file(source) != task.digest:
        raise InputError(
            f"{source} is not as its manifest says; run: seer shards verify {quoted(task.directory)}"
        )
    index = read_index(index_path(source))
    path = task.out / task.shard
    temporary = task.out / state.STATE / f".{task.shard}.{os.getpid()}"
    shares: list[float | None] = []
    with state.writing(task.out):
        try:
            with open(temporary, "wb") as file:
                writer, moved = _copy(task, index, file, shares, tick)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        offsets = [moved[offset] for offset in index["offset"].to_pylist()]
        column = index.schema.get_field_index("offset")
        table = index.set_column(column, index.schema.field(column), pa.array(offsets, pa.int64()))
        write_index(index_path(path), described(table, path))
        files.sync(path)
        labels = [label + 1 for label in index["label"].to_pylist() if label is not None]
        record: dict[str, Any] = {
            "shard": task.shard,
            "samples": len(index),
            "bytes": writer.bytes,
            "sha256": writer.sha256.hexdigest(),
            "labels": max(labels, default=0),
            "quarantine": [],
        }
        state.write_record(task.out, record)
    return shares


def _copy(
    task: MaskTask, index: pa.Table, file: BinaryIO, shares: list[float | None], tick: pool.Tick
) -> tuple[tars.TarWriter, dict[int, int]]:
    """Copy the entries of a tar, each indexed image followed by its mask. Returns the writer, and where
    each image lies now by where it lay.
    """
    source = task.directory / task.shard
    rows = {row["offset"]: row for row in index.select(["key", "offset", "size"]).to_pylist()}
    dropped = _old_masks(task, set(rows))
    entries = list(sound(tars.entries(source)))
    images = [rows[entry.offset] for entry in entries if entry.offset in rows]
    writer = tars.TarWriter(file)
    moved: dict[int, int] = {}
    with open_data(source) as tar, ThreadPoolExecutor(task.threads) as executor:
        make = partial(_masked, str(source), options=task.options)
        masks = pool.ahead(executor, make, images, 4 * task.threads)
        for entry in entries:
            if entry.offset in dropped:
                continue
            place = writer.bytes + entry.offset - entry.start
            writer.copy(tar, entry.start, entry.end)
            if entry.offset not in rows:
                continue
            moved[entry.offset] = place
            mask = next(masks)
            shares.append(None if mask is None else float(mask.mean()))
            if mask is not None:
                writer.add(f"{tars.split_name(entry.name)[0]}.{MASK}", salience.png(mask))
            tick(1)
    writer.close()
    return writer, moved


def _old_masks(task: MaskTask, images: set[int]) -> set[int]:
    """Where the masks lie that the samples have already. Raises InputError where they are not to be
    replaced, or where an image is not where the index says.
    """
    source = task.directory / task.shard
    samples = read_contents(source).samples
    if not images <= {sample.image.offset for sample in samples}:
        raise InputError(
            f"{source} is not what its index describes; run: seer shards verify {quoted(task.directory)}"
        )
    old = [sample for sample in samples if MASK in sample.companions]
    if old and not task.options.replace:
        raise InputError(
            f"{source}: {len(old):,} samples have a {MASK} already, {old[0].key} for one; --replace makes masks anew"
        )
    return {sample.companions[MASK].offset for sample in old}


def _masked(tar: str, row: dict[str, Any], options: SaliencyOptions) -> np.ndarray | None:
    """The mask of an image of the tar; None where it cannot be decoded, and another will replace it."""
    try:
        image = decode(tars.read_range(tar, row["offset"], row["size"]))
    except DamagedImage:
        return None
    return mask_of(image, options)


def _finish(manifest: Manifest, out: Path, plan: dict[str, Any]) -> None:
    """What goes along, and last the manifest, by which the shards count."""
    for name in KEPT:
        if (manifest.directory / name).is_file():
            shutil.copyfile(manifest.directory / name, out / name)
    facts = ("shard", "samples", "bytes", "sha256")
    rows = [
        {key: record[key] for key in facts}
        for record in (state.finished(out, shard) for shard in manifest.shards)
    ]
    counted = {key: value for key, value in manifest.build.items() if key in COUNTED}
    write_manifest(out, rows, {"classes": manifest.classes, "build": {**counted, **plan}})
