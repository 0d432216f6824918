"""Images by their URLs: many at once, politely, and never from where a list must not lead.

The client is `aiohttp`; ours is what surrounds it: limits, retries, and reasons that fit in a
ledger.
"""

import asyncio
import os
import random
import ssl
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
from yarl import URL

from seer.errors import InputError, first_line
from shards.download.addresses import PrivateAddress, public_socket
from shards.download.hosts import Hosts
from shards.options import DownloadOptions
from shards.sources.policy import PRIVATE_SCHEMES

# Seconds between tries; the first doubles each time.
FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0
REDIRECTS = 5
TRANSIENT = {408, 425, 429}  # and 5xx
# `none` is noindex and nofollow.
FORBIDDING = {"noai", "noimageai", "noindex", "noimageindex", "none"}
CHUNK = 1 << 16
EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}  # scheme → the extra of our package that reads it
# Of resolvers; all else may pass.
NO_SUCH_NAME = ("not found", "not known", "no data", "no address", "nodename")


class Unavailable(Exception):  # noqa: N818  # what was found, not what went wrong here
    """A URL gave no bytes.

    Attributes:
        reason: short, and the same for the same kind of failure. transient: may pass. dead: the host did not answer.
        wait: seconds after which its server asks to be tried again. attempts: how many there were.
    """

    def __init__(self, reason: str, transient: bool = False, dead: bool = False, wait: float = 0.0):
        super().__init__(reason)
        self.reason = reason
        self.transient = transient
        self.dead = dead
        self.wait = wait
        self.attempts = 1


class Downloader:
    """An asynchronous context that gives bytes for URLs. `slots` are its connections: each request
    needs one.
    """

    def __init__(self, options: DownloadOptions, resolver: Any = None):
        self.options = options
        self.resolver = resolver
        self.hosts = Hosts(options.per_host)
        self.slots = asyncio.Semaphore(options.connections)
        self.schemes: dict[str, Callable[[str], Awaitable[bytes]]] = {
            "http": self._http,
            "https": self._http,
            "file": self._in_thread(self._file),
            **dict.fromkeys(EXTRAS, self._in_thread(self._object)),
        }

    async def __aenter__(self) -> "Downloader":
        options = self.options
        connector = aiohttp.TCPConnector(
            limit=0,  # waiting for a free connection would count as connecting; who calls `fetch` limits their number
            ttl_dns_cache=300,
            keepalive_timeout=5,  # a million hosts must not leave as many idle connections
            resolver=self.resolver,
            socket_factory=None if options.allow_private else public_socket,
        )
        self.session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(
                total=options.timeout,
                connect=options.connect_timeout,
                sock_read=options.read_timeout,
            ),
            headers={
                "User-Agent": options.agent,
                "Accept": "image/*,*/*;q=0.5",
                "Accept-Encoding": "identity",
            },
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # bytes are judged as they come, so that nothing can unfold beyond `max_bytes`
        )
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.session.close()

    @asynccontextmanager
    async def fetched(self, url: str) -> AsyncIterator[tuple[bytes, int]]:
        """The bytes and the number of attempts, which keep their slot until the end of the context.

        So where decoding is slower than the network it sets the pace, and what has come does not
        pile up in memory. Raises Unavailable, and InputError when a scheme needs a missing package.
        """
        data, attempts = await self._retried(url)
        try:
            yield data, attempts
        finally:
            self.slots.release()

    async def _retried(self, url: str) -> tuple[bytes, int]:
        attempt = 1
        while True:
            try:
                return await self._try(url), attempt
            except Unavailable as failure:
                failure.attempts = attempt
                if (
                    not failure.transient
                    or attempt > self.options.retries
                    or failure.wait > LONGEST_WAIT
                ):
                    raise
                pause = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)) * random.uniform(
                    0.5, 1.5
                )
                pause = max(pause, failure.wait)
            await asyncio.sleep(pause)
            attempt += 1

    async def _try(self, url: str) -> bytes:
        scheme, _, rest = url.partition("://")
        get = self.schemes.get(scheme.lower())
        if not rest:
            raise Unavailable("bad URL")
        if get is None:
            raise Unavailable(f"unknown scheme ({scheme[:20]})")
        if scheme.lower() in PRIVATE_SCHEMES and not self.options.allow_private:
            raise Unavailable(f"not allowed ({scheme.lower()}:// needs --allow-private)")
        return await get(url)

    async def _http(self, text: str) -> bytes:
        try:
            url = URL(text)
            host = url.host
        except ValueError:
            host = None
        if not host:
            raise Unavailable("bad URL")
        async with self.hosts.turn(f"{host}:{url.port}") as turn:
            if turn.given_up:
                raise Unavailable(f"host given up ({turn.reason})")
            try:
                data = await self._in_slot(partial(self._get, url))
            except Unavailable as failure:
                turn.ended(failure.reason if failure.dead else None)
                raise
            turn.ended(None)
            return data

    async def _in_slot(self, get: Callable[[], Awaitable[bytes]]) -> bytes:
        """Run `get` in a slot, which is kept if it gives bytes."""
        await self.slots.acquire()
        try:
            return await get()
        except BaseException:
            self.slots.release()
            raise

    async def _get(self, url: URL) -> bytes:
        try:
            async with self.session.get(url, max_redirects=REDIRECTS + 1) as response:
                self._refuse(response)
                return await self._body(response)
        except (
            aiohttp.ClientError,
            OSError,
            ValueError,
        ) as error:  # of which asyncio.TimeoutError is an OSError
            raise explained(error) from error

    def _refuse(self, response: aiohttp.ClientResponse) -> None:
        """Raise Unavailable for what is not to be had, or not to be taken."""
        status = response.status
        headers = response.headers
        if status != 200:
            wait = headers.get("Retry-After", "")
            seconds = float(wait) if wait.isdigit() else 0.0
            raise Unavailable(
                f"HTTP {status}", transient=status in TRANSIENT or status >= 500, wait=seconds
            )
        if not self.options.ignore_robots_tag:
            for each in (*response.history, response):
                if found := forbidden(each.headers.getall("X-Robots-Tag", [])):
                    raise Unavailable(f"robots tag ({found})")
        if (response.content_length or 0) > self.options.max_bytes:
            raise Unavailable(f"too many bytes (more than {self.options.max_bytes:,})")

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        parts = []
        size = 0
        async for part in response.content.iter_any():
            parts.append(part)
            size += len(part)
            if size > self.options.max_bytes:
                raise Unavailable(f"too many bytes (more than {self.options.max_bytes:,})")
        return b"".join(parts)

    def _in_thread(self, read: Callable[[str], bytes]) -> Callable[[str], Awaitable[bytes]]:
        async def get(url: str) -> bytes:
            return await self._in_slot(partial(run, url))

        async def run(url: str) -> bytes:
            try:
                async with asyncio.timeout(self.options.timeout):
                    data = await asyncio.to_thread(read, url)
            except TimeoutError:
                raise Unavailable("timed out (in all)", transient=True) from None
            if len(data) > self.options.max_bytes:
                raise Unavailable(f"too many bytes (more than {self.options.max_bytes:,})")
            return data

        return get

    def _file(self, url: str) -> bytes:
        path = URL(url).path
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise Unavailable("no regular file")
            with open(path, "rb") as file:
                return file.read(self.options.max_bytes + 1)
        except OSError as error:
            raise Unavailable(f"cannot be read ({error.strerror})") from error

    def _object(self, url: str) -> bytes:
        """An object of a store, by `fsspec`, with credentials from the environment."""
        try:
            from fsspec.core import url_to_fs

            store, path = url_to_fs(url)
        except ImportError as error:
            scheme = url.partition("://")[0].lower()
            name = f"seer-pretrain[{EXTRAS[scheme]}]"
            raise InputError(
                f"{scheme}:// URLs need another package ({error}); run: pip install '{name}'"
            ) from None
        try:
            return store.cat_file(path, start=0, end=self.options.max_bytes + 1)
        except FileNotFoundError as error:
            raise Unavailable("no such object") from error
        except PermissionError as error:
            raise Unavailable("access denied") from error
        except Exception as error:  # each store has exceptions of its own
            raise Unavailable(f"store failed ({_short(error)})", transient=True) from error


def forbidden(values: list[str], agent: str = "seer") -> str:
    """The first directive of `X-Robots-Tag` headers that forbids use to everybody or to `agent`; ""
    for none.
    """
    for value in values:
        concerned = True
        for part in value.lower().split(","):
            name, colon, rest = part.strip().partition(":")
            if colon and name != "unavailable_after" and not name.startswith("max-"):
                concerned = name.strip() == agent
                name = rest
            if concerned and name.strip() in FORBIDDING:
                return name.strip()
    return ""


def explained(error: Exception) -> Unavailable:
    """What the client raised, as a reason: did the host not answer, and may it pass?"""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Unavailable("timed out (connecting)", transient=True, dead=True)
    if isinstance(error, aiohttp.SocketTimeoutError):
        return Unavailable("timed out (reading)", transient=True, dead=True)
    if isinstance(error, TimeoutError):
        return Unavailable("timed out (in all)", transient=True)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        passing = not any(words in str(error.os_error).lower() for words in NO_SUCH_NAME)
        return Unavailable("no such host", transient=passing, dead=True)
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return Unavailable(f"TLS failure ({_short(error)})", dead=True)
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        if isinstance(cause, PrivateAddress) or "private address" in str(cause):
            return Unavailable(f"private address ({error.host})")
        return Unavailable(f"cannot connect ({_short(cause)})", transient=True, dead=True)
    if isinstance(error, aiohttp.TooManyRedirects):
        return Unavailable("too many redirects")
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError | UnicodeError):
        return Unavailable("bad URL")
    if isinstance(error, aiohttp.ClientPayloadError):
        return Unavailable("cut short", transient=True)
    if isinstance(error, aiohttp.ClientResponseError):
        return Unavailable("no valid HTTP")
    return Unavailable("connection broken", transient=True, dead=True)


def _short(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    text = os.strerror(number) if isinstance(number, int) and number > 0 else first_line(error)
    return text[:80].lower()
