"""A shard without some of its samples: the bytes of the others stay as they are and move forward."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from seer.errors import InputError, quoted
from seer.inputs import open_data
from shards.archives import tars
from shards.archives.contents import TarContents, read_contents
from shards.archives.headers import LINK
from shards.sources.samples import with_extras
from shards.sources.scan import scan_tar


@dataclass
class CutShard:
    """What was written: the index of what remains, and the tar's size and SHA-256 (hex)."""

    table: pa.Table
    bytes: int
    sha256: str


def cut(tar: Path, index: pa.Table, rows: Sequence[int] | np.ndarray, new: Path) -> CutShard:
    """Write `tar` without the samples of some rows of its `index` to `new`.

    All members of such a sample go, and so do links to them. A damaged end is left out, as the
    index had it. Raises InputError when the samples are not where the index says.
    """
    gone = np.zeros(len(index), bool)
    gone[rows] = True
    offsets = index["offset"].to_numpy()
    contents = read_contents(tar)
    if not set(offsets.tolist()) <= {sample.image.offset for sample in contents.samples}:
        raise InputError(
            f"{tar} is not what its index describes; run: seer shards verify {quoted(tar.parent)}"
        )
    spans, end = _spans(tar, _gone(contents, set(offsets[gone].tolist())))
    with open_data(tar) as source, open(new, "wb") as file:
        writer = tars.TarWriter(file)
        start = 0
        for span_start, span_end in [*spans, (end, end)]:
            writer.copy(source, start, span_start)
            start = span_end
        writer.close()
    table = _moved(index.filter(pa.array(~gone)), spans)
    return CutShard(described(table, new), writer.bytes, writer.sha256.hexdigest())


def _spans(tar: Path, gone: dict[int, str]) -> tuple[list[tuple[int, int]], int]:
    """`(start, end)` of all that goes with these members, names by offset, and the end of the last
    entry.

    What lies between the entries goes as well: the ends of archives that were put together in one
    file.
    """
    names = set(gone.values())
    spans = []
    end = 0
    for entry in sound(tars.entries(tar)):
        if entry.start > end:
            spans.append((end, entry.start))
        if entry.link in names if entry.kind == LINK else entry.offset in gone:
            spans.append((entry.start, entry.end))
        end = entry.end
    return spans, end


def _gone(contents: TarContents, images: set[int]) -> dict[int, str]:
    """Names by offset of all members of the samples with these images, and of strays that may
    belong to them.
    """
    gone: dict[int, str] = {}
    keys = set[str]()
    for sample in contents.samples:
        members = [sample.image, *sample.companions.values()]
        if any(member.offset in images for member in members):
            gone |= {member.offset: member.name for member in members}
            keys.add(sample.key)
    strays = (member for member in contents.strays if tars.split_name(member.name)[0] in keys)
    return gone | {member.offset: member.name for member in strays}


def sound(entries: Iterator[tars.Entry]) -> Iterator[tars.Entry]:
    """The entries before the damage, if there is any."""
    try:
        yield from entries
    except tars.DamagedTar:
        return


def _moved(index: pa.Table, spans: list[tuple[int, int]]) -> pa.Table:
    """The index with its offsets less what was taken out before them."""
    edges = np.array(spans, np.int64).reshape(-1, 2)
    starts, ends = edges.T
    taken = np.cumsum(ends - starts)
    taken_before = np.concatenate([[0], taken])
    offsets = index["offset"].to_numpy()
    spans_before = np.searchsorted(starts, offsets)
    moved = offsets - taken_before[spans_before]
    column = index.schema.get_field_index("offset")
    field = index.schema.field(column)
    return index.set_column(column, field, pa.array(moved, pa.int64()))


def described(index: pa.Table, tar: Path) -> pa.Table:
    """The index with the keys and other members that the tar gives now.

    Where a name occurs twice, its key depends on what stands before; and an earlier version did not
    enter the other members.
    """
    rows = {row["offset"]: row for row in scan_tar(tar).table.to_pylist()}
    samples = [rows[offset] for offset in index["offset"].to_pylist()]
    keys = pa.array([sample["key"] for sample in samples], pa.string())
    index = index.set_column(index.schema.get_field_index("key"), index.schema.field("key"), keys)
    return with_extras(index, [sample["extras"] for sample in samples])
