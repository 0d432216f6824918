"""Members of the shards of a store: by merged ranges, or out of whole shards in a local cache; batches beforehand."""

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from threading import Lock

import numpy as np

from seer.data.cache import Cache
from seer.data.index import Manifest
from seer.data.store import Url, in_background, read_ranges
from seer.errors import InputError, nearest

logger = logging.getLogger("seer.data")

GAP = 2**17  # bytes: to read so many for nothing costs less than another request
MERGED = 2**22  # bytes of one request at most, single members aside; times `store.REQUESTS` bounds what is in flight
AHEAD = 2**25  # bytes of encoded images that a worker has fetched for later batches
LONGEST_AHEAD = 64  # batches, where images are tiny

IdsOf = Callable[[int], np.ndarray]  # step → ids of its samples
Span = tuple[int, int, int]  # shard, offset, size
FETCH = ("auto", "ranges", "shards")


@dataclass
class FetchConfig:
    """How shards are read that lie in a store. Nothing of it changes what is read.

    Attributes:
        fetch: `ranges`: the bytes of the images that a batch needs, neighbours in one request. `shards`: whole shards,
            into `cache_dir`. `auto`: `ranges`, and where all shards that this host reads at a time fit into the cache,
            each is brought there in the background and read there from then on.
        cache_dir: a folder on a local disk; all processes of a host share it. Empty: `$SEER_CACHE/shards`
            (`~/.cache/seer/shards`).
        cache_gb: what may lie there, in 10⁹ bytes.
    """

    fetch: str = "auto"
    cache_dir: str = ""
    cache_gb: float = 10.0


class RemoteShards:
    """Reads members of the shards of a manifest that lies in a store. Safe to share between threads.

    Args:
        open_shards: how many shards the processes of this host read at a time.
    """

    def __init__(self, manifest: Manifest, config: FetchConfig, open_shards: int):
        if config.fetch not in FETCH:
            raise InputError(f"loader.fetch: '{config.fetch}' is unknown{nearest(config.fetch, FETCH)}")
        self.manifest, self.config = manifest, config
        self.cache = self._open_cache(int(config.cache_gb * 1e9), open_shards)
        self._wanted: dict[int, None] = {}  # shards to bring into the cache, in the order of asking
        self._bringing: Future | None = None
        self._lock = Lock()

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """The members at `spans`, in their order."""
        data = [b""] * len(spans)
        missing: list[int] = []
        forward = sorted(range(len(spans)), key=spans.__getitem__)
        for shard, members in groupby(forward, key=lambda i: spans[i][0]):
            descriptor = self._cached(shard)
            if descriptor is None:
                missing += members
                continue
            for i in members:
                data[i] = os.pread(descriptor, spans[i][2], spans[i][1])
            os.close(descriptor)
        pieces = merge(spans, missing)
        bodies = read_ranges([(self._url(piece.shard), piece.start, piece.stop) for piece in pieces])
        for piece, body in zip(pieces, bodies, strict=True):
            for i in piece.members:
                data[i] = body[spans[i][1] - piece.start :][: spans[i][2]]
        return data

    def _url(self, shard: int) -> Url:
        return Url(self.manifest.directory) / self.manifest.shards[shard]

    def _open_cache(self, limit: int, open_shards: int) -> Cache | None:
        """The cache, if it is to be used."""
        sizes, automatic = self.manifest.bytes, self.config.fetch == "auto"
        needed = min(int(sizes.sum()), 2 * open_shards * int(sizes.max()))  # a lane may straddle two shards
        if self.config.fetch == "ranges" or (automatic and needed > limit):
            return None
        if sizes.max() > limit:
            raise InputError(f"loader.cache_gb={self.config.cache_gb:g}: a shard has {sizes.max() / 1e9:.3g} GB; "
                             "give more, or loader.fetch=ranges")  # fmt: skip
        default = Path(os.environ.get("SEER_CACHE", "~/.cache/seer")) / "shards"
        try:
            return Cache(Path(self.config.cache_dir or default).expanduser(), limit)
        except OSError as error:
            self._tolerate(error)
            return None

    def _tolerate(self, error: OSError) -> None:
        """The disk fails: `auto` goes on without a cache, and `shards` cannot."""
        where = self.config.cache_dir or "the cache of shards"
        trouble = f"{where} cannot be written ({error.strerror}); set loader.cache_dir or less loader.cache_gb"
        if self.config.fetch == "shards":
            raise InputError(f"{trouble}, or loader.fetch=ranges") from error
        logger.warning("%s; now reading ranges", trouble)

    def _cached(self, shard: int) -> int | None:
        """A descriptor of the shard in the cache; None if it is to be read by ranges."""
        if (cache := self.cache) is None:
            return None
        digest, size = self.manifest.digests[shard], int(self.manifest.bytes[shard])
        try:
            if self.config.fetch == "shards":
                return cache.open(digest, size) or cache.fetch(self._url(shard), digest, size)
            if (descriptor := cache.open(digest, size)) is None:
                self._bring(shard)
            return descriptor
        except OSError as error:
            self._tolerate(error)
            self.cache = None
            return None

    def _bring(self, shard: int) -> None:
        """Have the shard brought into the cache in the background. Raises what went wrong there."""
        with self._lock:
            if self._bringing is not None and self._bringing.done():
                self._bringing.result()
            self._wanted.setdefault(shard)
            self._bringing = self._bringing or in_background(self._bring_wanted)

    def _bring_wanted(self) -> None:
        cache = self.cache
        assert cache is not None
        while True:
            with self._lock:
                if not self._wanted:
                    self._bringing = None
                    return
                shard = next(iter(self._wanted))
            digest, size = self.manifest.digests[shard], int(self.manifest.bytes[shard])
            descriptor = cache.fetch(self._url(shard), digest, size, wait=False)
            if descriptor is not None:
                os.close(descriptor)
            with self._lock:
                self._wanted.pop(shard)


@dataclass
class Piece:
    """One request: bytes `start … stop - 1` of a shard, which hold the members of these numbers."""

    shard: int
    start: int
    stop: int
    members: list[int] = field(default_factory=list)


def merge(spans: Sequence[Span], forward: Iterable[int]) -> list[Piece]:
    """Requests for the spans of these numbers, which come sorted; neighbours share one across gaps up to `GAP`."""
    pieces: list[Piece] = []
    for i in forward:
        shard, offset, size = spans[i]
        last = pieces[-1] if pieces else None
        stop = offset + size
        if last and last.shard == shard and offset - last.stop <= GAP and stop - last.start <= MERGED:
            last.stop = max(last.stop, stop)
        else:
            pieces.append(last := Piece(shard, offset, stop))
        last.members.append(i)
    return pieces


class ReadAhead:
    """The next batches of a worker, fetched in the background in groups of as many as fit `AHEAD` bytes.

    Of small images a group holds most of the windows of its lanes, whose bytes lie together: few requests bring them.
    """

    def __init__(self, read: Callable[[np.ndarray], list[bytes]], mean_bytes: float):
        self._read, self._mean_bytes = read, mean_bytes
        self._pending: OrderedDict[tuple[IdsOf, int], Future] = OrderedDict()  # batch → its group: step → images
        self._lock = Lock()

    def take(self, step: int, ids_of: IdsOf, stride: int) -> list[bytes]:
        """The images of `ids_of(step)`; those of step + stride, step + 2·stride, … are asked for next."""
        batches = int(min(max(1, AHEAD // (2 * len(ids_of(step)) * self._mean_bytes)), LONGEST_AHEAD))
        far = step + batches * stride
        with self._lock:
            if (ids_of, step) not in self._pending:  # the first, alone: it is waited for
                self._fetch(range(step, step + 1), ids_of)
                self._fetch(range(step + stride, far, stride), ids_of)
            if (ids_of, far) not in self._pending:
                self._fetch(range(far, far + batches * stride, stride), ids_of)
            group = self._pending.pop((ids_of, step))
            while len(self._pending) > 2 * batches * stride:  # left behind by who stopped
                self._pending.popitem(last=False)
        return group.result().pop(step)

    def _fetch(self, steps: range, ids_of: IdsOf) -> None:
        if steps:
            group = in_background(self._read_group, steps, ids_of)
            self._pending |= {(ids_of, step): group for step in steps}

    def _read_group(self, steps: range, ids_of: IdsOf) -> dict[int, list[bytes]]:
        ids = [ids_of(step) for step in steps]
        images = iter(self._read(np.concatenate(ids)))
        return {step: list(islice(images, len(some))) for step, some in zip(steps, ids, strict=True)}
