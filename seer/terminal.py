"""What the verbs print with: lines for people, results as JSON, files that were asked for,
progress.

Texts from files may hold anything, names that are not UTF-8 and what a terminal would obey
included; and a terminal or log may not take every character. `prepare` and `printable` see to both.
"""

import codecs
import errno
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from seer import outputs
from seer.errors import escaped, printable

# What writing a file or stdout may come to.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

# What the verbs print besides ASCII, for streams that take no more than that.
SPELLED = {
    "×": "x",
    "→": "->",
    "–": "-",
    "·": "-",
    "…": "...",
    "≥": ">=",
    "≤": "<=",
    "µ": "u",
    "√": "sqrt",
}
SPELLED |= dict(zip("▁▂▃▄▅▆▇█", "_.-:=+*#", strict=True))


def spell(error: UnicodeError) -> tuple[str, int]:
    """An error handler for `codecs`: what an encoding lacks is spelt in ASCII, or escaped."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(SPELLED.get(character) or escaped(character) for character in text), error.end


codecs.register_error("seer.spell", spell)


def prepare() -> None:
    """Let whatever is printed by this process reach its stdout and stderr, be they ASCII."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="seer.spell")


def discard(stream: Any) -> None:
    """Let what a stream has not written yet go nowhere: at its end, Python would fail to write it
    once more.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


HOME = re.compile(r"(--[a-z][a-z-]*=|)(~[\w.-]*(?:/.*|))", re.DOTALL)
AllowEnv = Annotated[
    bool, typer.Option("--allow-env", help="Let ${oc.env:NAME} in YAML files read the environment.")
]


def finite(value: float | None) -> float | None:
    """An option's callback: no NaN, which no bound keeps out, and no infinity."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def homes_written_out(words: list[str]) -> list[str]:
    """The words of a command line with `~/x` and `--option=~/x` written out, where no shell has
    done so.

    `key=~/x` is left to the option's kind: in a text, `~` is a character.
    """
    matches = [(word, HOME.fullmatch(word)) for word in words]
    return [match[1] + os.path.expanduser(match[2]) if match else word for word, match in matches]


def example(*lines: str) -> str:
    """The example under a verb's help, one command a line."""
    return "[bold]Example[/bold]\n\n" + "\n\n".join(f"  {line}" for line in lines)


def output_option(value: Any, param: typer.CallbackParam) -> Any:
    """The callback of an option that names a file to write: whatever is wrong with it is told
    before the work.
    """
    if value is not None and str(value) not in ("", "-"):
        outputs.check_writable(value, max(param.opts, key=len))
    return value


Json = Annotated[
    str,
    typer.Option(
        "--json",
        metavar="FILE",
        callback=output_option,
        help="Also write the results as JSON; '-' prints them.",
    ),
]


def emit(results: Any, target: str) -> None:
    """Write results as JSON where `--json` asked for them."""
    if not target:
        return
    text = json.dumps(_plain(results), indent=2)
    if target == "-":
        print(text)
    else:
        outputs.write(target, text + "\n", "the results")


def _plain(value: Any) -> Any:
    """A value as JSON can hold it, which knows no NaN."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)


def say(*lines: str, json_target: str = "") -> None:
    """Print for people; to stderr when stdout carries the JSON."""
    for line in lines:
        print(printable(line), file=sys.stderr if json_target == "-" else sys.stdout, flush=True)


def warn(*lines: str) -> None:
    """Print on stderr what was left out, or went otherwise than it should."""
    for line in lines:
        print(printable(f"seer: {line}"), file=sys.stderr, flush=True)


class Outlasting:
    """A text stream whose reader may vanish, as a closed terminal does: what is written from then
    on is dropped.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def outlast_terminal() -> None:
    """Let this process print on when nobody can read it any more; without this, it would end in the
    middle of work.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, Outlasting):
            setattr(sys, name, Outlasting(stream))


@contextmanager
def outlasting_terminal() -> Iterator[None]:
    """`outlast_terminal` while entered."""
    before = sys.stdout, sys.stderr
    outlast_terminal()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def minutes(seconds: float) -> str:
    """A duration that is not known well: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


@contextmanager
def progress(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, a line every five seconds in a log, on stderr; yields what to call with
    (done, total).
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    last = time.monotonic()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None)

        def tick(done: int, total: int) -> None:
            nonlocal last
            bar.update(task, completed=done, total=total)
            if not console.is_terminal and time.monotonic() - last > 5:
                last = time.monotonic()
                print(f"{label}: {done:,} of {total:,} {unit}", file=sys.stderr, flush=True)

        yield tick
