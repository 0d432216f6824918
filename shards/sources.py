"""What there is to put into shards: the images below folders and the samples inside tars, listed in a fixed order."""

import hashlib
import io
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from seer.errors import InputError
from shards import tars
from shards.quarantine import Entry, counts, entry, text

RECOGNISED_ONLY = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # Pillow opens these but does not decode them
SNIFFED = 1 << 20  # bytes of a member in which its header should lie
ROWS_PER_BATCH = 1 << 16

# One row per sample. Names are bytes because a file name need not be text. `offset` is -1 for a file of its own.
LISTING = pa.schema(
    [
        ("container", pa.int32()),  # the folder or tar that holds it: a place in `Listing.containers`
        ("name", pa.binary()),  # path below the folder, or the image's member name
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("key", pa.string()),
        ("class", pa.string()),
        ("extras", pa.list_(pa.struct([("suffix", pa.string()), ("offset", pa.int64()), ("size", pa.int64())]))),
    ]
)


@dataclass
class Container:
    """A folder or a tar. `path` opens it; `prefix` begins the recorded source of what it holds."""

    path: str
    prefix: str
    is_tar: bool

    def source_of(self, name: bytes) -> str:
        """What the index records as the origin of `name` in this container."""
        return self.prefix + text(name)


@dataclass
class Listing:
    """Everything found, before any image is decoded.

    Attributes:
        table: `LISTING` rows in an order that depends on names alone, keys made unique.
        classes: sorted names of the class folders, when labels were asked for.
        quarantine: `{"source", "reason"}` of what could not be listed. ignored: files that are no images, by suffix.
    """

    containers: list[Container] = field(default_factory=list)
    table: pa.Table = field(default_factory=LISTING.empty_table)
    classes: list[str] | None = None
    quarantine: list[Entry] = field(default_factory=list)
    ignored: Counter = field(default_factory=Counter)

    @property
    def fingerprint(self) -> str:
        """64 hex digits that change when a file is added, removed, renamed or changes its size."""
        digest = hashlib.sha256()
        for batch in self.table.to_batches(ROWS_PER_BATCH):
            digest.update("\n".join(repr(tuple(row.values())) for row in batch.to_pylist()).encode())
        return digest.hexdigest()


def scan(sources: Sequence[str | Path], labels: bool = False, skip: Path | None = None) -> Listing:
    """List the images of folders (any depth; tars in them are opened) and of WebDataset tars.

    Args:
        labels: take the folder directly below each source as the class of what it holds.
        skip: a folder to leave out, such as the output when it lies inside a source.

    Raises:
        InputError: a source is missing or unreadable; nothing there looks like an image; labels are asked for and
            there are no class folders, or labelled tars are mixed in.
    """
    listing = Listing()
    rows = (row for source in sources for row in _source_rows(source, sources, listing, labels, skip))
    listing.table = _table(rows)
    if labels:
        listing.classes = _classes(listing.table)
    if not len(listing.table):
        raise InputError(_nothing_found(sources, listing))
    return listing


def scan_tar(path: Path) -> Listing:
    """List the samples of one tar; damage is found in `quarantine`. Raises nothing."""
    listing = Listing()
    listing.table = _table(_tar_rows(Container(str(path), f"{path.name}/", True), listing))
    return listing


def _source_rows(source: str | Path, sources: Sequence, listing: Listing, labels: bool, skip: Path | None) -> Iterator:
    path = Path(source)
    if not path.exists():
        raise InputError(f"{source} does not exist; give a folder of images or a WebDataset tar")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise InputError(f"{source} cannot be read: permission denied; change its permissions or leave it out")
    if path.is_dir():
        prefix = "" if len(sources) == 1 else f"{str(source).rstrip('/')}/"
        yield from _folder_rows(Container(os.path.abspath(path), prefix, False), listing, labels, skip)
    elif path.suffix == ".tar":
        yield from _tar_rows(Container(os.path.abspath(path), f"{path.name}/", True), listing)
    else:
        raise InputError(f"{source} is neither a folder nor a .tar; give a folder of images or a WebDataset tar")


def _folder_rows(folder: Container, listing: Listing, labels: bool, skip: Path | None) -> Iterator[dict[str, Any]]:
    number = _add(listing, folder)
    for name, file in _walk(folder.path, skip):
        source = folder.prefix + name
        if isinstance(file, OSError):
            listing.quarantine.append(entry(source, f"cannot be read ({file.strerror})"))
        elif name.endswith(".tar"):
            yield from _tar_rows(Container(file.path, f"{source}/", True), listing)
        elif not _is_image(file.path):
            listing.ignored[_suffix(name)] += 1
        elif labels and "/" not in name:
            listing.quarantine.append(entry(source, "not in a class folder"))
        else:
            yield {
                "container": number,
                "name": os.fsencode(name),
                "offset": -1,
                "size": file.stat().st_size,
                "key": _key(os.path.splitext(name)[0]),
                "class": text(os.fsencode(name.split("/")[0])) if labels else None,
                "extras": [],
            }


def _tar_rows(tar: Container, listing: Listing) -> Iterator[dict[str, Any]]:
    number = _add(listing, tar)
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
                "key": _key(key),
                "extras": [
                    {"suffix": text(os.fsencode(s)), "offset": m.offset, "size": m.size} for s, m in group.items()
                ],
            }
    except (tars.DamagedTar, OSError) as error:
        listing.quarantine.append(entry(tar.prefix.rstrip("/"), getattr(error, "strerror", None) or str(error)))


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
        if f".{suffix.rpartition('.')[2]}" in _suffixes():
            return suffix
    for suffix, member in group.items():
        if _sniff(io.BytesIO(tars.read_range(tar, member.offset, min(member.size, SNIFFED)))):
            return suffix
    return None


def _is_image(path: str) -> bool:
    """By its suffix, so that a damaged image is noticed as one; else by content."""
    return os.path.splitext(path)[1].lower() in _suffixes() or _sniff(path)


def _sniff(file: str | io.BytesIO) -> bool:
    try:
        with Image.open(file) as image:
            return image.format not in RECOGNISED_ONLY
    except Image.DecompressionBombError:
        return True  # an image for sure; the decoder will refuse it with the proper reason
    except Exception:  # what Pillow's readers raise has no common ancestor
        return False


def _suffix(name: str) -> str:
    """What a file is counted under that is no image."""
    return text(os.fsencode(os.path.splitext(name)[1].lower())) or "no suffix"


@cache
def _suffixes() -> frozenset[str]:
    Image.preinit()  # first, or else Pillow asks the readers of rare formats before those of common ones
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in known if name in Image.OPEN and name not in RECOGNISED_ONLY)


def _key(path: str) -> str:
    """A WebDataset key out of a path: no dots in the base name, nothing that `tar` or a shell would stumble over."""
    parts = [part for part in text(os.fsencode(path)).split("/") if part not in ("", ".", "..")]
    key = "/".join([*parts[:-1], parts[-1].replace(".", "_")]) if parts else ""
    key = "".join(char if char.isprintable() else "_" for char in key)
    return key.lstrip("_/") or "image"  # `__name__` is WebDataset's own


def _unique(keys: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The keys, the second `key` as `key~2` and so on."""
    if len(pc.unique(keys)) == len(keys):
        return keys
    names = keys.to_pylist()
    taken, count, unique = set(names), Counter[str](), []
    for name in names:
        count[name] += 1
        new = name
        while count[name] > 1 and new in taken:
            new = f"{name}~{count[name]}"
            count[name] += new in taken
        taken.add(new)
        unique.append(new)
    return pa.array(unique, pa.string())


def _classes(table: pa.Table) -> list[str]:
    classes = sorted(pc.unique(table["class"]).drop_null().to_pylist())
    if not classes:
        raise InputError("--labels needs a folder per class below each source and found none; leave --labels out")
    for batch in table.filter(pc.is_null(table["class"])).to_batches():
        if any(extra["suffix"] == "cls" for extras in batch["extras"].to_pylist() for extra in extras):
            raise InputError("--labels would mix class folders with tars that have labels; build these separately")
    return classes


def _nothing_found(sources: Sequence, listing: Listing) -> str:
    names = ", ".join(map(str, sources))
    if listing.quarantine:
        first = listing.quarantine[0]
        return f"no usable image in {names}: {first['source']}: {first['reason']}; repair it or give another source"
    if listing.ignored:
        return f"no image in {names}, only {counts(listing.ignored)}; give a folder of images or a WebDataset tar"
    return f"{names} is empty; give a folder of images or a WebDataset tar"


def _add(listing: Listing, container: Container) -> int:
    listing.containers.append(container)
    return len(listing.containers) - 1


def _identity(path: str | Path) -> tuple[int, int]:
    state = os.stat(path)
    return state.st_dev, state.st_ino


def _table(rows: Iterator[dict[str, Any]]) -> pa.Table:
    batches = []
    while chunk := list(islice(rows, ROWS_PER_BATCH)):
        batches.append(pa.RecordBatch.from_pylist(chunk, LISTING))
    table = pa.Table.from_batches(batches, LISTING).combine_chunks()
    return table.set_column(LISTING.get_field_index("key"), "key", _unique(table["key"]))
