"""Members of the shards of a store: by merged ranges, or out of whole shards in a local cache;
batches beforehand.
"""

import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import groupby, islice
from pathlib import Path
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from fsspec.utils import merge_offset_ranges

from seer.background import in_background
from seer.data.options import FetchConfig
from seer.data.storage.cache import Cache, UnwritableError
from seer.data.storage.index import Manifest
from seer.data.storage.store import Url, read_ranges
from seer.errors import InputError
from seer.schema import check_options

logger = logging.getLogger("seer.data")

GAP = 2**17  # bytes: to read so many for nothing costs less than another request
# Bytes of one request at most, single members aside; times `store.REQUESTS` bounds what is in
# flight.
MERGED = 2**22
# Bytes of samples, all members counted, that a worker has fetched for later batches, if they are
# more than two.
AHEAD = 2**25
LONGEST_AHEAD = 64  # batches, where images are tiny

Read = TypeVar("Read")
IdsOf = Callable[[int], np.ndarray]  # step → ids of its samples
Span = tuple[int, int, int]  # shard, offset, size


class Request(NamedTuple):
    """Bytes of a shard that are asked for at once."""

    shard: int
    start: int
    stop: int


def merge_neighbours(spans: Sequence[Span]) -> list[Request]:
    """One request for members that lie close together; `spans` are sorted, and so are these."""
    shards = []
    starts = []
    stops = []
    for shard, offset, size in spans:
        shards.append(shard)
        starts.append(offset)
        stops.append(offset + size)
    merged = merge_offset_ranges(shards, starts, stops, GAP, MERGED)
    return [Request(*request) for request in zip(*merged, strict=True)]


class RemoteShards:
    """Reads members of the shards of a manifest that lies in a store. Safe to share between
    threads.

    Args:
        open_shards: how many shards the processes of this host read at a time.
    """

    def __init__(self, manifest: Manifest, config: FetchConfig, open_shards: int):
        check_options(config, "loader")
        self.manifest = manifest
        self.wait = config.fetch == "shards"
        self.cache = None if config.fetch == "ranges" else self._open_cache(config, open_shards)
        self._bringing: Future | None = None
        self._lock = Lock()

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """The members at `spans`, in their order."""
        data = [b""] * len(spans)
        missing = list[int]()
        forward = sorted(range(len(spans)), key=spans.__getitem__)
        for shard, members in groupby(forward, key=lambda i: spans[i][0]):
            descriptor = self._cached(shard)
            if descriptor is None:
                missing += members
                continue
            for i in members:
                data[i] = os.pread(descriptor, spans[i][2], spans[i][1])
            os.close(descriptor)
        for i, body in zip(missing, self._read_ranges([spans[i] for i in missing]), strict=True):
            data[i] = body
        return data

    def _read_ranges(self, spans: Sequence[Span]) -> Iterator[bytes]:
        """The members at `spans`, which come sorted."""
        if not spans:
            return
        requests = merge_neighbours(spans)
        bodies = read_ranges(
            [(self._url(request.shard), request.start, request.stop) for request in requests]
        )
        answers = zip(requests, bodies, strict=True)
        request, body = next(answers)
        for shard, offset, size in spans:
            # Both are sorted by shard and offset.
            while (shard, offset + size) > (request.shard, request.stop):
                request, body = next(answers)
            start = offset - request.start
            yield body[start : start + size]

    def _url(self, shard: int) -> Url:
        return self.manifest.directory / self.manifest.shards[shard]

    def _open_cache(self, config: FetchConfig, open_shards: int) -> Cache | None:
        """The cache; None if `auto` finds it too small."""
        limit = int(config.cache_gb * 1e9)
        largest = int(self.manifest.bytes.max())
        if self.wait and largest > limit:
            raise InputError(
                f"loader.cache_gb={config.cache_gb:g}: a shard has {largest / 1e9:.3g} GB; give more"
            )
        # A lane may straddle two shards.
        needed = min(int(self.manifest.bytes.sum()), 2 * open_shards * largest)
        folder = Path(
            config.cache_dir or Path(os.environ.get("SEER_CACHE", "~/.cache/seer")) / "shards"
        ).expanduser()
        try:
            cache = Cache(folder, limit)
            return (
                cache if self.wait or needed <= min(limit, shutil.disk_usage(folder).free) else None
            )
        except UnwritableError:
            if self.wait:
                raise
            return None

    def _cached(self, shard: int) -> int | None:
        """A descriptor of the shard in the cache; None if it is to be read by ranges."""
        if (cache := self.cache) is None:
            return None
        digest = self.manifest.digests[shard]
        size = int(self.manifest.bytes[shard])
        descriptor = cache.open(digest, size)
        if descriptor is None and self.wait:
            return cache.fetch(self._url(shard), digest, size)
        if descriptor is None:
            with self._lock:
                if self._bringing is not None and self._bringing.done():
                    self._bringing = self._bringing.result()  # raises what went wrong
                self._bringing = self._bringing or in_background(self._bring, cache, shard)
        return descriptor

    def _bring(self, cache: Cache, shard: int) -> None:
        """Bring a shard to the cache. A full disk ends what was to be faster, not the run."""
        try:
            cache.bring(
                self._url(shard), self.manifest.digests[shard], int(self.manifest.bytes[shard])
            )
        except UnwritableError as error:
            logger.warning("%s; reading by ranges from now on", error)
            self.cache = None


class ReadAhead(Generic[Read]):
    """The next batches of a worker, fetched in the background in groups of as many as fit `AHEAD`
    bytes.

    Of small images a group holds most of the windows of its lanes, whose bytes lie together: few
    requests bring them.
    """

    def __init__(self, read: Callable[[np.ndarray], list[Read]], mean_bytes: float):
        self._read = read
        self._mean_bytes = mean_bytes
        # Batch → its group: step → samples.
        self._pending: OrderedDict[tuple[IdsOf, int], Future] = OrderedDict()
        self._lock = Lock()

    def take(self, batch: int, step: int, ids_of: IdsOf, stride: int) -> list[Read]:
        """The `batch` samples of `ids_of(step)`; those of step + stride, step + 2·stride, … are
        asked for next.
        """
        fitting = AHEAD // (2 * batch * self._mean_bytes)
        batches = int(min(max(1, fitting), LONGEST_AHEAD))
        far = step + batches * stride
        with self._lock:
            if (ids_of, step) not in self._pending:  # the first, alone: it is waited for
                self._fetch(range(step, step + 1), ids_of)
                self._fetch(range(step + stride, far, stride), ids_of)
            if (ids_of, far) not in self._pending:
                further = range(far, far + batches * stride, stride)
                self._fetch(further, ids_of)
            group = self._pending.pop((ids_of, step))
            while len(self._pending) > 2 * batches * stride:  # left behind by who stopped
                self._pending.popitem(last=False)
        fetched = group.result()
        return fetched.pop(step)

    def _fetch(self, steps: range, ids_of: IdsOf) -> None:
        if steps:
            group = in_background(self._read_group, steps, ids_of)
            self._pending |= {(ids_of, step): group for step in steps}

    def _read_group(self, steps: range, ids_of: IdsOf) -> dict[int, list[Read]]:
        ids = [ids_of(step) for step in steps]
        samples = iter(self._read(np.concatenate(ids)))
        return {
            step: list(islice(samples, len(some))) for step, some in zip(steps, ids, strict=True)
        }
