"""Which tars are meant by what the command line names, and the folder that their indices and
manifest go to.

A manifest names plain files beside it. Tars that lie elsewhere, in folders below or in a folder
that cannot be written, get links beside the manifest, made by the user's own command: no file can
name a path that would be followed.
"""

import os
import re
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from seer.data.storage.index import MANIFEST, Manifest, index_path
from seer.errors import InputError, unreadable
from shards.records import state

# Folders that stay data sets of their own: a model trained on all of them would be scored on what
# it has seen.
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
# For a name in a manifest; lone surrogates are no UTF-8.
UNFIT = re.compile(r"[\ud800-\udfff\\\x00-\x1f\x7f]")
ELSEWHERE = "give --index-dir DIR: manifest, indices and links to the tars go there, and DIR is the data set"


class Place(NamedTuple):
    """A tar, the folder of its manifest, and its name there if it lies elsewhere."""

    home: Path
    tar: Path
    name: str


def is_tar(path: Path) -> bool:
    """Whether a name says that this is an uncompressed tar."""
    return path.suffix.lower() == ".tar" and not path.name.startswith(".")


def own_tars(folder: Path) -> list[Path]:
    """The tars of a folder, without links to those in folders below. Raises InputError."""
    try:
        paths = sorted(path for path in folder.iterdir() if is_tar(path))
    except OSError as error:
        unreadable(error)
    return [path for path in paths if not is_alias(path, folder)]


def is_alias(path: Path, root: Path) -> bool:
    """Whether a tar is a link to one below `root`, as indexing makes for tars in folders of it."""
    return path.is_symlink() and path.resolve().is_relative_to(root.resolve())


def nested_tars(folder: Path) -> list[Path]:
    """The tars in folders below that belong to one data set with their root; none if the root has
    tars of its own.
    """
    return (
        [place.tar for place in _nested(folder) if place.home == folder]
        if not own_tars(folder)
        else []
    )


def homes(urls: Sequence[str | Path], index_dir: Path | None = None) -> dict[Path, list[Path]]:
    """The tars to index, by the folder of their manifest; those that lie elsewhere have links in
    it.

    Args:
        urls: tars, or folders. If a folder has no tars of its own, those in folders below it are meant. Folders that
            have a manifest, or are called `train`, `test` and so on, stay data sets of their own.
        index_dir: the folder for all of them; None: the folders that the tars lie in, or the one that was named.

    Raises:
        InputError: something is missing or no tar, or a folder cannot be written.
    """
    places = dict.fromkeys(chain.from_iterable(_places(Path(url)) for url in urls))
    if index_dir:
        _make(index_dir)
        places = dict.fromkeys(place._replace(home=index_dir) for place in places)
    tars: dict[Path, list[Path]] = {}
    for home in dict.fromkeys(place.home for place in places):
        if not os.access(home, os.W_OK):
            raise InputError(f"{home} cannot be written; {ELSEWHERE}")
        tars[home] = sorted({_at_home(place) for place in places if place.home == home})
        _refuse_shared_indices(tars[home])
    return tars


def linked_shards(directory: Path) -> list[str]:
    """Shards of a data set that are links: their tars lie elsewhere."""
    return [shard for shard in Manifest.load(directory).shards if (directory / shard).is_symlink()]


def left_out(urls: Sequence[str | Path]) -> list[Path]:
    """Tars in folders below those that were named, which are not meant because these have tars of
    their own.
    """
    folders = [Path(url) for url in urls if Path(url).is_dir()]
    return [place.tar for folder in folders if own_tars(folder) for place in _nested(folder)]


def _places(url: Path) -> list[Place]:
    """What one argument names."""
    if not url.exists():
        raise InputError(f"{url} does not exist; give local tars, or the folder that holds them")
    if url.is_dir():
        own = [Place(url, tar, tar.name) for tar in own_tars(url)]
        return own or list(_nested(url))
    if not is_tar(url):
        raise InputError(f"{url} is no .tar; give uncompressed tars, or the folder that holds them")
    return [Place(url.parent, url, url.name)]


def _nested(root: Path) -> Iterator[Place]:
    """The tars in folders below `root`, in the order of their paths."""
    homes = {root: root}
    for path, folders, names in os.walk(root, onerror=unreadable):
        folder = Path(path)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        home = homes.pop(folder)
        for name in folders:
            below = folder / name
            apart = name.lower() in SPLITS or (below / MANIFEST).exists()
            homes[below] = below if apart and home == root else home
        if folder == root:
            continue
        for tar in sorted(folder / name for name in names if is_tar(Path(name))):
            if not is_alias(tar, root):
                yield Place(home, tar, "__".join(tar.relative_to(home).parts))


def _make(folder: Path) -> None:
    if folder.is_file():
        raise InputError(f"{folder} is a file; give a folder as --index-dir")
    with state.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _at_home(place: Place) -> Path:
    """The tar, or the link to it beside its manifest, which is made unless it is there."""
    if place.tar.parent == place.home:
        if UNFIT.search(place.tar.name):
            raise InputError(
                f"{place.tar} has a name that can not stand in a manifest; rename it, or {ELSEWHERE}"
            )
        return place.tar
    stem, suffix = os.path.splitext(UNFIT.sub("_", place.name))
    for name in chain([stem + suffix], (f"{stem}~{number}{suffix}" for number in count(2))):
        link = place.home / name
        if link.is_symlink() and link.resolve() == place.tar.resolve():
            return link
        if not os.path.lexists(link):
            break
    below = place.tar.absolute().is_relative_to(place.home.absolute())
    target = os.path.relpath(place.tar, place.home) if below else os.path.abspath(place.tar)
    with state.writing(place.home):
        link.symlink_to(target)
    return link


def _refuse_shared_indices(tars: list[Path]) -> None:
    """Raise InputError for tars whose names differ in the case of `.tar` alone."""
    taken: dict[Path, Path] = {}
    for tar in tars:
        if (twin := taken.setdefault(index_path(tar), tar)) != tar:
            raise InputError(f"{twin} and {tar.name} would have the same index; rename one of them")
