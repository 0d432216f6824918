"""Whole samples, as the webdataset library gives them, for whoever has transforms of their own; and
the batches of one pass over the data.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from seer.data.decoding.decode import DamagedImage, decode
from seer.data.delivery import Clock, Delivery, StepTask
from seer.data.hashing import mix
from seer.data.ledger import Damaged
from seer.data.members import Sample
from seer.data.storage.index import EXTRAS, Manifest
from seer.data.storage.reader import UNLABELLED, Reader

OPEN_RECORDS = 256  # shards whose keys a process holds
TRANSFORMS = 3  # a domain of the hash; `seer.data.order` has the first two
SUFFIXES = {"JPEG": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}  # of formats whose name is no suffix

Transform = Callable[["Members"], Any]
Collate = Callable[[list], Any]


class Members(dict[str, Any]):
    """A sample: `__key__`, `__url__` of its tar, and the bytes of its members by their suffixes: the
    image (`jpg`, `png`, ... by its format), `cls` (its label's number), `json`, `txt`, ...

    Attributes:
        suffix: of the image.
    """

    suffix: str

    @property
    def image(self) -> np.ndarray:
        """The image, decoded: `(H, W, 3)` uint8 RGB, upright. Raises `DamagedImage`."""
        return decode(self[self.suffix])


class Records:
    """What samples are called, out of the shards' indices. Picklable."""

    def __init__(self, reader: Reader, suffixes: tuple[str, ...]):
        self.reader = reader
        self.suffixes = suffixes
        self._table = lru_cache(OPEN_RECORDS)(self._read)

    def __reduce__(self) -> tuple[type[Self], tuple[Reader, tuple[str, ...]]]:
        return type(self), (self.reader, self.suffixes)

    def members(self, id: int, sample: Sample) -> Members:
        """The sample of this id with its names."""
        manifest = self.reader.manifest
        (shard,), (row,) = self.reader.locate(np.array([id]))
        names = self._table(int(shard)).slice(int(row), 1).to_pylist()[0]
        members = Members(__key__=names["key"])
        members["__url__"] = str(manifest.directory / manifest.shards[shard])
        members.suffix = SUFFIXES.get(names["format"], names["format"].lower())
        members[members.suffix] = sample.image
        label = names["label"]
        if label is not None and label != UNLABELLED:
            members["cls"] = str(label).encode()
        given = zip(self.suffixes, sample.extras, strict=True)
        members.update({suffix: content for suffix, content in given if content is not None})
        return members

    def _read(self, shard: int) -> pa.Table:
        return self.reader.manifest.index(shard, ["key", "format", "label"]).combine_chunks()


def suffixes_of(manifest: Manifest) -> tuple[str, ...]:
    """Of the members besides images that the first shard has."""
    shard = int(np.flatnonzero(manifest.sizes)[0])
    table = manifest.index(shard, [EXTRAS])
    if EXTRAS not in table.column_names:
        return ()
    return tuple(sorted(set(table[EXTRAS].combine_chunks().flatten().field("suffix").to_pylist())))


@dataclass(frozen=True)
class SampleBatch:
    """What a worker sends: a batch as `collate` made it, and `(B,)` int64 sample ids."""

    made: Any
    index: Tensor
    crops: tuple[Tensor, ...] = ()

    def pin_memory(self, device: str | None = None) -> "SampleBatch":
        return self


class SampleCutter:
    """Takes samples as they are; a `Cutter` for `SampleTask`, which decodes nothing by itself.

    Args:
        suffixes: of the members that are read besides the image.
        transform: of each sample; None leaves it as it is.
        collate: of the list of a batch.
    """

    dtype: type = np.uint8

    def __init__(self, suffixes: tuple[str, ...], transform: Transform | None, collate: Collate):
        self.suffixes = suffixes
        self.transform = transform
        self.collate = collate

    def shapes(self, count: int) -> list[tuple[int, ...]]:
        return []

    def plan(
        self, shapes: Sequence[tuple[int, int]], epochs: np.ndarray, ids: np.ndarray
    ) -> NoReturn:
        raise AssertionError("whole samples are not planned")

    def finish(self, batch: Any, device: torch.device | str) -> Any:
        return batch.made


@dataclass(frozen=True)
class PassTask(StepTask):
    """The batches of one pass: stream positions `begin` … `end` - 1. The last may be of fewer samples;
    they are shared out as evenly as can be.
    """

    begin: int = 0
    end: int = 0

    def positions(self, step: int) -> np.ndarray:
        batch = self.share * self.world_size
        start = self.begin + step * batch
        count = max(0, min(batch, self.end - start))
        first = count * self.rank // self.world_size
        stop = count * (self.rank + 1) // self.world_size
        return np.arange(start + first, start + stop)

    def ids(self, step: int) -> np.ndarray:
        positions = self.positions(step)
        if not len(positions):  # who reads ahead asks beyond the end
            return np.empty(0, np.int64)
        return self.order.ids(int(positions[0]), len(positions))


@dataclass(frozen=True)
class SampleTask(PassTask):
    """Step number → `Delivery` of this rank's samples, transformed and collated."""

    seed: int = 0
    encoded: bool = True  # nothing of it goes through shared memory that is laid out beforehand

    def __call__(self, step: int) -> Delivery:
        clock = Clock()
        positions = self.positions(step)
        ids = self.ids(step)
        samples = self._read(step, ids)
        clock.lap("read")
        assert isinstance(self.reader, Reader)
        records = _records(self.reader, self.cutter.suffixes)
        damaged = list[Damaged]()
        made = []
        epochs = self.order.epoch(positions)
        seeds = mix(self.seed, TRANSFORMS, epochs, ids).tolist()
        for position, id, sample, seed in zip(
            positions.tolist(), ids.tolist(), samples, seeds, strict=True
        ):
            _reseed(seed)
            made.append(self._made(records, position, id, sample, damaged))
        assert isinstance(self.cutter, SampleCutter)
        batch = SampleBatch(self.cutter.collate(made), torch.from_numpy(ids))
        clock.lap("transform")
        return Delivery(batch, damaged, clock.seconds)

    def _made(
        self, records: Records, position: int, id: int, sample: Sample, damaged: list[Damaged]
    ) -> Any:
        """The sample, transformed; or, if that fails because its image is damaged, the next good one
        of its shard, which is added to `damaged`.
        """
        assert isinstance(self.cutter, SampleCutter)
        transform = self.cutter.transform
        members = records.members(id, sample)
        if transform is None:
            return members
        try:
            return transform(members)
        except Exception:
            reason = _damage(sample.image)
            if not reason:
                raise
        reader = records.reader
        instead = reader.replacement(id, reason, records.suffixes)
        damaged.append(Damaged(position, id, instead.id, reason))
        (good,) = reader.read_samples(np.array([instead.id]), records.suffixes)
        return transform(records.members(instead.id, good))


@lru_cache(4)
def _records(reader: Reader, suffixes: tuple[str, ...]) -> Records:
    return Records(reader, suffixes)


def _damage(image: bytes) -> str:
    """Why an image cannot be decoded; "" if it can."""
    try:
        decode(image)
    except DamagedImage as damage:
        return damage.reason
    return ""


def _reseed(seed: int) -> None:
    """In a worker's process, let random numbers depend on the sample alone: torch starts all workers
    of all passes alike. Other processes have random numbers of their own.
    """
    if get_worker_info() is None:
        return
    torch.manual_seed(seed % 2**63)
    random.seed(seed)
    np.random.seed(seed % 2**32)
