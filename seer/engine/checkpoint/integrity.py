"""A checkpoint's folder on the disk: what is in it, and whether it still is what was written."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from seer.engine.checkpoint import tensorfile
from seer.engine.checkpoint.tensorfile import Entry
from seer.errors import InputError, first_line
from seer.rundir.names import HEADER, STATE

Header = dict[str, Any]

FORMAT = "seer-checkpoint/2"
UNHASHED = "seer-checkpoint/1"  # the same without hashes; read, not written


class DamagedError(InputError):
    """A checkpoint that is not, or no longer, what was written."""


def write_header(path: Path, header: Header) -> None:
    """Write a header and what it hashes to, and have all that is in the folder on the disk."""
    header = {"format": FORMAT, **header}
    with open(path / HEADER, "wb") as file:
        file.write(json.dumps({**header, "sha256": _hash(header)}).encode())
        tensorfile.flush(file)
    for folder in (path / STATE, path):
        flush_folder(folder)


def read_header(path: Path) -> Header:
    """The header of the checkpoint at `path`; `DamagedError` when it is none, `InputError` when of
    another version.
    """
    with damage(path, HEADER):
        header = json.loads((path / HEADER).read_text())
        version, written = header["format"], header.pop("sha256", None)
    if (written or version == FORMAT) and written != _hash(header):
        raise DamagedError(f"{path}: damaged ({HEADER} is not what was written)")
    if version not in (FORMAT, UNHASHED):
        raise InputError(
            f"{path}: checkpoint format {version!r}; this version of seer reads {FORMAT!r}"
        )
    return header


def verify(path: Path, header: Header, rank: int, ranks: int) -> list[Entry]:
    """What is in the files of which `rank` reads a share: all ranks together read each file once."""
    files = header.get("files") or {
        f"{STATE}/{p.name}": {} for p in (path / STATE).glob("*.safetensors")
    }

    def inspect(name: str) -> list[Entry]:
        if not (path / name).is_file():
            raise DamagedError(f"{path}: damaged ({name} is missing)")
        if files[name] and tensorfile.sha256(path / name) != files[name]["sha256"]:
            raise DamagedError(f"{path}: damaged ({name} is not what was written)")
        return tensorfile.read_entries(path / name) if name.startswith(f"{STATE}/") else []

    with damage(path), ThreadPoolExecutor(4) as pool:
        return [
            entry for found in pool.map(inspect, portion(files, rank, ranks)) for entry in found
        ]


def check_file(path: Path) -> None:
    """Raise `DamagedError` if a file is not what the header beside it says, if there is one."""
    if (path.parent / HEADER).is_file():
        written = read_header(path.parent).get("files", {}).get(path.name)
        if written and tensorfile.sha256(path) != written["sha256"]:
            raise DamagedError(
                f"{path}: damaged (it is not what was written); use another checkpoint, as RUN:step-100"
            )


def portion(files: Iterable[str], rank: int, ranks: int) -> list[str]:
    """The files that fall to a rank where each is to be read, or copied, by one."""
    return sorted(files)[rank::ranks]


def check_whole(path: Path, header: Header, entries: list[Entry]) -> None:
    """Raise `DamagedError` unless the files hold all of every tensor."""
    there = Counter[str]()
    for entry in entries:
        there[entry.name] += prod(entry.shape)
    missing = [name for name, (_, shape) in header["tensors"].items() if there[name] != prod(shape)]
    if missing:
        raise DamagedError(f"{path}: damaged ({missing[0]} is not in its files)")


@contextmanager
def damage(path: Path, what: str = "") -> Iterator[None]:
    """While entered, what reading a damaged file can come to is a `DamagedError`."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        why = f"{what}: {first_line(error)}" if what else first_line(error)
        raise DamagedError(f"{path}: damaged ({why})") from error


def flush_folder(path: Path) -> None:
    """Have a folder's entries on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hash(header: Header) -> str:
    """SHA-256 of a header, however it is spelt."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
