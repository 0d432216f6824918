"""Data as people have them, made ready before a verb takes them: tars get their index, folders of
images become shards.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from seer.terminal import progress, say


def index_tars(*folders: str, nested: bool = False) -> None:
    """Index tars that have no manifest yet; if `nested`, also where they all lie in folders below."""
    from shards.indexing import index_on_first_use

    @contextmanager
    def shown(folder: Path) -> Iterator[Callable[[int, int], None]]:
        say(f"{folder} holds tars without a manifest; indexing them", json_target="-")
        with progress("indexing", "tars") as tick:
            yield tick

    index_on_first_use(folders, shown, nested)


def as_shards(data: str, run_dir: str) -> str:
    """The data; where they are a folder of images, shards of it, made beside the run."""
    from shards.first_use import holds_images, shards_of

    if not holds_images(data):
        return data
    from seer.pretrain.recipe import data_of

    @contextmanager
    def shown(out: Path) -> Iterator[Callable[[int, int], None]]:
        with progress("building", "images") as tick:
            yield tick

    folder = Path(data)
    out, report = shards_of(folder, Path(run_dir).parent, data_of(run_dir), shown)
    say(f"{folder} holds images; their shards are {out}", json_target="-")
    say(*(report.lines() if report else ()), json_target="-")
    return str(out)
