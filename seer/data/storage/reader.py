"""Samples' bytes by global id, out of shards in a folder or a store, with bounded numbers of open
files and indices.
"""

import os
from functools import lru_cache, partial
from threading import Lock
from typing import Self

import numpy as np

from seer.background import in_background
from seer.data.decoding.decode import DamagedImage, decode
from seer.data.storage.index import Manifest
from seer.data.storage.remote import FetchConfig, IdsOf, ReadAhead, RemoteShards
from seer.data.storage.store import REQUESTS, Url
from seer.errors import InputError, quoted
from seer.inputs import open_regular

OPEN_FILES = 256  # well under the usual limit of 1,024 descriptors
OPEN_INDICES = 1024  # at 10,000 samples a shard, 200 MB
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
        self._ahead = ReadAhead(self.read, manifest.bytes.sum() / manifest.samples)
        self._ends = np.cumsum(manifest.sizes)
        self._file = lru_cache(OPEN_FILES)(partial(_File, manifest))
        self._loading = Lock()
        self._seen: set[int] = set()  # shards of a store whose indices have been here
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
        ids = np.asarray(ids, dtype=np.int64)
        data = [b""] * len(ids)
        shards, rows = self.locate(ids)
        if self._remote:
            indices = self._indices(shards)
            places = [
                (s, indices[s], r) for s, r in zip(shards.tolist(), rows.tolist(), strict=True)
            ]
            return self._remote.read(
                [(s, int(index.offsets[r]), int(index.sizes[r])) for s, index, r in places]
            )
        for i in np.argsort(ids, kind="stable").tolist():  # forward through each shard
            shard = int(shards[i])
            index, row = self._index(shard), rows[i]
            data[i] = self._file(shard).read(int(index.offsets[row]), int(index.sizes[row]))
        return data

    def read_step(self, ids: np.ndarray, step: int, ids_of: IdsOf, stride: int = 1) -> list[bytes]:
        """The encoded images of `ids`, which are `ids_of(step)`, for a worker whose next steps are
        `stride` apart.

        Out of a store, the images of those are fetched in the background meanwhile.
        """
        return self._ahead.take(len(ids), step, ids_of, stride) if self._remote else self.read(ids)

    def labels(self, ids: np.ndarray) -> np.ndarray:
        """`(len(ids),)` int64 labels; `UNLABELLED` where the index has none."""
        ids = np.asarray(ids, dtype=np.int64)
        labels = np.full(len(ids), UNLABELLED, dtype=np.int64)
        shards, rows = self.locate(ids)
        for shard, index in self._indices(shards).items():
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

    def replacement(self, damaged: int, reason: str) -> tuple[np.ndarray, int]:
        """The next good sample of the shard, decoded, and its id: the same one in every run, on
        every rank.

        Raises:
            InputError: the shard has none.
        """
        sample = self.next_in_shard(damaged)
        while sample != damaged:
            try:
                return decode(self.read(np.array([sample]))[0]), sample
            except DamagedImage:
                sample = self.next_in_shard(sample)
        shard = self.manifest.shards[int(self.locate(np.array([damaged]))[0][0])]
        raise InputError(
            f"{self.manifest.directory / shard} has no readable image left; "
            f"run: seer shards verify {quoted(self.manifest.directory)}"
        )

    def next_in_shard(self, sample: int) -> int:
        """The id that follows within the same shard, the first one after the last."""
        (shard,), (row,) = self.locate(np.array([sample]))
        return int(sample - row + (row + 1) % self.manifest.sizes[shard])

    def _indices(self, shards: np.ndarray) -> dict[int, "_Index"]:
        """The indices of these shards; those of a store are fetched side by side."""
        numbers = np.unique(shards).tolist()
        with self._loading:
            new = [s for s in numbers if s not in self._seen] if self._remote else []
            for i in range(0, len(new), REQUESTS):
                for loading in [in_background(self._index, s) for s in new[i : i + REQUESTS]]:
                    loading.result()
            self._seen.update(new)
        return {s: self._index(s) for s in numbers}


class _Index:
    """The columns of a shard's index that reading needs."""

    def __init__(self, manifest: Manifest, shard: int):
        tar = manifest.directory / manifest.shards[shard]
        if isinstance(tar, Url):
            manifest.check_size(shard, tar.size())
        table = manifest.index(shard, ["offset", "size", "label"])
        self.offsets = table["offset"].to_numpy()
        self.sizes = table["size"].to_numpy()
        self.labels = table["label"].fill_null(UNLABELLED).to_numpy()


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
