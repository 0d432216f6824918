"""What is told in one line instead of a traceback."""

import shlex
from collections.abc import Iterable
from typing import NoReturn


class InputError(ValueError):
    """Bad input from the user: what is wrong, where, and what to do, in one line.

    The command line prints the message without a traceback and exits with code 2. What a message
    quotes may come from a stranger's file: it is escaped here, wherever it is raised.
    """

    exit_code = 2

    def __init__(self, line: object = ""):
        super().__init__(printable(line))


class InUseError(InputError):
    """A port or a run directory that another process has, perhaps one about to end: a later attempt
    may succeed.
    """


class UnsavedError(InUseError):
    """A checkpoint that could not be written: the disk may have room again when a later attempt
    comes.
    """


class DivergedError(RuntimeError):
    """A run that rollbacks cannot save, or whose last steps diverged; nothing of these steps was
    kept.

    One line, which names the newest good checkpoint; the exit code is that of input to be changed:
    the same run would end alike.
    """

    exit_code = 2


class LostWorkerError(RuntimeError):
    """A process of ours that something else killed. What it had finished is kept. One line, exit
    code 1.
    """

    exit_code = 1


CONTINUES = "the same command continues it"  # for whoever gives commands; SLURM does so by itself


class StoppedError(RuntimeError):
    """A run that was asked to stop, and has: what it did is saved, the same command continues it.

    One line; the exit code is that of `sysexits.h` for "try again later".
    """

    exit_code = 75


class PausedError(StoppedError):
    """A run that stopped itself because its health asks for a look at it: saved, but not to be
    continued unseen.

    One line; the exit code is that of input to be changed, so that no launcher starts the run
    again.
    """

    exit_code = 2


TOLD = (InputError, DivergedError, LostWorkerError, StoppedError)  # one line each


def unreadable(error: OSError) -> NoReturn:
    """Tell of a file or folder that cannot be read; also for `os.walk` to call."""
    raise InputError(
        f"{error.filename} cannot be read ({error.strerror}); check its permissions"
    ) from error


def first_line(error: BaseException) -> str:
    """What an exception says, without what follows in further lines; its kind if it says nothing.

    A library may quote the file that it could not read.
    """
    return printable(next(iter(str(error).strip().splitlines()), type(error).__name__))


def quoted(path: object) -> str:
    """A path as a word of a command that is given to be copied."""
    return shlex.quote(str(path))


def printable(text: object) -> str:
    """A text as a terminal may have it: control characters and bytes that are not UTF-8 are
    escaped.
    """
    return "".join(
        character if character.isprintable() else escaped(character) for character in str(text)
    )


def escaped(character: str) -> str:
    """`\\x1b`, `\\u202e`; a byte of a name that is not UTF-8 as that byte."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def nearest(word: str, choices: Iterable[object]) -> str:
    """A hint naming the choice closest to `word`: `" (did you mean 'x'?)"`, or the choices when
    none is close.
    """
    from difflib import get_close_matches

    names = sorted(map(str, choices))
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else f" (one of: {', '.join(names)})"
