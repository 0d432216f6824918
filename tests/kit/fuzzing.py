"""What the fuzz tests share: the number of cases, damaged bytes, and a trial that proves three
things.

A trial calls what reads a stranger's files and asserts that it did, or raised `InputError` in one
printable line; that it took neither longer nor more memory than stated; and that no file outside
the stranger's folder was touched.

    SEER_FUZZ=1000 python -m pytest tests/fuzz      # so many cases of each property, instead of a few
"""

import os
import re
import resource
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from seer.errors import TOLD

SECONDS = 60  # of one trial; an honest one takes milliseconds, on a busy machine seconds
MEMORY = 2**28  # bytes that a trial may take besides what the process had
# Bytes of address space besides: what would be taken is refused before the machine swaps.
ADDRESSES = 2**31
# What attacks aim at.
NAMES = ("x", "x.tar", "x.part", "x.json", "x.jsonl", "x.index.parquet", "data.tar", "passwd")


def fuzz(cases: int) -> Callable[[Callable], Callable]:
    """Settings of a fuzz test: `cases` in the suite, or `SEER_FUZZ` of them."""
    return settings(
        max_examples=int(os.environ.get("SEER_FUZZ", cases)),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class Hung(BaseException):
    """A trial that did not end. No `except Exception` catches it."""


class World:
    """A stranger's `folder` within a tree of files that nobody may touch.

    The tree has files beside and above the folder under the names that hostile values aim at.
    """

    def __init__(self, root: Path):
        self.root, self.folder = root, root / "home" / "strangers"
        for directory in (root, root / "home", root / "victim"):
            directory.mkdir(parents=True, exist_ok=True)
            for name in NAMES:
                (directory / name).write_text(f"precious {name}")
        self.folder.mkdir()

    def outside(self) -> dict[str, tuple]:
        """Everything that is not in the stranger's folder: kind, time of change and content, by
        name.
        """
        found = {}
        for parent, folders, names in os.walk(self.root):
            if Path(parent) == self.folder.parent and self.folder.name in folders:
                folders.remove(self.folder.name)
            for name in [*folders, *names]:
                path = Path(parent, name)
                found[str(path)] = _state(path)
        # Whose time changes when the folder itself is made or removed.
        found.pop(str(self.folder.parent))
        return found


def _state(path: Path) -> tuple:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return "link", os.readlink(path)
    content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
    return status.st_mode, status.st_mtime_ns, content


def trial(
    world: World, function: Callable[..., Any], *arguments: Any, seconds: float = SECONDS
) -> str:
    """Call what reads the stranger's folder; returns what it said in one line, "" if it took the
    files.
    """
    before = world.outside()
    said = ""
    with within_time(seconds), within_memory():
        try:
            function(*arguments)
        except TOLD as error:
            said = str(error) or "an error that says nothing"
    assert said.isprintable(), f"not one line, or not for a terminal: {said!r}"
    assert world.outside() == before
    return said


@contextmanager
def within_time(seconds: float) -> Iterator[None]:
    """Raise `Hung` in a block that takes longer."""

    def ring(*_: object) -> None:
        raise Hung(f"not done after {seconds:g} s")

    earlier = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


@contextmanager
def within_memory(limit: int = MEMORY) -> Iterator[None]:
    """Fail a block in which the process grew by more than `limit` bytes, even for a moment."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + ADDRESSES, hard))
    before = _memory("VmRSS")
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    grown = _memory("VmHWM") - before
    assert grown <= limit, f"took {grown:,} bytes of memory"


def _memory(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """A file's content with up to four things done to it: bits flipped, spans cut out, doubled,
    zeroed or written.
    """
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        length = draw(st.sampled_from([1, 1, 2, 4, 8, 100, 10_000]))
        span = content[place : place + length]
        action = draw(
            st.sampled_from(["flip", "flip", "flip", "remove", "double", "zero", "write", "end"])
        )
        instead = {
            "flip": bytes([span[0] ^ 1 << draw(st.integers(0, 7))]) + span[1:] if span else b"",
            "remove": b"",
            "double": span * 2,
            "zero": bytes(len(span)),
            "write": draw(st.binary(min_size=1, max_size=8)),
            "end": span,
        }[action]
        rest = b"" if action == "end" else content[place + length :]
        content = content[:place] + instead + rest
    return content
