"""Blocks with URLs to shards: downloads of the next blocks go on while the stragglers of a block
are awaited.

Downloads end in any order, a shard has the order of its block. So each sample is checked and
encoded as soon as it has come, and laid aside in a scratch file of its block; when the last one is
there, the shard is written from that.
"""

import asyncio
import os
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import Any

from seer.errors import InputError
from shards import pool
from shards.download.client import Downloader, Unavailable
from shards.records import state
from shards.records.quarantine import Entry, counts, text
from shards.sources.samples import Sample
from shards.writing.writer import ShardTask, attempt, write_shard

OPEN_BLOCKS = 8  # begun and not yet written; bounds the scratch files
WINDOW = 16  # samples begun and not yet finished, per connection; bounds what waits for a host or for another try
BLOCKING = (
    64  # threads for what has no asynchronous form: files, object stores, names without `aiodns`
)
IDLE = 0.05  # seconds between two looks for the next block
# A download that gave these did not succeed, whatever its status.
NO_IMAGE = ("not an image", "empty file")


class Block:
    """What has come of one block: entries and samples, whose bytes lie in a scratch file."""

    def __init__(self, task: ShardTask):
        count = len(task.rows)
        self.task = task
        self.missing = count
        self.found: list[Sample | Entry | None] = [None] * count
        self.places: dict[int, list[tuple[str, int, int]]] = {}
        self.scratch = tempfile.TemporaryFile(dir=task.out / state.STATE)  # noqa: SIM115  # closed when written
        self.end = 0
        self.lock = threading.Lock()

    def keep(self, number: int, found: Sample | Entry) -> None:
        """Lay aside what came of a row; from any thread."""
        if isinstance(found, Sample):
            data = b"".join(data for _, data in found.members)
            with self.lock:
                start = self.end
                self.end = self.end + len(data)
            with state.writing(self.task.out):
                written = 0
                while written < len(data):
                    written += os.pwrite(self.scratch.fileno(), data[written:], start + written)
            self.places[number] = []
            for suffix, member in found.members:
                self.places[number].append((suffix, start, len(member)))
                start += len(member)
            found = replace(found, members=[])
        self.found[number] = found

    def loaded(self) -> Iterator[Sample | Entry]:
        """All of it, in the order of the block."""
        for number, found in enumerate(self.found):
            assert found is not None, "a block was written before all of it had come"
            if isinstance(found, Sample):
                places = self.places[number]
                members = [
                    (suffix, os.pread(self.scratch.fileno(), size, at))
                    for suffix, at, size in places
                ]
                found = replace(found, members=members)
            yield found

    def write(self) -> None:
        """Make it a shard."""
        with self.scratch:
            write_shard(self.task, lambda count: None, self.loaded())


class Success:
    """How the latest downloads ended, and how those of each shard did."""

    def __init__(self, least: float, window: int):
        self.least = least
        self.window = window
        self.latest: deque[str] = deque(maxlen=window)  # reasons, "" for success
        self.shards: dict[str, Counter[bool]] = {}

    def note(self, shard: str, reason: str) -> None:
        """Enter one download. Raises InputError when too few of the latest have succeeded."""
        self.latest.append(reason)
        self.shards.setdefault(shard, Counter())[not reason] += 1
        good = self.latest.count("") if len(self.latest) == self.window else self.window
        if good >= self.least * self.window:
            return
        reasons = counts(Counter(reason.split(" (")[0] for reason in self.latest if reason))
        raise InputError(
            f"only {good:,} of the last {self.window:,} downloads succeeded ({reasons}), fewer than --min-success "
            f"{self.least:g}; check list and network, then run the same command again to continue"
        )

    def failed(self) -> list[str]:
        """Shards of which too little came, so that they had better be built again."""
        return [
            shard
            for shard, ended in self.shards.items()
            if ended[True] < self.least * ended.total()
        ]


def write_shards(tasks: Iterator[ShardTask | None], tick: pool.Tick) -> None:
    """Write the shards of all tasks, of which several are under way at any time. None means: no
    task just now.

    Raises:
        InputError: too few downloads succeed, a package is missing, or the disk is full. Shards of which too little
            came are not recorded as finished, so that the same command tries them again.
    """
    first = next((task for task in tasks if task is not None), None)
    if first is None:
        return
    _allow_many_files()
    pipeline = Pipeline(first, tick)
    try:
        asyncio.run(pipeline.run(chain([first], tasks)))
    except BaseExceptionGroup as group:
        error = _first_of(group)
        for shard in pipeline.success.failed() if isinstance(error, InputError) else []:
            state.record_path(pipeline.out, shard).unlink(missing_ok=True)
        raise error from None


def _first_of(group: BaseException) -> BaseException:
    return _first_of(group.exceptions[0]) if isinstance(group, BaseExceptionGroup) else group


def _allow_many_files() -> None:
    """As many open connections as the system lets us have; the usual limit is 1,024."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Pipeline:
    """What the downloads of one process share."""

    def __init__(self, first: ShardTask, tick: pool.Tick):
        self.out = first.out
        self.threads = first.threads
        self.tick = tick
        self.options = first.download
        self.success = Success(self.options.min_success, self.options.window)
        self.blocks = asyncio.Semaphore(OPEN_BLOCKS)
        self.begun = asyncio.Semaphore(WINDOW * self.options.connections)

    async def run(self, tasks: Iterator[ShardTask | None]) -> None:
        """All blocks; those that are whole are written while the next ones are downloaded."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(BLOCKING))
        listening = loop.create_task(self._listen())
        with (
            ThreadPoolExecutor(self.threads) as self.decoders,
            ThreadPoolExecutor(1) as self.writer,
        ):
            async with Downloader(self.options) as self.downloader, asyncio.TaskGroup() as group:
                for task in tasks:
                    if task is None:
                        await asyncio.sleep(IDLE)
                        continue
                    await self.blocks.acquire()
                    block = Block(task)
                    for number in range(len(task.rows)):
                        await self.begun.acquire()
                        group.create_task(self._sample(block, number))

        listening.cancel()

    async def _listen(self) -> None:
        """Notice that the others have been stopped, also while nothing ends here."""
        while True:
            await asyncio.sleep(10 * IDLE)
            self.tick(0)

    async def _sample(self, block: Block, number: int) -> None:
        row = block.task.rows[number]
        container = block.task.containers[row["container"]]
        if container.kind == "urls":
            await self._download(block, number, text(row["name"]), container.source_of(row["name"]))
        else:
            async with self.downloader.slots:
                await self._in_decoder(self._keep, block, number)
        self.begun.release()
        self.tick(1)
        block.missing -= 1
        if not block.missing:
            await asyncio.get_running_loop().run_in_executor(self.writer, block.write)
            self.blocks.release()

    async def _download(self, block: Block, number: int, url: str, source: str) -> None:
        try:
            async with self.downloader.fetched(url) as (data, attempts):
                reason = await self._in_decoder(self._keep, block, number, data, attempts)
        except Unavailable as failure:
            reason = failure.reason
            block.keep(number, {"source": source, "reason": reason, "attempts": failure.attempts})
        self.success.note(block.task.shard, reason)

    async def _in_decoder(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.decoders, function, *arguments)

    def _keep(self, block: Block, number: int, data: bytes | None = None, attempts: int = 0) -> str:
        """Check and encode; returns why the download did not succeed after all, or ""."""
        found = attempt(block.task, block.task.rows[number], data)
        if isinstance(found, Sample):
            block.keep(number, found)
            return ""
        block.keep(number, {**found, "attempts": attempts} if attempts else found)
        return found["reason"] if found["reason"] in NO_IMAGE else ""
