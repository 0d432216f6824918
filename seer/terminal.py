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
