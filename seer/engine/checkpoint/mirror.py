"""Copies of a run's checkpoints in an object store. One is there when its header is: that comes
last and goes first.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from seer.data.storage import store
from seer.data.storage.store import Url
from seer.distributed import Group, World, on_all, on_main
from seer.engine.checkpoint.header import read_header
from seer.engine.checkpoint.integrity import portion
from seer.errors import InputError
from seer.rundir.names import HEADER


class Mirror:
    """The folder at `address` (`s3://…`, `gs://…`), one run's alone. All ranks call `copy` and
    `fetch`.
    """

    def __init__(self, address: str, world: World, group: Group = None):
        url = store.place(address)
        if not isinstance(url, Url) or url.scheme.startswith("http"):
            raise InputError(
                f"checkpoint.store={address}: give a folder in a store, such as s3://bucket/runs/one"
            )
        self.url, self.world, self.group = Url(url.rstrip("/")), world, group

    def checkpoints(self) -> list[str]:
        """The names of what is there complete, oldest first."""
        return sorted(
            name.removesuffix(f"/{HEADER}")
            for name in store.names(self.url)
            if name.endswith(f"/{HEADER}")
        )

    def copy(
        self, folder: Path, files: Iterable[str], surplus: Callable[[list[str]], list[str]]
    ) -> None:
        """Copy a checkpoint there, each rank a share of the files, and remove what is `surplus`
        then.
        """

        def complete() -> None:
            self._put(folder, [HEADER])
            for name in surplus(self.checkpoints()):
                self.remove(name)

        mine = portion(files, self.world.rank, self.world.size)
        on_main(lambda: self.remove(folder.name), self.group)
        on_all(lambda: self._put(folder, mine), self.group)
        on_main(complete, self.group)

    def fetch(self, name: str, folder: Path) -> None:
        """Copy a checkpoint from there to `folder`, each rank a share of the files."""

        def header() -> dict:
            self._get(name, [HEADER], folder)
            return read_header(folder)

        mine = portion(on_main(header, self.group)["files"], self.world.rank, self.world.size)
        on_all(lambda: self._get(name, mine, folder), self.group)

    def remove(self, name: str) -> None:
        """Remove a checkpoint; killed on the way, what is left is not taken for one."""
        files = store.names(self.url / name)
        store.remove([self.url / name / HEADER] if HEADER in files else [])
        store.remove([self.url / name / file for file in files if file != HEADER])

    def _put(self, folder: Path, files: list[str]) -> None:
        store.upload([(folder / file, self.url / folder.name / file) for file in files])

    def _get(self, name: str, files: list[str], folder: Path) -> None:
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
        store.download([(self.url / name / file, folder / file) for file in files])
