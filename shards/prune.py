"""The last step of a build before its manifest: what is not wanted is taken out of shards that are finished.

What goes is decided once, from the indices of all shards, and written down. Each shard concerned is then written anew
beside itself; its record is what makes the new one count. So a build that is killed here, too, is continued by the same
command and ends with the same bytes, without reading its sources again.
"""

import json
import os
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seer import files
from seer.data.index import index_path, read_index, read_parquet, write_index
from shards import pool, quarantine, state
from shards.cut import cut
from shards.dedup import DedupOptions, find
from shards.known import of_shards

CONTAMINATION = "contamination.jsonl"
REMOVALS = "removals.parquet"  # in the build's state


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
    path = out / state.STATE / REMOVALS
    if not path.exists():
        filled = [record for shard in shards if (record := state.finished(out, shard))["samples"]]
        names, sizes = [record["shard"] for record in filled], [record["samples"] for record in filled]
        own = of_shards(out, names, sizes)
        table = find(own, options, out / state.STATE, workers)
        ends = np.cumsum([0, *sizes])
        places = table["place"].to_numpy()
        numbers = np.searchsorted(ends, places, side="right") - 1
        table = table.append_column("shard", pa.array(names, pa.string()).take(pa.array(numbers)))
        table = table.append_column("row", pa.array(places - ends[numbers]))
        with files.replacing(path) as beside:
            pq.write_table(table, beside)
    return read_parquet(path)


def prune_shard(task: tuple[Path, dict[str, Any], pa.Table], tick: pool.Tick) -> None:
    """Write one shard without its rows of `removals`, and make that one count."""
    out, record, removals = task
    index = read_index(index_path(out / record["shard"]))
    rows = removals["row"].to_numpy()
    with state.writing(out):
        if len(rows) < len(index):
            tar, new_index = _staged(out, record["shard"])
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
    """List what was left out because an evaluation set has it; no file is left where there is nothing to list."""
    found = (entry for record in records for entry in record.get("contamination", []))
    quarantine.write(out, found, CONTAMINATION)


def settle(out: Path) -> None:
    """Put shards in place whose record says that they are written, where a killed build had not come to it."""
    for path in sorted((out / state.STATE).glob("*.tar.json")):
        record = json.loads(path.read_text())
        if record.pop("staged", False):
            _place(out, record)


def _place(out: Path, record: dict[str, Any]) -> None:
    path, staged = out / record["shard"], _staged(out, record["shard"])
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
