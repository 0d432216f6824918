"""What the verbs print with: examples under their help, results as JSON, lines for people, progress."""

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[str, typer.Option("--json", metavar="FILE", help="Also write the results as JSON; '-' prints them.")]

HOME = re.compile(r"(--[a-z][a-z-]*=|)(~[\w.-]*(?:/.*|))", re.DOTALL)
AllowEnv = Annotated[bool, typer.Option("--allow-env", help="Let ${oc.env:NAME} in YAML files read the environment.")]


def finite(value: float | None) -> float | None:
    """An option's callback: no NaN, which no bound keeps out, and no infinity."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def homes_written_out(words: list[str]) -> list[str]:
    """The words of a command line with `~/x` and `--option=~/x` written out, where no shell has done so.

    `key=~/x` is left to the option's kind: in a text, `~` is a character.
    """
    matches = [(word, HOME.fullmatch(word)) for word in words]
    return [match[1] + os.path.expanduser(match[2]) if match else word for word, match in matches]


def example(*lines: str) -> str:
    """The example under a verb's help, one command a line."""
    return "[bold]Example[/bold]\n\n" + "\n\n".join(f"  {line}" for line in lines)


def emit(results: Any, target: str) -> None:
    """Write results as JSON where `--json` asked for them."""
    if not target:
        return
    text = json.dumps(results, indent=2, default=str)
    if target == "-":
        print(text)
    else:
        Path(target).write_text(text + "\n")


def say(*lines: str, json_target: str = "") -> None:
    """Print for people; to stderr when stdout carries the JSON."""
    for line in lines:
        print(line, file=sys.stderr if json_target == "-" else sys.stdout, flush=True)


class Outlasting:
    """A text stream whose reader may vanish, as a closed terminal does: what is written from then on is dropped."""

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
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def outlast_terminal() -> None:
    """Let this process print on when nobody can read it any more; without this, it would end in the middle of work."""
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


@contextmanager
def progress(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, a line every five seconds in a log, on stderr; yields what to call with (done, total)."""
    from rich.console import Console
    from rich.progress import Progress

    console, last = Console(stderr=True), time.monotonic()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None)

        def tick(done: int, total: int) -> None:
            nonlocal last
            bar.update(task, completed=done, total=total)
            if not console.is_terminal and time.monotonic() - last > 5:
                last = time.monotonic()
                print(f"{label}: {done:,} of {total:,} {unit}", file=sys.stderr, flush=True)

        yield tick
