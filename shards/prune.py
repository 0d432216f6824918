"""The last step of a build before its manifest: what is not wanted is taken out of shards that are
finished.

What goes is decided once, from the indices of all shards, and written down. Each shard concerned is
then written anew beside itself; its record is what makes the new one count. So a build that is
killed here, too, is continued by the same command and ends with the same bytes, without reading its
sources again.
"""

import os
from collections.abc import Iterable
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seer import files
from seer.data.storage.index import MOST_SAMPLES, SHARD, index_path, read_index, write_index
from seer.data.storage.tables import TableFormat
from seer.errors import InputError
from seer.inputs import read_bytes
from seer.schema import Integer, Maybe, MismatchError, Text
from shards import pool
from shards.dedup.find import REMOVALS as FOUND
from shards.dedup.find import find
from shards.dedup.known import of_shards
from shards.options import DedupOptions
from shards.records import quarantine, state
from shards.writing.cut import cut

REMOVALS = "removals.parquet"  # in the build's state
LARGEST_REMOVALS = 2**33  # bytes
REMOVALS_FORMAT = TableFormat(
    pa.schema([*FOUND, ("shard", pa.string()), ("row", pa.int64())]),
    {
        "place": Integer(0),
        "reason": Text(2**21),
        "dataset": Maybe(Text()),
        "like": Maybe(Text(2**20)),
        "distance": Maybe(Integer(0, 64)),
        "shard": SHARD,
        "row": Integer(0, MOST_SAMPLES),
    },
    2**30,
    LARGEST_REMOVALS,
)


def prune(out: Path, shards: list[str], options: DedupOptions, workers: int) -> None:
    """Take duplicates and other unwanted images out of the finished shards of a build."""
    if not options.any:
        return
    workers = workers or pool.cores()
    removals = _decided(out, shards, options, workers)
    tasks = []
    start = 0
    for shard, group in groupby(removals["shard"].to_pylist()):
        of_shard = removals.slice(start, len(list(group)))
        start += len(of_shard)
        if not (record := state.finished(out, shard)).get("pruned"):
            tasks.append((out, record, of_shard))
    for _ in pool.run(prune_shard, tasks, min(workers, len(tasks))):
        pass


def _decided(out: Path, shards: list[str], options: DedupOptions, workers: int) -> pa.Table:
    """What goes, with the columns `shard` and `row`: as written down earlier, or found now."""
    path = state.file_of(out, state.STATE, REMOVALS)
    if not path.exists():
        filled = [record for shard in shards if (record := state.finished(out, shard))["samples"]]
        names = [record["shard"] for record in filled]
        sizes = [record["samples"] for record in filled]
        own = of_shards(out, names, sizes)
        table = find(own, options, out / state.STATE, workers)
        ends = np.cumsum([0, *sizes])
        places = table["place"].to_numpy()
        numbers = np.searchsorted(ends, places, side="right") - 1
        table = table.append_column("shard", pa.array(names, pa.string()).take(pa.array(numbers)))
        table = table.append_column("row", pa.array(places - ends[numbers]))
        with files.replacing(path) as beside:
            pq.write_table(table, beside)
    try:
        table = REMOVALS_FORMAT.parse(read_bytes(path, LARGEST_REMOVALS))
        _check_rows(table, {shard: state.finished(out, shard) for shard in shards})
    except MismatchError as error:
        raise InputError(
            f"{path} is not what a build wrote ({error}); remove it, and run the same command"
        ) from None
    return table


def _check_rows(removals: pa.Table, records: dict[str, dict[str, Any]]) -> None:
    """Raise `MismatchError` unless the rows are of these shards, each shard's together and rising."""
    names = removals["shard"].to_pylist()
    rows = removals["row"].to_numpy()
    runs = [name for name, _ in groupby(names)]
    shards = set(runs)
    if len(shards) < len(runs) or not shards <= records.keys():
        raise MismatchError("shard", "rows of one shard are apart, or of no shard of this build")
    same_shard = [before == name for before, name in pairwise(names)]
    steps = np.diff(rows)[np.array(same_shard, bool)]
    if (steps <= 0).any():
        raise MismatchError("row", "the rows of a shard do not rise")


def prune_shard(task: tuple[Path, dict[str, Any], pa.Table], tick: pool.Tick) -> None:
    """Write one shard without its rows of `removals`, and make that one count."""
    out, record, removals = task
    index = read_index(index_path(out / record["shard"]))
    rows = removals["row"].to_numpy()
    if len(index) != record["samples"] or rows[-1] >= len(index):
        raise InputError(
            f"{out / record['shard']}: its index differs from its record; remove {out}, and build anew"
        )
    with state.writing(out):
        if len(rows) < len(index):
            tar, new_index = _staged(out, record["shard"])
            tar.unlink(missing_ok=True)  # a link, perhaps, through which we would write elsewhere
            new = cut(out / record["shard"], index, rows, tar)
            write_index(new_index, new.table)
            files.sync(tar)
            record |= {"bytes": new.bytes, "sha256": new.sha256}
        record["samples"] -= len(rows)
        gone = index.take(pa.array(rows))
        for image, removal in zip(gone.to_pylist(), removals.to_pylist(), strict=True):
            record["quarantine"].append({"source": image["source"], "reason": removal["reason"]})
            if removal["dataset"] is not None:
                record.setdefault("contamination", []).append(_contamination(image, removal))
        state.write_record(out, {**record, "staged": True})
        _place(out, record)


def _contamination(image: dict[str, Any], removal: dict[str, Any]) -> dict[str, Any]:
    facts = {"key": image["key"], "source": image["source"], "sha256": image["sha256"].hex()}
    return {**facts, **{name: removal[name] for name in ("dataset", "like", "distance")}}


def write_contamination(out: Path, records: Iterable[dict[str, Any]]) -> None:
    """List what was left out because an evaluation set has it; no file is left where there is
    nothing to list.
    """
    found = (entry for record in records for entry in record.get("contamination", []))
    quarantine.write(out, found, quarantine.CONTAMINATION)


def settle(out: Path) -> None:
    """Put shards in place whose record says that they are written, where a killed build had not
    come to it.
    """
    for path in sorted((out / state.STATE).glob("shard-*.tar.json")):  # and nobody else's
        record = state.read_record(out, path.name.removesuffix(".json"))
        if record and record.pop("staged", False):
            _place(out, record)


def _place(out: Path, record: dict[str, Any]) -> None:
    path = out / record["shard"]
    staged = _staged(out, record["shard"])
    for new, old in zip(staged, (path, index_path(path)), strict=True):
        if not record["samples"]:
            old.unlink(missing_ok=True)
        elif new.exists():
            os.replace(new, old)
    state.write_record(out, {**record, "pruned": True})


def _staged(out: Path, shard: str) -> tuple[Path, Path]:
    """Where a new tar and its index wait."""
    folder = out / state.STATE
    return folder / f"{shard}.new", folder / f"{shard}.new.index"
