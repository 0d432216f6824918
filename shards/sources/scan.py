"""Folders, tars, zips and lists on the command line to one listing of what there is to put into
shards.
"""

import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from seer.data.decoding.image_formats import (
    RAW_SUFFIXES,
    UNREAD,
    image_suffixes,
    not_read,
    unread_suffixes,
)
from seer.errors import InputError, first_line
from shards.archives import tars, zips
from shards.archives.contents import SNIFFED, read_contents, sniff
from shards.records.notes import display
from shards.records.quarantine import counts, entry, text
from shards.sources import lists
from shards.sources.formats import FORMATS, Columns
from shards.sources.labels import LEFT_OUT, MAX_CLASSES, parse_bytes
from shards.sources.listing import ROWS_PER_BATCH, Container, Listing, file_row, key_of, table_of
from shards.sources.places import is_alias

MOST_OF_LABEL = 1024  # bytes of a `.cls` member that are looked at
WANTED = (
    "give folders of images, WebDataset tars, zips, or lists (.parquet, .csv, .tsv, .jsonl, .txt)"
)


def scan(
    sources: Sequence[str | Path],
    labels: bool = False,
    skip: Path | None = None,
    columns: Columns | None = None,
) -> Listing:
    """List the images of folders (any depth; tars and zips in them are opened), tars and zips, and
    the rows of lists.

    Args:
        labels: take the folder directly below each folder or zip as the class of what it holds.
        skip: a folder to leave out, such as the output when it lies inside a source.
        columns: which columns of lists say what; None for those with usual names.

    Raises:
        InputError: a source is missing or unreadable; nothing there looks like an image; labels are asked for and
            there are no class folders, or class names and label numbers are mixed.
    """
    listing = Listing()
    rows = (
        row for source in sources for row in _source_rows(source, sources, listing, labels, skip)
    )
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


def labelled_rows(listing: Listing, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of files and members, with the `label` that their class has among these names."""
    labels = {name: label for label, name in enumerate(names)}
    for batch in listing.table.to_batches(ROWS_PER_BATCH):
        for row in batch.to_pylist():
            yield {**row, "label": labels.get(row["class"])}


def _is_list(path: Path) -> bool:
    return path.suffix.lower() in FORMATS and path.is_file()


def _source_rows(
    source: str | Path, sources: Sequence, listing: Listing, labels: bool, skip: Path | None
) -> Iterator:
    path = Path(source)
    if not path.exists():
        raise InputError(f"{source} does not exist; {WANTED}")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise InputError(
            f"{source} cannot be read: permission denied; change its permissions or leave it out"
        )
    if path.is_dir():
        prefix = "" if len(sources) == 1 else f"{str(source).rstrip('/')}/"
        yield from _folder_rows(
            Container(os.path.abspath(path), prefix, "folder"), listing, labels, skip
        )
    elif (suffix := path.suffix.lower()) in ARCHIVES:
        yield from ARCHIVES[suffix](os.path.abspath(path), f"{path.name}/", listing, labels)
    elif not _is_list(path):
        raise InputError(f"{source} is neither a folder nor a .tar, .zip or list; {WANTED}")


def _folder_rows(
    folder: Container, listing: Listing, labels: bool, skip: Path | None
) -> Iterator[dict[str, Any]]:
    number = listing.add(folder)
    for name, file in _walk(folder.path, skip):
        source = folder.prefix + name
        if isinstance(file, OSError):
            listing.quarantine.append(entry(source, f"cannot be read ({file.strerror})"))
        elif (suffix := os.path.splitext(name)[1].lower()) in ARCHIVES:
            if suffix == ".tar" and is_alias(Path(file.path), Path(folder.path)):
                continue  # which is found below
            yield from ARCHIVES[suffix](file.path, f"{source}/", listing, labels)
        elif not is_image(file.path):
            _leave_out(listing, source, name)
        elif labels and "/" not in name:
            listing.quarantine.append(entry(source, "not in a class folder"))
        else:
            yield _file_row(number, name, -1, file.stat().st_size, labels)


def _tar_rows(
    path: str, prefix: str, listing: Listing, labels: bool = False
) -> Iterator[dict[str, Any]]:
    number = listing.add(Container(path, prefix, "tar"))
    contents = read_contents(path)
    if contents.damage:
        listing.quarantine.append(entry(prefix.rstrip("/"), contents.damage))
    for member in contents.strays:
        _leave_out(listing, prefix + member.name, member.name)
    for sample in contents.samples:
        class_name = _take_class(listing.containers[number], sample.companions, listing)
        extras = [
            {"suffix": text(tars.raw(suffix)), "offset": member.offset, "size": member.size}
            for suffix, member in sample.companions.items()
        ]
        yield {
            "container": number,
            "name": tars.raw(sample.image.name),
            "offset": sample.image.offset,
            "size": sample.image.size,
            "key": key_of(sample.key),
            "class": class_name,
            "extras": extras,
        }
    listing.notes.update(contents.notes, prefix)


def _take_class(tar: Container, companions: dict[str, tars.Member], listing: Listing) -> str | None:
    """The class that a sample's `.cls` names, which is then no companion any more; None for a
    number or no label.
    """
    member = companions.get("cls")
    if member is None:
        return None
    try:
        data = tars.read_range(tar.path, member.offset, min(member.size, MOST_OF_LABEL))
    except OSError:  # noticed again, and told, when the sample is read
        return None
    label = parse_bytes(data)
    example = tar.prefix + display(member.name)
    if label.bad:
        listing.notes.add(LEFT_OUT, example)
    if label.number is not None:
        listing.numbered = listing.numbered or example
    if label.name is not None:
        del companions["cls"]
    return label.name


def _zip_rows(path: str, prefix: str, listing: Listing, labels: bool) -> Iterator[dict[str, Any]]:
    number = listing.add(Container(path, prefix, "zip"))
    try:
        members = zips.members(path)
    except zips.DAMAGE as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        listing.quarantine.append(entry(prefix.rstrip("/"), f"damaged zip ({reason})"))
        return
    for place, member in members:
        name = member.filename
        suffix = os.path.splitext(name)[1].lower()
        if suffix in RAW_SUFFIXES or (
            suffix not in image_suffixes() and not _sniff_member(path, place)
        ):
            _leave_out(listing, prefix + name, name)
        elif labels and "/" not in name:
            listing.quarantine.append(entry(prefix + name, "not in a class folder"))
        else:
            yield _file_row(number, name, place, member.file_size, labels)


def _file_row(container: int, name: str, offset: int, size: int, labels: bool) -> dict[str, Any]:
    """The row of a file, or of a zip's member, whose class may be its first folder."""
    label = text(os.fsencode(name.split("/")[0])) if labels else None
    return {**file_row(container, name, offset, size), "class": label}


# What is opened wherever it is found, by suffix.
ARCHIVES: dict[str, Callable[[str, str, Listing, bool], Iterator[dict[str, Any]]]] = {
    ".tar": _tar_rows,
    ".zip": _zip_rows,
}


def _walk(root: str, skip: Path | None) -> Iterator[tuple[str, os.DirEntry | OSError]]:
    """`(path below root, entry)` of every regular file that is not hidden; links are followed,
    loops are not.
    """
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
                elif stat.S_ISREG(
                    file.stat().st_mode
                ):  # raises for a link to nothing; pipes are passed over
                    yield below + file.name, file
            except OSError as error:
                yield below + file.name, error
        folders += reversed(below_this)


def is_image(path: str) -> bool:
    """By its suffix, so that a damaged image is noticed as one; else by content."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix in image_suffixes() or (suffix not in RAW_SUFFIXES and sniff(path))


def _sniff_member(path: str, place: int) -> bool:
    try:
        return sniff(io.BytesIO(zips.read(path, place, SNIFFED)))
    except zips.DAMAGE:
        return False


def _leave_out(listing: Listing, source: str, name: str) -> None:
    """Quarantine an image of a kind that is not read; count what is no image."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix in unread_suffixes():
        listing.quarantine.append(entry(source, not_read(UNREAD[suffix])))
    else:
        listing.ignored[_suffix(name)] += 1


def _suffix(name: str) -> str:
    """What a file is counted under that is no image."""
    return text(os.fsencode(os.path.splitext(name)[1].lower())) or "no suffix"


def _classes(listing: Listing, labels: bool) -> list[str] | None:
    """Sorted names of what folders and lists have as classes."""
    classes = set(pc.unique(listing.table["class"]).drop_null().to_pylist())
    if labels and not classes:
        raise InputError(
            "--labels needs a folder per class below each source and found none; leave --labels out"
        )
    classes = classes.union(*(each.classes for each in listing.lists))
    numbered = [listing.containers[each.container].path for each in listing.lists if each.numbered]
    if listing.numbered:
        numbered.append(listing.numbered)
    if classes and numbered:
        raise InputError(
            f"classes by name would mix with tars or lists that number them ({display(min(classes))!r} in one place, "
            f"numbers in {display(numbered[0])}); build these separately"
        )
    if len(classes) > MAX_CLASSES:
        raise InputError(
            f"{len(classes):,} different labels are no classes, of which there can be {MAX_CLASSES:,}; leave them out "
            "with --columns label="
        )
    return sorted(classes) or None


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
