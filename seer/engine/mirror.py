"""Copies of a run's checkpoints in an object store. One is there when its header is: that comes last and goes first."""

from collections.abc import Iterable
from pathlib import Path

from seer.data import store
from seer.data.store import Url
from seer.engine.integrity import HEADER
from seer.errors import InputError


class Mirror:
    """The folder at `address` (`s3://…`, `gs://…`), which belongs to one run alone."""

    def __init__(self, address: str):
        url = store.place(address)
        if not isinstance(url, Url) or url.scheme.startswith("http"):
            raise InputError(f"checkpoint.store={address}: give a folder in a store, such as s3://bucket/runs/one")
        self.url = Url(url.rstrip("/"))

    def checkpoints(self) -> list[str]:
        """The names of what is there complete, oldest first."""
        return sorted(name.removesuffix(f"/{HEADER}") for name in store.names(self.url) if name.endswith(f"/{HEADER}"))

    def put(self, folder: Path, files: Iterable[str]) -> None:
        """Copy some of a checkpoint's files there."""
        store.upload([(folder / file, self.url / folder.name / file) for file in files])

    def get(self, name: str, files: Iterable[str], folder: Path) -> None:
        """Copy some of a checkpoint's files from there to `folder`."""
        files = list(files)
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
        store.download([(self.url / name / file, folder / file) for file in files])

    def remove(self, name: str) -> None:
        """Remove a checkpoint; killed on the way, what is left is not taken for one."""
        files = store.names(self.url / name)
        store.remove([self.url / name / HEADER] if HEADER in files else [])
        store.remove([self.url / name / file for file in files if file != HEADER])
