"""Some of the images of shards as data of their own; no tar is written anew.

A list has the keys of samples, a line each. Ids count through the images that it names, in the
manifest's order, so order, ledger and audit are those of a smaller data set; and what these hash to
depends on which images they are.
"""

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seer import files
from seer.data.storage.index import MOST_SAMPLES, MOST_SHARDS, Manifest
from seer.data.storage.store import REQUESTS
from seer.data.storage.tables import TableFormat
from seer.errors import InputError
from seer.inputs import UnreadableError, read_bytes, read_text
from seer.schema import Integer, MismatchError

LARGEST_LIST = 2**34  # bytes; of a user's own
LARGEST_CHOSEN = 2**32  # of a run directory, which may be a stranger's
CHOSEN_FORMAT = TableFormat(
    pa.schema([("shard", pa.int32()), ("row", pa.int32())]),
    {"shard": Integer(0, MOST_SHARDS), "row": Integer(0, MOST_SAMPLES)},
    most_rows=2**30,
    most_bytes=LARGEST_CHOSEN,
)


class Subset(Manifest):
    """A manifest of some rows of each shard.

    Attributes:
        rows: for each shard `(n,)` int32, rising, the rows of its index that are in.
    """

    is_part = True

    def __init__(self, whole: Manifest, rows: Sequence[np.ndarray]):
        super().__init__(whole.directory, whole.table)
        self.whole = whole
        self.rows = list(rows)
        self.sizes = np.array([len(chosen) for chosen in rows], dtype=np.int64)

    def index(self, shard: int, columns: list[str] | None = None) -> pa.Table:
        """The rows of a shard's index that are in."""
        self.whole.directory = self.directory
        return self.whole.index(shard, columns).take(pa.array(self.rows[shard]))

    def chosen(self, shard: int, values: list) -> list:
        """Of a value for each row of a shard, those of the rows that are in."""
        return [values[row] for row in self.rows[shard].tolist()]

    @property
    def image_bytes(self) -> float:
        """Of a sample, on average over the whole shards."""
        return self.whole.image_bytes

    @property
    def hash(self) -> str:
        """Of the whole and of the rows."""
        digest = hashlib.sha256(self.whole.hash.encode())
        for rows in self.rows:
            digest.update(len(rows).to_bytes(8, "little") + rows.astype("<i4").tobytes())
        return digest.hexdigest()[:16]

    def save_chosen(self, path: Path) -> None:
        """Write which rows are in, as a run keeps it beside its copy of the manifest."""
        shards = np.repeat(np.arange(len(self.rows), dtype=np.int32), self.sizes)
        rows = np.concatenate([np.empty(0, np.int32), *self.rows])
        buffer = io.BytesIO()
        pq.write_table(pa.table({"shard": shards, "row": rows}), buffer)
        with files.replacing(path) as beside:
            beside.write_bytes(buffer.getvalue())


def subset_of(manifest: Manifest, path: Path | str, option: str = "subset") -> Subset:
    """The samples whose keys a file lists.

    Raises:
        InputError: there is no such file, it names nothing, or a key that the data have not.
    """
    places = _places(manifest, read_keys(path, option), path, option)
    return Subset(manifest, [np.flatnonzero(of_shard >= 0).astype(np.int32) for of_shard in places])


def read_keys(path: Path | str, option: str) -> list[str]:
    """The keys in a list, each once. Raises `InputError` where there are none."""
    try:
        lines = read_text(Path(path), LARGEST_LIST).splitlines()
    except FileNotFoundError:
        raise InputError(
            f"{option}={path}: no such file; give a list of keys, a line each"
        ) from None
    keys = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not keys:
        raise InputError(f"{option}={path}: is empty; a list has the keys of samples, a line each")
    return keys


def members(manifest: Manifest, lists: Sequence[str], option: str) -> np.ndarray:
    """`(N,)` int16: which of the lists has each sample's key, -1 for none.

    Raises:
        InputError: as `subset_of`; a key is in two lists.
    """
    list_of: dict[str, int] = {}
    for number, path in enumerate(lists):
        for key in read_keys(path, option):
            earlier = list_of.setdefault(key, number)
            if earlier != number:
                raise InputError(
                    f"{option}={path}: has {key!r:.100}, which is in {lists[earlier]} as well; an image has one expert"
                )
    places = np.concatenate(_places(manifest, list(list_of), ", ".join(lists), option))
    numbers = np.array([*list_of.values(), -1], np.int16)  # the last for those in no list
    return numbers[places]


def _places(manifest: Manifest, keys: list[str], path: Path | str, option: str) -> list[np.ndarray]:
    """For each shard `(n,)`: the place of each row's key in `keys`, -1 for none. Raises `InputError` where
    one of them is in no shard.
    """
    wanted = pa.array(keys, pa.string())
    is_there = np.zeros(len(keys), bool)
    places = []
    with ThreadPoolExecutor(REQUESTS) as pool:
        tables = pool.map(partial(manifest.index, columns=["key"]), range(len(manifest.shards)))
        for table in tables:
            column = pc.index_in(table["key"].combine_chunks(), value_set=wanted)
            of_shard = column.fill_null(-1).to_numpy()
            is_there[of_shard[of_shard >= 0]] = True
            places.append(of_shard)
    missing = np.flatnonzero(~is_there)
    if len(missing):
        first = keys[int(missing[0])]
        raise InputError(
            f"{option}={path}: {len(missing):,} of its {len(keys):,} keys are not in {manifest.directory}, "
            f"the first is {first!r:.100}; give keys as seer embed and seer cluster write them of these shards"
        )
    return places


def load_kept(folder: Path, chosen: str, directory: Any) -> Manifest:
    """The manifest that a run keeps in `folder`, with the rows in the file `chosen`, if there is one.

    Args:
        directory: where its shards lie.

    Raises:
        InputError: unreadable, or rows that the shards have not.
    """
    manifest = Manifest.load(folder)
    manifest.directory = directory
    path = folder / chosen
    if not path.is_file():
        return manifest
    try:
        table = CHOSEN_FORMAT.parse(read_bytes(path, LARGEST_CHOSEN))
        return Subset(manifest, _within(manifest, table))
    except MismatchError as error:
        raise UnreadableError(f"{path}: {error}") from None


def _within(manifest: Manifest, table: pa.Table) -> list[np.ndarray]:
    """The rows of each shard. Raises `MismatchError` unless the shards have them, in this order."""
    shards = table["shard"].to_numpy()
    rows = table["row"].to_numpy()
    if not len(rows):
        raise MismatchError("row", "none")
    is_sorted = np.all(np.diff(shards) >= 0) and shards[-1] < len(manifest.shards)
    if not is_sorted:
        raise MismatchError("shard", "not rising, or beyond the shards")
    parts = np.split(rows, np.searchsorted(shards, np.arange(1, len(manifest.shards))))
    for size, part in zip(manifest.sizes.tolist(), parts, strict=True):
        if len(part) and (part[-1] >= size or np.any(np.diff(part) <= 0)):
            raise MismatchError("row", "not rising, or beyond the samples of a shard")
    return parts
