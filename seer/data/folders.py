"""Folders of images as people have them: with links, pipes, what nobody may read, and names that
are not UTF-8.
"""

import hashlib
import logging
import os
import re
import stat
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from seer import inputs
from seer.data.decoding.decode import DamagedImage, image_suffixes
from seer.data.decoding.image_formats import unread_suffixes
from seer.errors import InputError, unreadable

logger = logging.getLogger("seer.data")

LARGEST = 2**30  # bytes of an image; what is larger is no image
LOOKALIKE = re.compile(r"\\x[89a-f][0-9a-f]")  # what an escape of `readable` looks like

OnError = Callable[[OSError], object]
OnUnread = Callable[[str], object]


def readable(name: str) -> str:
    r"""A file's name as valid Unicode. Bytes that are no UTF-8 become `\xe9`; different names stay
    different.

    So that they do, backslashes are doubled in a name that has such bytes, or looks as if it had.
    """
    encoded = os.fsencode(name)
    try:
        text = encoded.decode()
    except UnicodeDecodeError:
        return encoded.replace(b"\\", b"\\\\").decode(errors="backslashreplace")
    return text.replace("\\", "\\\\") if LOOKALIKE.search(text) else text


def images_under(
    folder: Path, on_error: OnError = unreadable, on_unread: OnUnread = lambda name: None
) -> list[str]:
    """Paths relative to `folder`, sorted, of the image files at any depth. Hidden ones are passed
    over.

    Links are followed, to each folder once and never in circles: links across each other have no
    end of paths.

    Args:
        on_error: told of each folder that cannot be read; raises, or returns if the others shall do.
        on_unread: told of each file that is an image of a kind that is not read, such as HEIC.
    """
    above = os.path.join(folder, "")
    paths: list[str] = []
    passed: list[str] = []  # links to folders that were walked before
    walked: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, onerror=on_error, followlinks=True):
        walked.add(_identity(parent))
        visible = [name for name in sorted(folders) if not name.startswith(".")]
        back = {name for name in visible if _leads_back(os.path.join(parent, name), walked)}
        passed += [os.path.join(parent, name) for name in back]
        folders[:] = [name for name in visible if name not in back]
        names = [name for name in names if not name.startswith(".")]
        images = [name for name in names if is_image(name)]
        for name in names:
            if os.path.splitext(name)[1].lower() in unread_suffixes():
                on_unread(name)
        paths += [os.path.join(parent, name).removeprefix(above) for name in images]
    if passed:
        logger.warning(
            "passed over %d links to folders that are read already: %s",
            len(passed),
            readable(passed[0]),
        )
    return sorted(paths)


def left_out(unread: Sequence[str]) -> str:
    """What is said of the files that `on_unread` was told of."""
    count = f"{len(unread)} image{'s' * (len(unread) > 1)} of kinds that are not read"
    return f"left out {count}, as {readable(unread[0])}; convert to JPEG"


def is_image(name: str) -> bool:
    """Whether its ending is that of an image."""
    return os.path.splitext(name)[1].lower() in image_suffixes()


def read_image(path: Path) -> bytes:
    """The content of a regular file. Raises `DamagedImage` for anything else: opening a pipe waits
    for its writer.
    """
    try:
        with inputs.open_data(path) as file:
            _check_regular(os.fstat(file.fileno()))
            return file.read()
    except OSError as error:
        raise DamagedImage(str(error.strerror)) from error


class Files:
    """Image files under one folder."""

    def __init__(self, root: Path, paths: Sequence[str]):
        self.root = root
        self.paths = paths

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever a file is changed, added or touched. `InputError` for what is no file,
        as a link to nothing.

        Other bytes of the same length can be given the old time of modification; that of the
        inode's change cannot.
        """
        digest = hashlib.sha256()
        for i, path in enumerate(self.paths):
            try:
                status = os.stat(os.path.join(self.root, path))
                _check_regular(status)
            except (OSError, DamagedImage) as error:
                reason = error.strerror if isinstance(error, OSError) else error.reason
                raise InputError(
                    f"{self.name(i)} cannot be read ({reason}); repair or remove it"
                ) from None
            times = f"{status.st_mtime_ns}\0{status.st_ctime_ns}"
            digest.update(os.fsencode(path) + f"\0{status.st_size}\0{times}\n".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def bytes(self, i: int) -> bytes:
        """Raises `DamagedImage`."""
        return read_image(self.root / self.paths[i])

    def key(self, i: int) -> str:
        return self.paths[i]

    def name(self, i: int) -> str:
        return readable(str(self.root / self.paths[i]))


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise DamagedImage("not a regular file")
    if status.st_size > LARGEST:
        raise DamagedImage(f"larger than {LARGEST:,} bytes")


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _leads_back(path: str, seen: set[tuple[int, int]]) -> bool:
    """Whether it is a link to a folder that was walked before; if not, then that counts as walked
    now.
    """
    if not os.path.islink(path):
        return False
    identity = _identity(path)
    known = identity in seen
    seen.add(identity)
    return known
