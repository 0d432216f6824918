"""A web server on loopback for `build.py`: pictures out of memory, and among them what the web is
like.

    python benchmarks/unreliable.py FOLDER

It runs in a process of its own and answers at 127.0.0.1, 127.0.0.2 and so on alike, which stand for
many hosts. What a page does follows from its number alone, so that all who ask fare the same.
"""

import asyncio
import random
import sys
from pathlib import Path

PORT = 8299
HOSTS = 64
FAULTS = {"404": 0.05, "stall": 0.005, "reset": 0.01, "slow": 0.02}  # shares of the pages
SLOW_SECONDS = 2.0


def url(number: int) -> str:
    """The address of a page."""
    return f"http://127.0.0.{2 + number % HOSTS}:{PORT}/{number}.jpg"


def fault(number: int) -> str:
    """What is wrong with a page; "" for nothing."""
    draw = random.Random(number).random()
    for name, share in FAULTS.items():
        draw -= share
        if draw < 0:
            return name
    return ""


class Page(asyncio.Protocol):
    """HTTP/1.1 as far as a client that sends one GET after another needs it."""

    pictures: list[bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.received = transport, b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while b"\r\n\r\n" in self.received:
            request, _, self.received = self.received.partition(b"\r\n\r\n")
            number = int(request.split(b" ", 2)[1].lstrip(b"/").partition(b".")[0])
            closing = b"connection: close" in request.lower() or b"HTTP/1.0" in request
            self.answer(number, fault(number), closing)

    def answer(self, number: int, what: str, closing: bool) -> None:
        """Send the picture, or do what is wrong with it."""
        if what == "stall":
            return
        if what == "reset":
            self.transport.abort()
            return
        if what == "slow":
            asyncio.get_running_loop().call_later(SLOW_SECONDS, self.answer, number, "", closing)
            return
        body = b"" if what == "404" else self.pictures[number % len(self.pictures)]
        status = "404 Not Found" if what == "404" else "200 OK"
        last = "Connection: close\r\n" if closing else ""
        head = f"HTTP/1.1 {status}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n{last}\r\n"
        self.transport.write(head.encode() + body)
        if closing:
            self.transport.close()


async def serve(folder: Path) -> None:
    """Serve until killed; says when it is ready."""
    Page.pictures = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    server = await asyncio.get_running_loop().create_server(
        Page, "127.0.0.1", PORT, backlog=4096, reuse_address=True
    )
    others = [
        await asyncio.get_running_loop().create_server(
            Page, f"127.0.0.{2 + i}", PORT, backlog=4096, reuse_address=True
        )
        for i in range(HOSTS)
    ]
    print("ready", flush=True)
    await asyncio.gather(server.serve_forever(), *(other.serve_forever() for other in others))


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
