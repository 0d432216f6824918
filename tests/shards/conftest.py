"""Small pictures of every kind, and the damaged files that lie among them in the wild."""

import hashlib
import io
import os
import signal
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def pixels(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    """A smooth coloured picture, `(height, width, 3)` uint8."""
    corners = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC))


def encoded(
    seed: int, format: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = (24, 32), **options
) -> bytes:
    """That picture as a file's content."""
    file = io.BytesIO()
    Image.fromarray(pixels(seed, *size)).convert(mode).save(file, format, **options)
    return file.getvalue()


@cache
def bomb(side: int = 60_000) -> bytes:
    """A valid PNG of `side` × `side` black pixels, one bit each."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    row = bytes(1 + (side + 7) // 8)
    packer = zlib.compressobj(1)
    body = b"".join(packer.compress(row * 1000) for _ in range(side // 1000)) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


@pytest.fixture
def folder(tmp_path) -> Callable[..., Path]:
    """Writes `{relative path: content}` and returns the folder."""

    def write(files: dict[str, bytes], name: str = "images") -> Path:
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        for relative, content in files.items():
            path = root / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return root

    return write


@pytest.fixture
def photos(folder) -> Path:
    """Twenty sound JPEGs in two class folders."""
    return folder({f"{('cat', 'dog')[i % 2]}/{i:02}.jpg": encoded(i) for i in range(20)})


@pytest.fixture(scope="module")
def server():
    """A web server on loopback that misbehaves on request."""
    from tests.shards.server import serve  # which takes its pictures from here

    with serve() as running:
        yield running


@pytest.fixture
def impatient(monkeypatch):
    """Tries follow each other at once."""
    monkeypatch.setattr("shards.download.client.FIRST_WAIT", 0.01)


def contents(directory: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory, hidden ones included."""
    files = [Path(root, name) for root, _, names in os.walk(directory) for name in names]
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def killed(arm: Callable[[], None], function: Callable, *arguments, **options) -> bool:
    """Call a function in a forked process that `arm` prepares; whether SIGKILL ended it."""
    child = os.fork()
    if child == 0:
        arm()
        function(*arguments, **options)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_change(moment: int, after: bool, *changes: str) -> Callable[[], None]:
    """What arms a process to be killed before or after its call number `moment` (from 0) of these
    functions of `os`.
    """

    def arm() -> None:
        left = moment

        def dying(function):
            def call(*arguments, **options):
                nonlocal left
                left -= 1
                if left < 0 and not after:
                    die()
                result = function(*arguments, **options)
                if left < 0:
                    die()
                return result

            return call

        for name in changes:
            setattr(os, name, dying(getattr(os, name)))

    return arm
