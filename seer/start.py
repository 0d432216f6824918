"""The beginning of the `seer` command: Ctrl-C is one line from the first import on. Imports nothing
that takes long.
"""

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType

INTERRUPTED = (
    130  # the exit code of what Ctrl-C ended: 128 and the signal's number, as shells have it
)
LINE = "interrupted; the same command continues where it stopped"
ASKED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # by which schedulers ask for the end
ENDING = (*ASKED, signal.SIGHUP)  # with what a terminal sends when it is closed
STOPPING = "stopping at the end of this step, with a checkpoint; Ctrl-C again ends at once"


def wait_without_spinning() -> None:
    """Have OpenMP's threads, by which torch computes on CPUs, sleep while they wait for each other,
    unless the user says otherwise. It counts only before torch is imported.

    A thread that spins holds a core that the thread it waits for may need: beside other processes,
    training small networks then slows down by far more than these take.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def answer_interrupts() -> None:
    """Have Ctrl-C raise `KeyboardInterrupt`, or end the process while something is imported, unless
    it is ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def tell(line: str) -> None:
    """A line on stderr, if that is still there; for signal handlers, too, which must not use
    Python's streams.
    """
    with suppress(OSError):
        os.write(2, f"seer: {line}\n".encode())


def end_with(parent: int) -> None:
    """End this process when its parent of this number has ended, however; 0: it is on its own."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if parent:
        threading.Thread(target=watch, daemon=True).start()


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Extension modules swallow exceptions or turn them into others while they are imported. Nothing
    # is half done then.
    if _is_importing(frame):
        tell(LINE)
        os._exit(INTERRUPTED)
    raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False
