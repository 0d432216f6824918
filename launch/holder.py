"""The process that carries out a launch on this host: whether it lives, and which it is.

It holds a lock on FOLDER/.running while it does, and its number, start and host stand in that file.
A number alone is no proof: the process may have ended and another have got it, or somebody else may
have written the file.
"""

import fcntl
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from seer import files, inputs
from seer.errors import InputError
from seer.schema import Integer, Record, Text

FILE = ".running"
KIND = Record({"pid": Integer(2, 2**31), "started": Integer(0), "host": Text(255)})


@dataclass(frozen=True)
class Holder:
    """A process by its number, and its start in clock ticks since this host's; no other process has
    both.
    """

    pid: int
    started: int
    host: str

    @classmethod
    def this(cls) -> "Holder":
        return cls(os.getpid(), started(os.getpid()), socket.gethostname())

    @property
    def lives_here(self) -> bool:
        """Whether it is a process of this host and of this user."""
        if self.host != socket.gethostname() or self.started != started(self.pid):
            return False
        with suppress(OSError):
            return Path(f"/proc/{self.pid}").stat().st_uid == os.getuid()
        return False


def started(pid: int) -> int:
    """When a process started, in clock ticks since the host did; 0 if it is not there or the system
    does not tell.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """While entered, this process is seen to carry out the launch in `folder`."""
    with files.open_own(folder / FILE, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(json.dumps(vars(Holder.this())).encode())
        file.flush()
        yield


def is_held(folder: Path) -> bool:
    """Whether some process carries out the launch in `folder` now, here or on another host."""
    try:
        file = inputs.open_file(inputs.inside(folder, FILE))
    except (FileNotFoundError, InputError):
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def stop(folder: Path) -> None:
    """Ask the process that carries out the launch in `folder` to end, as a scheduler would.

    Raises:
        InputError: it is not on this host, not this user's, or not the process that the file names.
    """
    path = inputs.inside(folder, FILE)
    holder = Holder(**KIND.check(inputs.read_json(path, Record(KIND.required, extra=None), 4096)))
    if not is_held(folder) or not holder.lives_here:
        raise InputError(
            f"{path}: not a process of yours on this host; cancel it where it runs, on {holder.host!a}"
        )
    os.kill(holder.pid, signal.SIGTERM)
