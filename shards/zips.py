"""Images in zip files: listed by their directory, read one by one."""

import zipfile
import zlib
from functools import lru_cache
from os.path import getmtime

# What `zipfile` raises for what it cannot read: damage, encryption (RuntimeError), unknown methods of compression.
DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError, ValueError)


def members(path: str) -> list[tuple[int, zipfile.ZipInfo]]:
    """`(number, member)` of what is no folder and not hidden, in the order of their names. Raises DAMAGE."""
    found = enumerate(_opened(path, getmtime(path)).infolist())
    return sorted(((n, m) for n, m in found if _is_visible(m)), key=lambda member: (member[1].filename, member[0]))


def read(path: str, number: int, most: int) -> bytes:
    """Up to `most` bytes of a member. Raises DAMAGE."""
    archive = _opened(path, getmtime(path))
    with archive.open(archive.infolist()[number]) as file:
        return file.read(most)


def _is_visible(member: zipfile.ZipInfo) -> bool:
    """`__MACOSX` holds what macOS adds, under the names of the images."""
    parts = [part for part in member.filename.split("/") if part not in ("", ".", "..")]
    return not member.is_dir() and "__MACOSX" not in parts[:1] and not any(part.startswith(".") for part in parts)


@lru_cache(maxsize=16)
def _opened(path: str, modified: float) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)
