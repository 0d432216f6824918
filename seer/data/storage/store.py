"""Files on servers: `http(s)://`, `s3://`, `gs://`. Every request is bounded in time and retried;
what stays is told.

fsspec and its libraries speak to the servers, and take endpoints and credentials from the
environment as they document it (`AWS_…`, `GOOGLE_APPLICATION_CREDENTIALS`, `FSSPEC_…`); none passes
through seer.
"""

import asyncio
import io
import logging
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import fsspec
from fsspec.asyn import sync

from seer.errors import InputError, first_line, nearest

logger = logging.getLogger("seer.data")

REQUESTS = 32  # at once, per process
# A request may take that long, and a second more for each so many bytes.
SECONDS = 30.0
SLOWEST = 2**20
# About a minute of patience with a server that refuses.
ATTEMPTS = 10
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 30.0
TELL_EVERY = 10  # seconds, while requests go on failing
TRANSIENT = {408, 425, 429}  # and 5xx: the HTTP statuses after which it is worth asking again
# In names of exceptions of libraries.
HOPELESS = re.compile("Credential|Token|Refresh|Profile|Validation|InvalidURL")

HTTP = {"http", "https"}  # anybody's servers
EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs", "http": "", "https": ""}
OPTIONS = {
    "s3": {"config_kwargs": {"max_pool_connections": REQUESTS, "retries": {"max_attempts": 0}}}
}
ACCESS = {
    "s3": "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN; public buckets: FSSPEC_S3_ANON=true",
    "gcs": "check GOOGLE_APPLICATION_CREDENTIALS; public buckets: FSSPEC_GCS_TOKEN=anon",
    "": "check the address",
}

_random = random.Random()  # the trainer's random numbers are its own
_connecting = Lock()


class NotThereError(InputError):
    """The server answers, and has no such file."""


class Url(str):
    """The address of a file or folder, joined by `/` as a `Path` is (which would fold the two
    slashes).
    """

    __slots__ = ()

    def __truediv__(self, name: str) -> "Url":
        return Url(f"{self.rstrip('/')}/{name}")

    @property
    def scheme(self) -> str:
        return self.partition("://")[0]

    @property
    def name(self) -> str:
        return self.rpartition("/")[2]

    @property
    def parent(self) -> "Url":
        return Url(self.rpartition("/")[0])

    def with_suffix(self, suffix: str) -> "Url":
        return Url(self.rpartition(".")[0] + suffix)

    def is_file(self) -> bool:
        try:
            self.size()
        except NotThereError:
            return False
        return True

    def size(self) -> int | None:
        """Bytes; None where the server does not tell."""
        server = _connect(self.scheme)
        return server.run([server.size(self)])[0]

    def read_bytes(self, limit: int) -> bytes:
        """The whole file. Raises as `read_ranges`, and `InputError` for more than `limit` bytes,
        which are not read.
        """
        server = _connect(self.scheme)
        return server.run([server.whole(self, limit)])[0]


def place(path: Path | str) -> Path | Url:
    """A local path, or the address of something on a server. Raises `InputError` for servers of
    another kind.
    """
    scheme, found, _ = str(path).partition("://")
    if not found:
        return Path(path)
    if scheme not in EXTRAS:
        raise InputError(
            f"{path}: '{scheme}' is no kind of store{nearest(scheme, EXTRAS)}, nor a local folder"
        )
    return Url(path)


def read_ranges(ranges: Sequence[tuple[Url, int, int]]) -> list[bytes]:
    """The bytes `start … stop - 1` of files of one scheme, fetched side by side.

    Raises:
        NotThereError: a file does not exist.
        InputError: access is denied, or the server fails for longer than `ATTEMPTS`.
    """
    if not ranges:
        return []
    server = _connect(ranges[0][0].scheme)
    return server.run([server.read(*wanted) for wanted in ranges])


def upload(files: Sequence[tuple[Path, Url]]) -> None:
    """Copy local files to a store, side by side; each appears there whole. Raises `InputError` as
    `read_ranges`.
    """
    if files:
        server = _connect(files[0][1].scheme)
        server.run([server.put(*pair) for pair in files])


def download(files: Sequence[tuple[Url, Path]]) -> None:
    """Copy files of a store to local ones, side by side. Raises as `read_ranges`."""
    if files:
        server = _connect(files[0][0].scheme)
        server.run([server.get(*pair) for pair in files])


def names(folder: Url) -> list[str]:
    """All files below a folder of a store, relative to it, in order; none where there is no such
    folder.
    """
    server = _connect(folder.scheme)
    return server.run([server.names(folder)])[0]


def remove(urls: Sequence[Url]) -> None:
    """Remove files from a store. Raises `InputError`."""
    if urls:
        server = _connect(urls[0].scheme)
        server.run([server.remove(url) for url in urls])


def _connect(scheme: str) -> "_Server":
    with _connecting:
        return _server(scheme, os.getpid())


@lru_cache
def _server(scheme: str, process: int) -> "_Server":
    try:
        return _Server(
            fsspec.filesystem(scheme, skip_instance_cache=True, **OPTIONS.get(scheme, {}))
        )
    except ImportError as error:
        raise InputError(
            f"{scheme}:// needs another package ({error}); pip install 'seer-pretrain[{EXTRAS[scheme]}]'"
        ) from error


class _FullError(Exception):
    """A body is longer than it may be."""


class _Bounded(io.BytesIO):
    """Takes what a server sends, which may be without end, up to one byte more than `limit`."""

    def __init__(self, limit: int):
        super().__init__()
        self.limit = limit

    def write(self, data: Any) -> int:
        super().write(data[: self.limit + 1 - self.tell()])
        if self.tell() > self.limit:
            raise _FullError
        return len(data)


@dataclass
class _Server:
    """All servers of one scheme."""

    fs: Any
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(REQUESTS))
    silent_until: float = 0.0

    def run(self, jobs: Sequence[Coroutine]) -> list[Any]:
        async def together() -> list[Any]:
            tasks = [asyncio.ensure_future(job) for job in jobs]
            try:
                return await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()

        return sync(self.fs.loop, together)

    async def size(self, url: Url) -> int | None:
        return (await self._ask(url, self.fs._info))["size"]

    async def whole(self, url: Url, limit: int) -> bytes:
        async def bounded(there: str) -> bytes:
            if url.scheme in HTTP:
                return await self._body(there, limit)
            return await self.fs._cat_file(there, start=0, end=limit + 1)  # less, if it has less

        content = await self._ask(url, bounded)
        if len(content) > limit:
            raise InputError(
                f"{url}: larger than {limit:,} bytes, which no such file is; replace it"
            )
        return content

    async def read(self, url: Url, start: int, stop: int) -> bytes:
        length = stop - start

        async def exactly(there: str) -> bytes:
            if url.scheme in HTTP:
                body = await self._body(there, length, {"Range": f"bytes={start}-{stop - 1}"})
            else:
                body = await self.fs._cat_file(there, start=start, end=stop)
            if len(body) > length:
                raise InputError(
                    f"{url}: the server ignores byte ranges; use one that serves them, or copy the shards"
                )
            if len(body) < length:
                raise EOFError(f"{len(body)} of {length} bytes")
            return body

        return await self._ask(url, exactly, length) if length else b""

    async def _body(self, there: str, limit: int, headers: dict[str, str] | None = None) -> bytes:
        """What a web server answers: all of it, or, where it sends more than `limit` bytes, the
        first `limit` + 1.
        """
        body = _Bounded(limit)
        with suppress(_FullError):
            await self.fs._get_file(there, body, headers=headers or {})
        return body.getvalue()

    async def put(self, path: Path, url: Url) -> None:
        await self._ask(
            url, lambda there: self.fs._put_file(str(path), there), path.stat().st_size, "written"
        )

    async def get(self, url: Url, path: Path) -> None:
        await self._ask(
            url, lambda there: self.fs._get_file(there, str(path)), await self.size(url) or 0
        )

    async def names(self, folder: Url) -> list[str]:
        self.fs.invalidate_cache()
        try:
            found = await self._ask(folder, self.fs._find)
        except NotThereError:
            return []
        return sorted(
            name.removeprefix(f"{self.fs._strip_protocol(str(folder))}/") for name in found
        )

    async def remove(self, url: Url) -> None:
        await self._ask(url, self.fs._rm_file, done="removed")

    async def _ask(
        self, url: Url, request: Callable[[str], Awaitable], size: int = 0, done: str = "read"
    ) -> Any:
        """The answer to a request about so many bytes, repeated, after growing pauses, as long as
        that may help.

        `request` is called with the file's name as fsspec has it.
        """
        there = self.fs._strip_protocol(str(url))
        seconds = SECONDS + size / SLOWEST
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self.slots:
                    return await asyncio.wait_for(request(there), seconds)
            except InputError:
                raise
            except Exception as error:
                detail = first_line(error)[:200]
                if (refusal := _refusal(url, error, detail, done)) is not None:
                    raise refusal from error
                if attempt == ATTEMPTS:
                    raise InputError(
                        f"{url} cannot be {done}, after {attempt} attempts ({detail}); check network and server, "
                        "then run the same command again"
                    ) from error
                if attempt > 3 and time.monotonic() > self.silent_until:
                    self.silent_until = time.monotonic() + TELL_EVERY
                    logger.warning(
                        "%s: attempt %d of %d failed (%s)", url, attempt, ATTEMPTS, detail
                    )
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1))
            await asyncio.sleep(pause * _random.uniform(0.5, 1))
        raise AssertionError


def _refusal(url: Url, error: BaseException, detail: str, done: str) -> InputError | None:
    """What to tell when asking again is of no use; None when it may be."""
    status, root = _status_and_root(error)
    if isinstance(root, TimeoutError) or (
        status is not None and (status in TRANSIENT or status >= 500)
    ):
        return None
    if status == 404 or (status is None and isinstance(root, FileNotFoundError)):
        return NotThereError(f"{url} does not exist ({detail}); check the address")
    # The latter by gcsfs.
    hopeless = HOPELESS.search(type(root).__name__) or str(error).startswith("Forbidden: ")
    if status in (401, 403) or isinstance(error, PermissionError) or (status is None and hopeless):
        return InputError(f"{url}: access denied ({detail}); {ACCESS[EXTRAS[url.scheme]]}")
    if status is None and not isinstance(root, ValueError):
        return None
    return InputError(f"{url} cannot be {done} ({detail}); check the address and the server")


def _status_and_root(error: BaseException) -> tuple[int | None, BaseException]:
    """The HTTP status, where there is one, that an exception or one of its causes carries; and the
    first cause.
    """
    status = None
    while True:
        answer = getattr(error, "response", None)
        from_boto = (
            answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if isinstance(answer, dict)
            else None
        )
        # aiohttp has a `code` for what is wrong with a body, too; that is no status.
        code = (
            getattr(error, "code", None)
            if type(error).__module__.startswith(("gcsfs", "google"))
            else None
        )
        found = from_boto or getattr(error, "status", None) or code
        status = status or (int(str(found)) if str(found).isdigit() else None)
        if error.__cause__ is None:
            return status, error
        error = error.__cause__
