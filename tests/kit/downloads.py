"""A web server on loopback that misbehaves on request: what it does follows from the URL's path."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from tests.kit.pictures import encoded


def picture(number: int) -> bytes:
    """What `/ok/NUMBER` gives."""
    return encoded(number, size=(20 + number % 5, 30))


class Server:
    """`url` begins the addresses of all its pages; `asked` counts requests by path, `busiest` those
    at one time.
    """

    def __init__(self) -> None:
        self.url, self.asked, self.now, self.busiest = "", Counter[str](), 0, 0
        self.sockets = set[int]()

    def __call__(self, path: str) -> str:
        return f"{self.url}/{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked[request.path] += 1
        assert request.transport is not None
        self.sockets.add(id(request.transport))
        self.now += 1
        self.busiest = max(self.busiest, self.now)
        try:
            return await getattr(self, request.match_info["kind"])(
                request, request.match_info["rest"]
            )
        finally:
            self.now -= 1

    async def ok(self, request: web.Request, rest: str) -> web.StreamResponse:
        await asyncio.sleep(0.002)
        return web.Response(body=picture(int(rest)), content_type="text/plain")

    async def status(self, request: web.Request, rest: str) -> web.StreamResponse:
        return web.Response(status=int(rest.split("/")[0]))

    async def flaky(self, request: web.Request, rest: str) -> web.StreamResponse:
        """`/flaky/TIMES/NUMBER`: 503, a reset or half an answer so many times, then a picture."""
        times, number = map(int, rest.split("/"))
        tried = self.asked[request.path]
        if tried > times:
            return web.Response(body=picture(number))
        kinds = [self.reset, self.cut, self.busy]
        return await kinds[(number + tried) % 3](request, rest)

    async def busy(self, request: web.Request, rest: str) -> web.StreamResponse:
        return web.Response(status=503)

    async def reset(self, request: web.Request, rest: str) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def cut(self, request: web.Request, rest: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "40000"})
        await response.prepare(request)
        await response.write(picture(1)[:300])
        assert request.transport is not None
        request.transport.close()
        return response

    async def stall(self, request: web.Request, rest: str) -> web.StreamResponse:
        """Headers at once, then nothing."""
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.sleep(60)
        return response

    async def silent(self, request: web.Request, rest: str) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    async def drip(self, request: web.Request, rest: str) -> web.StreamResponse:
        """A byte now and then, for ever: no read times out, only the whole."""
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.05)

    async def late(self, request: web.Request, rest: str) -> web.StreamResponse:
        """`/late/MILLISECONDS/NUMBER`"""
        delay, number = map(int, rest.split("/"))
        await asyncio.sleep(delay / 1000)
        return web.Response(body=picture(number))

    async def last(self, request: web.Request, rest: str) -> web.StreamResponse:
        """Answered when so many pages of `/ok` have been asked for."""
        while sum(path.startswith("/ok/") for path in self.asked) < int(rest):
            await asyncio.sleep(0.01)
        return web.Response(body=picture(1))

    async def endless(self, request: web.Request, rest: str) -> web.StreamResponse:
        """No length is told, and there is no end."""
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(10_000))
            self.asked["sent"] += 10_000

    async def announced(self, request: web.Request, rest: str) -> web.StreamResponse:
        """A length that is too much, told at once."""
        response = web.StreamResponse(headers={"Content-Length": str(1 << 40)})
        await response.prepare(request)
        await asyncio.sleep(60)
        return response

    async def robots(self, request: web.Request, rest: str) -> web.StreamResponse:
        response = web.Response(body=picture(3))
        for value in request.query.getall("tag"):
            response.headers.add("X-Robots-Tag", value)
        return response

    async def to(self, request: web.Request, rest: str) -> web.StreamResponse:
        return web.Response(
            status=302, headers={"Location": request.query["url"], **dict(tagged(request))}
        )

    async def html(self, request: web.Request, rest: str) -> web.StreamResponse:
        return web.Response(text="<html>gone</html>", content_type="image/jpeg")


def tagged(request: web.Request) -> Iterator[tuple[str, str]]:
    if "tag" in request.query:
        yield "X-Robots-Tag", request.query["tag"]


@contextmanager
def serve(host: str = "127.0.0.1") -> Iterator[Server]:
    """A running server, on a thread of its own."""
    server, loop, ready = Server(), asyncio.new_event_loop(), threading.Event()
    application = web.Application()
    application.router.add_get("/{kind}/{rest:.*}", server.answer)
    runner = web.AppRunner(
        application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True
    )

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, host, 0, backlog=1024)
        await site.start()
        server.url = f"http://{host}:{runner.addresses[0][1]}"
        ready.set()

    def run() -> None:
        loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
