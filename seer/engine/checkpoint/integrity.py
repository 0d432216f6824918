"""A checkpoint's folder on the disk: what is in it, and whether it still is what was written."""

import json
import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path

from seer.engine.checkpoint import tensorfile
from seer.engine.checkpoint.header import FORMAT, DamagedError, Header, damage, hash_of
from seer.engine.checkpoint.tensorfile import Entry
from seer.rundir.names import HEADER, STATE


def write_header(path: Path, header: Header) -> None:
    """Write a header and what it hashes to, and have all that is in the folder on the disk."""
    header = {"format": FORMAT, **header}
    with open(path / HEADER, "wb") as file:
        file.write(json.dumps({**header, "sha256": hash_of(header)}).encode())
        tensorfile.flush(file)
    for folder in (path / STATE, path):
        flush_folder(folder)


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


def flush_folder(path: Path) -> None:
    """Have a folder's entries on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
