"""Samples' bytes by global id, out of shards in a folder or a store, with bounded numbers of open
files and indices.
"""

import os
from collections.abc import Iterator
from functools import lru_cache, partial
from threading import Lock
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seer.background import in_background
from seer.data.decoding.decode import DamagedImage, decode
from seer.data.members import Replacement, Sample
from seer.data.storage.index import EXTRAS, Manifest, index_path
from seer.data.storage.remote import FetchConfig, IdsOf, ReadAhead, RemoteShards, Span
from seer.data.storage.store import REQUESTS, Url
from seer.errors import InputError, quoted
from seer.inputs import open_regular

OPEN_FILES = 256  # well under the usual limit of 1,024 descriptors
OPEN_INDICES = (
    1024  # at 10,000 samples a shard, 200 MB; for each suffix that is asked for 120 MB more
)
UNLABELLED = -1


class Reader:
    """Reads samples by global id: their place when the shards are laid end to end in the manifest's
    order.

    Safe to share between threads, and to send to another process, where it opens its own files.

    Args:
        fetch, open_shards: how to read from a store, and how many shards this host reads at a time.
    """

    def __init__(self, manifest: Manifest, fetch: FetchConfig | None = None, open_shards: int = 1):
        self.manifest = manifest
        self._options = fetch or FetchConfig(), open_shards
        self._remote = (
            RemoteShards(manifest, *self._options) if isinstance(manifest.directory, Url) else None
        )
        self._ahead: dict[tuple[str, ...], ReadAhead[Sample]] = {}
        self._ends = np.cumsum(manifest.sizes)
        self._file = lru_cache(OPEN_FILES)(partial(_File, manifest))
        self._loading = Lock()
        # Shards of a store whose indices have been here, and for which suffixes.
        self._seen: set[tuple[int, tuple[str, ...]]] = set()
        self._index = lru_cache(OPEN_INDICES)(partial(_Index, manifest))

    def __reduce__(self) -> tuple[type[Self], tuple[Manifest, FetchConfig, int]]:
        return type(self), (self.manifest, *self._options)

    def __len__(self) -> int:
        return self.manifest.samples

    def locate(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`(shards, rows)`: the number of each sample's shard, and its row in that shard's index."""
        shards = np.searchsorted(self._ends, ids, side="right")
        return shards, ids - (self._ends[shards] - self.manifest.sizes[shards])

    def read(self, ids: np.ndarray) -> list[bytes]:
        """The encoded images of `ids`, in their order. A file that ends early gives short or empty
        bytes.
        """
        return [sample.image for sample in self.read_samples(ids)]

    def read_samples(
        self, ids: np.ndarray, suffixes: tuple[str, ...] = (), images: bool = True
    ) -> list[Sample]:
        """The samples `ids`, in their order, with the members of these suffixes and no others.

        Args:
            images: read them, too; else they are empty.

        Raises:
            InputError: members are asked for, and an index does not say where they lie.
        """
        ids = np.asarray(ids, dtype=np.int64)
        order = np.argsort(ids, kind="stable")  # forward through each shard
        shards, rows = self.locate(ids[order])
        fetched = self._indices(shards, suffixes) if self._remote else {}
        spans: list[Span] = []
        present: list[list[bool]] = []  # which members each sample has
        for shard, row in zip(shards.tolist(), rows.tolist(), strict=True):
            index = fetched[shard] if self._remote else self._index(shard, suffixes)
            members = index.members(row)
            members[0] = members[0] if images else None
            spans += [(shard, *member) for member in members if member is not None]
            present.append([member is not None for member in members])
        data = iter(self._remote.read(spans) if self._remote else self._read_files(spans))
        samples = [Sample(b"")] * len(ids)
        for place, has in zip(order.tolist(), present, strict=True):
            image, *extras = [next(data) if member else None for member in has]
            samples[place] = Sample(image or b"", tuple(extras))
        return samples

    def _read_files(self, spans: list[Span]) -> Iterator[bytes]:
        for shard, offset, size in spans:
            yield self._file(shard).read(offset, size)

    def read_step(
        self,
        ids: np.ndarray,
        step: int,
        ids_of: IdsOf,
        stride: int = 1,
        suffixes: tuple[str, ...] = (),
    ) -> list[Sample]:
        """The samples `ids`, which are `ids_of(step)`, for a worker whose next steps are `stride`
        apart, as `read_samples` gives them.

        Out of a store, those of the next steps are fetched in the background meanwhile.
        """
        if not self._remote:
            return self.read_samples(ids, suffixes)
        read = partial(self.read_samples, suffixes=suffixes)
        ahead = self._ahead.setdefault(suffixes, ReadAhead(read, self.manifest.image_bytes))
        return ahead.take(len(ids), step, ids_of, stride)

    def labels(self, ids: np.ndarray) -> np.ndarray:
        """`(len(ids),)` int64 labels; `UNLABELLED` where the index has none."""
        ids = np.asarray(ids, dtype=np.int64)
        labels = np.full(len(ids), UNLABELLED, dtype=np.int64)
        shards, rows = self.locate(ids)
        for shard, index in self._indices(shards, ()).items():
            of_shard = shards == shard
            labels[of_shard] = index.labels[rows[of_shard]]
        return labels

    @property
    def name(self) -> str:
        """Where the samples lie."""
        return str(self.manifest.directory)

    @property
    def identity(self) -> str:
        """What the samples hash to."""
        return self.manifest.hash

    def replacement(self, damaged: int, reason: str, suffixes: tuple[str, ...] = ()) -> Replacement:
        """The next good sample of the shard: the same one in every run, on every rank. Of a subset, of
        whose shards some have a single sample, the next good one of all where the shard has none.

        Raises:
            InputError: there is none.
        """
        for id in self._instead(damaged):
            (sample,) = self.read_samples(np.array([id]), suffixes)
            try:
                return Replacement(decode(sample.image), sample.extras, id)
            except DamagedImage:
                continue
        shard = self.manifest.shards[int(self.locate(np.array([damaged]))[0][0])]
        raise InputError(
            f"{self.manifest.directory / shard} has no readable image left; "
            f"run: seer shards verify {quoted(self.manifest.directory)}"
        )

    def _instead(self, damaged: int) -> Iterator[int]:
        """The samples that may stand in for a damaged one, in turn."""
        id = self.next_in_shard(damaged)
        while id != damaged:
            yield id
            id = self.next_in_shard(id)
        if self.manifest.is_part:
            yield from range(damaged + 1, len(self))
            yield from range(damaged)

    def next_in_shard(self, sample: int) -> int:
        """The id that follows within the same shard, the first one after the last."""
        (shard,), (row,) = self.locate(np.array([sample]))
        return int(sample - row + (row + 1) % self.manifest.sizes[shard])

    def _indices(self, shards: np.ndarray, suffixes: tuple[str, ...]) -> dict[int, "_Index"]:
        """The indices of these shards; those of a store are fetched side by side."""
        numbers = np.unique(shards).tolist()
        with self._loading:
            new = [s for s in numbers if self._remote and (s, suffixes) not in self._seen]
            for i in range(0, len(new), REQUESTS):
                group = new[i : i + REQUESTS]
                for loading in [in_background(self._index, s, suffixes) for s in group]:
                    loading.result()
            self._seen.update((s, suffixes) for s in new)
        return {s: self._index(s, suffixes) for s in numbers}


class _Index:
    """What reading needs of a shard's index.

    Attributes:
        labels: by row; `UNLABELLED` where there is none.
        places: of the images, and of the members of each suffix: two arrays by row, offsets and sizes. A size below 0
            says that there is no such member.
    """

    def __init__(self, manifest: Manifest, shard: int, suffixes: tuple[str, ...]):
        tar = manifest.directory / manifest.shards[shard]
        if isinstance(tar, Url):
            manifest.check_size(shard, tar.size())
        columns = ["offset", "size", "label"]
        table = manifest.index(shard, [*columns, EXTRAS] if suffixes else columns)
        self.labels = table["label"].fill_null(UNLABELLED).to_numpy()
        self.places = [(table["offset"].to_numpy(), table["size"].to_numpy())]
        if not suffixes:
            return
        if EXTRAS not in table.column_names:
            remedy = f"run: seer shards index {quoted(tar.parent)}"
            if isinstance(tar, Url):
                remedy = (
                    "run seer shards index where the tars can be written, and upload the indices"
                )
            raise InputError(
                f"{index_path(tar)} does not say where a sample's {suffixes[0]} lies: "
                f"an earlier seer wrote it; {remedy}"
            )
        column = table[EXTRAS].combine_chunks()
        self.places += [_places(column, suffix) for suffix in suffixes]

    def members(self, row: int) -> list[tuple[int, int] | None]:
        """Offset and size of the image in this row and of its other members, None where there is
        none.
        """
        places = [(int(offsets[row]), int(sizes[row])) for offsets, sizes in self.places]
        return [place if place[1] >= 0 else None for place in places]


def _places(extras: pa.ListArray, suffix: str) -> tuple[np.ndarray, np.ndarray]:
    """`(n,)` int64 offsets and int32 sizes of the members of this suffix; -1 where there is none.

    Of several with one suffix, which nobody writes, it is the last.
    """
    offsets = np.full(len(extras), -1, np.int64)
    sizes = np.full(len(extras), -1, np.int32)
    items = extras.flatten()
    chosen = pc.equal(items.field("suffix"), suffix).to_numpy(zero_copy_only=False)
    rows = pc.list_parent_indices(extras).to_numpy()[chosen]
    offsets[rows] = items.field("offset").to_numpy()[chosen]
    sizes[rows] = items.field("size").to_numpy()[chosen]
    return offsets, sizes


class _File:
    """An open shard; closed when its last user lets go of it, so eviction cannot close it under a
    reading thread.
    """

    def __init__(self, manifest: Manifest, shard: int):
        path = manifest.directory / manifest.shards[shard]
        try:
            self.descriptor = open_regular(path)
        except FileNotFoundError as error:
            hint = f"run: seer shards verify {quoted(path.parent)}"
            raise InputError(f"{path} cannot be read ({error.strerror}); {hint}") from error
        manifest.check_size(shard, os.fstat(self.descriptor).st_size)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, offset)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
