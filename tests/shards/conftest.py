"""Small pictures of every kind, and the damaged files that lie among them in the wild."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.pictures import encoded


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
    from tests.kit.downloads import serve  # which takes its pictures from here

    with serve() as running:
        yield running


@pytest.fixture
def impatient(monkeypatch):
    """Tries follow each other at once."""
    monkeypatch.setattr("shards.download.client.FIRST_WAIT", 0.01)
