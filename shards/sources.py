"""Folders, tars, zips and lists on the command line to one listing of what there is to put into shards."""

import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from PIL import Image

from seer.data.decode import FORMATS, image_suffixes
from seer.errors import InputError
from shards import lists, tars, zips
from shards.listing import Container, Listing, key_of, table_of
from shards.quarantine import counts, entry, text

SNIFFED = 1 << 20  # bytes of a member in which its header should lie
WANTED = "give folders of images, WebDataset tars, zips, or lists (.parquet, .csv, .tsv, .jsonl, .txt)"


def scan(
    sources: Sequence[str | Path], labels: bool = False, skip: Path | None = None, columns: lists.Columns | None = None
) -> Listing:
    """List the images of folders (any depth; tars and zips in them are opened), tars and zips, and the rows of lists.

    Args:
        labels: take the folder directly below each folder or zip as the class of what it holds.
        skip: a folder to leave out, such as the output when it lies inside a source.
        columns: which columns of lists say what; None for those with usual names.

    Raises:
        InputError: a source is missing or unreadable; nothing there looks like an image; labels are asked for and
            there are no class folders, or class names and label numbers are mixed.
    """
    listing = Listing()
    rows = (row for source in sources for row in _source_rows(source, sources, listing, labels, skip))
    listing.table = table_of(rows)
    named = [source for source in sources if _is_list(Path(source))]
    listing.lists = lists.read_all(named, listing, columns or {}, lists.scratch(skip))
    listing.classes = _classes(listing, labels)
    if not len(listing):
        raise InputError(_nothing_found(sources, listing))
    return listing


def scan_tar(path: Path) -> Listing:
    """List the samples of one tar; damage is found in `quarantine`. Raises nothing."""
    listing = Listing()
    listing.table = table_of(_tar_rows(str(path), f"{path.name}/", listing))
    return listing


def _is_list(path: Path) -> bool:
    return path.suffix.lower() in lists.READERS and path.is_file()


def _source_rows(source: str | Path, sources: Sequence, listing: Listing, labels: bool, skip: Path | None) -> Iterator:
    path = Path(source)
    if not path.exists():
        raise InputError(f"{source} does not exist; {WANTED}")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise InputError(f"{source} cannot be read: permission denied; change its permissions or leave it out")
    if path.is_dir():
        prefix = "" if len(sources) == 1 else f"{str(source).rstrip('/')}/"
        yield from _folder_rows(Container(os.path.abspath(path), prefix, "folder"), listing, labels, skip)
    elif path.suffix in ARCHIVES:
        yield from ARCHIVES[path.suffix](os.path.abspath(path), f"{path.name}/", listing, labels)
    elif not _is_list(path):
        raise InputError(f"{source} is neither a folder nor a .tar, .zip or list; {WANTED}")


def _folder_rows(folder: Container, listing: Listing, labels: bool, skip: Path | None) -> Iterator[dict[str, Any]]:
    number = listing.add(folder)
    for name, file in _walk(folder.path, skip):
        source = folder.prefix + name
        if isinstance(file, OSError):
            listing.quarantine.append(entry(source, f"cannot be read ({file.strerror})"))
        elif (suffix := os.path.splitext(name)[1]) in ARCHIVES:
            yield from ARCHIVES[suffix](file.path, f"{source}/", listing, labels)
        elif not _is_image(file.path):
            listing.ignored[_suffix(name)] += 1
        elif labels and "/" not in name:
            listing.quarantine.append(entry(source, "not in a class folder"))
        else:
            yield _file_row(number, name, -1, file.stat().st_size, labels)


def _tar_rows(path: str, prefix: str, listing: Listing, labels: bool = False) -> Iterator[dict[str, Any]]:
    tar = Container(path, prefix, "tar")
    number = listing.add(tar)
    try:
        for key, group in tars.samples(tars.members(tar.path)):
            image = _image_of(tar.path, group)
            if image is None:
                listing.ignored.update(_suffix(member.name) for member in group.values())
                continue
            member = group.pop(image)
            yield {
                "container": number,
                "name": os.fsencode(member.name),
                "offset": member.offset,
                "size": member.size,
                "key": key_of(key),
                "extras": [
                    {"suffix": text(os.fsencode(s)), "offset": m.offset, "size": m.size} for s, m in group.items()
                ],
            }
    except (tars.DamagedTar, OSError) as error:
        listing.quarantine.append(entry(tar.prefix.rstrip("/"), getattr(error, "strerror", None) or str(error)))


def _zip_rows(path: str, prefix: str, listing: Listing, labels: bool) -> Iterator[dict[str, Any]]:
    number = listing.add(Container(path, prefix, "zip"))
    try:
        members = zips.members(path)
    except zips.DAMAGE as error:
        listing.quarantine.append(entry(prefix.rstrip("/"), f"damaged zip ({error})"))
        return
    for place, member in members:
        name = member.filename
        if os.path.splitext(name)[1].lower() not in image_suffixes() and not _sniff_member(path, place):
            listing.ignored[_suffix(name)] += 1
        elif labels and "/" not in name:
            listing.quarantine.append(entry(prefix + name, "not in a class folder"))
        else:
            yield _file_row(number, name, place, member.file_size, labels)


def _file_row(container: int, name: str, offset: int, size: int, labels: bool) -> dict[str, Any]:
    """The row of an image that is a file, or a zip's member, of its own."""
    return {
        "container": container,
        "name": os.fsencode(name),
        "offset": offset,
        "size": size,
        "key": key_of(os.path.splitext(name)[0]),
        "class": text(os.fsencode(name.split("/")[0])) if labels else None,
        "extras": [],
    }


# What is opened wherever it is found, by suffix.
ARCHIVES: dict[str, Callable[[str, str, Listing, bool], Iterator[dict[str, Any]]]] = {
    ".tar": _tar_rows,
    ".zip": _zip_rows,
}


def _walk(root: str, skip: Path | None) -> Iterator[tuple[str, os.DirEntry | OSError]]:
    """`(path below root, entry)` of every regular file that is not hidden; links are followed, loops are not."""
    skipped = _identity(skip) if skip is not None and skip.exists() else None
    folders: list[tuple[str, str, tuple]] = [("", root, (_identity(root),))]
    while folders:
        below, path, trail = folders.pop()
        try:
            files = sorted(os.scandir(path), key=lambda file: file.name)
        except OSError as error:
            yield below.rstrip("/"), error
            continue
        below_this = []
        for file in files:
            if file.name.startswith("."):
                continue
            try:
                if file.is_dir():
                    identity = _identity(file.path)
                    if identity not in trail and identity != skipped:
                        below_this.append((f"{below}{file.name}/", file.path, (*trail, identity)))
                elif stat.S_ISREG(file.stat().st_mode):  # raises for a link to nothing; pipes are passed over
                    yield below + file.name, file
            except OSError as error:
                yield below + file.name, error
        folders += reversed(below_this)


def _image_of(tar: str, group: dict[str, tars.Member]) -> str | None:
    """The suffix of a sample's image: by name, the shortest such suffix first, else by content."""
    for suffix in sorted(group, key=lambda suffix: suffix.count(".")):
        if f".{suffix.rpartition('.')[2]}" in image_suffixes():
            return suffix
    for suffix, member in group.items():
        if _sniff(io.BytesIO(tars.read_range(tar, member.offset, min(member.size, SNIFFED)))):
            return suffix
    return None


def _is_image(path: str) -> bool:
    """By its suffix, so that a damaged image is noticed as one; else by content."""
    return os.path.splitext(path)[1].lower() in image_suffixes() or _sniff(path)


def _sniff_member(path: str, place: int) -> bool:
    try:
        return _sniff(io.BytesIO(zips.read(path, place, SNIFFED)))
    except zips.DAMAGE:
        return False


def _sniff(file: str | io.BytesIO) -> bool:
    try:
        with Image.open(file, formats=FORMATS):
            return True
    except Image.DecompressionBombError:
        return True  # an image for sure; the decoder will refuse it with the proper reason
    except Exception:  # what Pillow's readers raise has no common ancestor
        return False


def _suffix(name: str) -> str:
    """What a file is counted under that is no image."""
    return text(os.fsencode(os.path.splitext(name)[1].lower())) or "no suffix"


def _classes(listing: Listing, labels: bool) -> list[str] | None:
    """Sorted names of what folders and lists have as classes."""
    classes = set(pc.unique(listing.table["class"]).drop_null().to_pylist())
    if labels and not classes:
        raise InputError("--labels needs a folder per class below each source and found none; leave --labels out")
    classes = classes.union(*(each.classes for each in listing.lists))
    if classes and (any(each.numbered for each in listing.lists) or _numbered_tars(listing)):
        raise InputError("classes by name would mix with tars or lists that number them; build these separately")
    return sorted(classes) or None


def _numbered_tars(listing: Listing) -> bool:
    unnamed = listing.table.filter(pc.is_null(listing.table["class"]))
    rows = (extras for batch in unnamed.to_batches() for extras in batch["extras"].to_pylist())
    return any(extra["suffix"] == "cls" for extras in rows for extra in extras)


def _nothing_found(sources: Sequence, listing: Listing) -> str:
    names = ", ".join(map(str, sources))
    if listing.quarantine:
        first = listing.quarantine[0]
        return f"no usable image in {names}: {first['source']}: {first['reason']}; repair it or give another source"
    if listing.ignored:
        return f"no image in {names}, only {counts(listing.ignored)}; {WANTED}"
    return f"{names} is empty; {WANTED}"


def _identity(path: str | Path) -> tuple[int, int]:
    state = os.stat(path)
    return state.st_dev, state.st_ino
