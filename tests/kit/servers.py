"""Servers on the loopback that fail as servers do, at a seeded rate: HTTP with ranges, and S3
(moto) behind it.
"""

import http.client
import logging
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from seer.data.storage import store

FAULTS = ("503", "429", "reset", "truncated", "stall")
Answer = tuple[int, dict[str, str], bytes]


class Server(ThreadingHTTPServer):
    """Gives `answer(method, path, headers)`, or at the `rate` one of `faults` instead.

    Attributes:
        asked: how often each `(method, path)` was asked for. failed: how often each fault was given.
        stall: seconds for which a stalled request is silent.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: Callable[[str, str, dict], Answer]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.rate, self.faults, self.stall = answer, 0.0, FAULTS, 1.0
        self.asked: Counter = Counter()
        self.failed: Counter = Counter()
        self._random, self._lock = random.Random(7), threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fault(self, method: str, path: str) -> str | None:
        with self._lock:
            self.asked[method, path] += 1
            if self._random.random() >= self.rate:
                return None
            fault = self._random.choice(self.faults)
            self.failed[fault] += 1
            return fault


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        fault = self.server.fault(self.command, self.path)
        status, headers, body = self.server.answer(self.command, self.path, dict(self.headers))
        if fault in ("503", "429"):
            status, headers, body = (
                int(fault),
                {},
                b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>",
            )
        if fault == "stall":
            time.sleep(self.server.stall)
        if fault in ("reset", "stall"):
            # Without lingering, closing sends a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: len(body) // 2] if fault == "truncated" else body)
        self.close_connection = fault == "truncated"

    do_HEAD = do_GET  # noqa: N815

    def handle(self) -> None:
        with suppress(
            OSError, ValueError
        ):  # the client gave up, or we closed the connection on purpose
            super().handle()

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve(answer: Callable[[str, str, dict], Answer]) -> Iterator[Server]:
    server = Server(answer)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def files(root: Path) -> Callable[[str, str, dict], Answer]:
    """Serves files below `root`, with byte ranges."""

    def answer(method: str, path: str, headers: dict) -> Answer:
        file = root / path.lstrip("/")
        if not file.is_file():
            return 404, {}, b""
        body = file.read_bytes()
        if "Range" not in headers:
            return 200, {"Accept-Ranges": "bytes"}, body
        start, _, end = headers["Range"].removeprefix("bytes=").partition("-")
        first, last = int(start), min(int(end or len(body)), len(body) - 1)
        if first > last:
            return 416, {}, b""
        return 206, {"Content-Range": f"bytes {first}-{last}/{len(body)}"}, body[first : last + 1]

    return answer


def proxy(port: int) -> Callable[[str, str, dict], Answer]:
    """Passes what is asked on to a server on this host."""

    def answer(method: str, path: str, headers: dict) -> Answer:
        upstream = http.client.HTTPConnection("127.0.0.1", port)
        try:
            upstream.request(method, path, headers=headers)
            response = upstream.getresponse()
            kept = {
                k: v
                for k, v in response.getheaders()
                if k.lower() not in ("connection", "transfer-encoding")
            }
            return response.status, kept, response.read()
        finally:
            upstream.close()

    return answer


@contextmanager
def moto_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Any]]:
    """The address of an S3 server (moto) and a client of boto3 for it; the environment has
    credentials for it.
    """
    moto = pytest.importorskip("moto.server", reason="needs pip install 'moto[s3,server]'")
    pytest.importorskip("s3fs", reason="needs pip install s3fs")
    boto3 = pytest.importorskip("boto3")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    behind = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    behind.start()
    try:
        address = f"http://127.0.0.1:{behind.get_host_and_port()[1]}"
        environment = {
            "ACCESS_KEY_ID": "key",
            "SECRET_ACCESS_KEY": "secret",
            "DEFAULT_REGION": "us-east-1",
        }
        for name, value in (
            environment | {"ENDPOINT_URL": address, "EC2_METADATA_DISABLED": "true"}
        ).items():
            monkeypatch.setenv(f"AWS_{name}", value)
        store._server.cache_clear()
        yield address, boto3.client("s3", endpoint_url=address)
    finally:
        behind.stop()
        store._server.cache_clear()


@contextmanager
def bucket_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket that can be written."""
    with moto_server(monkeypatch) as (_, client):
        client.create_bucket(Bucket="bucket")
        yield "s3://bucket"


@contextmanager
def s3_server(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[Server, Callable[[Path, str], str]]]:
    """A server in front of S3 (moto), and a function that uploads a folder to a bucket and tells
    its address.
    """
    with (
        moto_server(monkeypatch) as (address, client),
        serve(proxy(int(address.rpartition(":")[2]))) as server,
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)

        def upload(folder: Path, bucket: str) -> str:
            client.create_bucket(Bucket=bucket)
            for path in sorted(folder.iterdir()):
                client.upload_file(str(path), bucket, f"deep/prefix/{path.name}")
            return f"s3://{bucket}/deep/prefix"

        yield server, upload


def be_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let requests of this process time out, and be repeated, sooner."""
    monkeypatch.setattr(store, "SECONDS", 0.5)
    monkeypatch.setattr(store, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(store, "LONGEST_PAUSE", 0.05)
