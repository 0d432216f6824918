"""What stands in a checkpoint's header, and whether its files still are what that says; without the
tensors, which need torch.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from seer.errors import InputError, first_line
from seer.files import sha256
from seer.rundir.names import HEADER

Header = dict[str, Any]

FORMAT = "seer-checkpoint/2"
UNHASHED = "seer-checkpoint/1"  # the same without hashes; read, not written


class DamagedError(InputError):
    """A checkpoint that is not, or no longer, what was written."""


def read_header(path: Path) -> Header:
    """The header of the checkpoint at `path`; `DamagedError` when it is none, `InputError` when of
    another version.
    """
    with damage(path, HEADER):
        header = json.loads((path / HEADER).read_text())
        version, written = header["format"], header.pop("sha256", None)
    if (written or version == FORMAT) and written != hash_of(header):
        raise DamagedError(f"{path}: damaged ({HEADER} is not what was written)")
    if version not in (FORMAT, UNHASHED):
        raise InputError(
            f"{path}: checkpoint format {version!r}; this version of seer reads {FORMAT!r}"
        )
    return header


def check_file(path: Path) -> None:
    """Raise `DamagedError` if a file is not what the header beside it says, if there is one."""
    if (path.parent / HEADER).is_file():
        written = read_header(path.parent).get("files", {}).get(path.name)
        if written and sha256(path) != written["sha256"]:
            raise DamagedError(
                f"{path}: damaged (it is not what was written); use another checkpoint, as RUN:step-100"
            )


def is_intact(path: Path, header: Header) -> bool:
    """Whether all files of a checkpoint are what they hash to; False as well where nobody has hashed
    them.
    """
    files = header.get("files")
    if not files:
        return False
    with damage(path):
        return all(
            (path / name).is_file() and sha256(path / name) == written["sha256"]
            for name, written in files.items()
        )


@contextmanager
def damage(path: Path, what: str = "") -> Iterator[None]:
    """While entered, what reading a damaged file can come to is a `DamagedError`."""
    try:
        yield
    except InputError:
        raise
    except (AttributeError, OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        why = f"{what}: {first_line(error)}" if what else first_line(error)
        raise DamagedError(f"{path}: damaged ({why})") from error


def hash_of(header: Header) -> str:
    """SHA-256 of a header, however it is spelt."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
