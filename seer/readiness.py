"""Data as people have them, made ready before a verb takes them: tars get their index, folders of
images become shards.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from seer.terminal import progress, say

if TYPE_CHECKING:
    from seer.pretrain.recipe import Pretrain


def index_tars(*folders: str, nested: bool = False) -> None:
    """Index tars that have no manifest yet; if `nested`, also where they all lie in folders below."""
    from shards.indexing import index_on_first_use

    @contextmanager
    def shown(folder: Path) -> Iterator[Callable[[int, int], None]]:
        say(f"{folder} holds tars without a manifest; indexing them", json_target="-")
        with progress("indexing", "tars") as tick:
            yield tick

    index_on_first_use(folders, shown, nested)


def with_splits(data: str) -> list[str]:
    """Labelled data and where their splits would lie, to be indexed; none of ""."""
    return [data, *(f"{data}/{split}" for split in ("train", "test", "val"))] if data else []


def as_shards(config: "Pretrain", nproc: int = 1) -> "Pretrain":
    """The configuration; where its data are a folder of images, with shards of these, made beside the
    run once all that can be is checked for so many processes of this host.

    Raises:
        InputError: there are no data, or the run would be refused once they are made.
    """
    from seer.pretrain.recipe import data_of
    from shards.first_use import check_data, earlier_shards, holds_images, shards_of

    if not holds_images(config.data):
        check_data(config.data)
        return config
    begun_with = data_of(config.run_dir)
    if begun_with is None:
        _check_beforehand(config, nproc)

    @contextmanager
    def shown(out: Path) -> Iterator[Callable[[int, int], None]]:
        with progress("building", "images") as tick:
            yield tick

    folder = Path(config.data)
    out, report = shards_of(folder, Path(config.run_dir).parent, begun_with, shown)
    say(f"{folder} holds images; their shards are {out}", json_target="-")
    if report:
        say(*report.lines(), json_target="-")
        for earlier, samples in earlier_shards(folder, out)[-1:]:
            say(
                f"these are new because the images are not those of {earlier} ({samples:,}) any more, "
                "which may be removed unless a run goes on with it",
                json_target="-",
            )
    return replace(config, data=str(out))


def _check_beforehand(config: "Pretrain", nproc: int) -> None:
    """Refuse at once what a run would refuse when its shards are made, which may take minutes."""
    from seer.pretrain.length import check_images
    from shards.first_use import count_images

    images = count_images(Path(config.data), config.batch_size)
    if images is not None:
        check_images(config, images)
    if config.device == "cuda":
        from seer.distributed import pick_device  # imports torch

        pick_device(config.device, nproc - 1)
