"""Files that were asked for, as by `--json FILE`: tried before the work that they are for, and
written whole.
"""

import os
import stat
import tempfile
from pathlib import Path

from seer import files
from seer.errors import InputError, first_line


def check_writable(path: Path | str, what: str, append: bool = False) -> None:
    """Raise `InputError` unless a file can be put there; nothing changes. Folders on the way are
    made with the file.

    Args:
        what: the option that named it, for the message.
        append: a file that is there will be added to, not replaced.
    """
    try:
        target = Path(path).resolve()
        if target.is_dir():
            raise IsADirectoryError(0, "it is a folder; name a file in it")
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(0, "it is there, and not yours to write")
        if append and is_stream(target):
            # A pipe that nobody reads would hold us up.
            os.close(os.open(target, os.O_WRONLY | os.O_NONBLOCK))
        if not is_stream(target):
            _try_folder(target.parent, f".{target.name}")
    except (OSError, RuntimeError, ValueError) as error:
        raise _refusal(f"{what} {path}", "", error) from None


def check_folder_writable(path: Path | str, what: str) -> None:
    """The same for a folder that files are to be written into."""
    try:
        _try_folder(Path(path).resolve(), "")
    except (OSError, RuntimeError, ValueError) as error:
        raise _refusal(f"{what} {path}", "", error) from None


def write(path: Path | str, text: str, what: str) -> None:
    """Write a file that was asked for, whole or not at all; one that is there stays if that fails.

    Raises:
        InputError: it cannot be written; `what` is lost then.
    """
    try:
        target = Path(path).resolve()
        if is_stream(target):
            target.write_text(text, encoding="utf-8")
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write(target, text)
    except (OSError, RuntimeError, ValueError) as error:
        raise _refusal(str(path), f"{what} ", error) from None


def is_stream(path: Path) -> bool:
    """Whether it is there and no regular file: a pipe or a terminal, which is written to as it is."""
    return path.exists() and not stat.S_ISREG(path.stat().st_mode)


def _try_folder(folder: Path, name: str) -> None:
    """Make a file in the nearest folder on the way that is there, with a name as long as the one to
    come.
    """
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(0, f"{nearest} is a file, not a folder")
    descriptor, made = tempfile.mkstemp(prefix=name, dir=nearest)
    os.close(descriptor)
    os.unlink(made)


def _refusal(named: str, what: str, error: Exception) -> InputError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
    line = f"{named}: {what}cannot be written ({reason}); give a path where you may write"
    return InputError(line)
