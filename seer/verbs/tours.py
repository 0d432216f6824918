"""Verbs that show the way: from an installation to first results, by the other verbs."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seer.terminal import Json, emit, example, finite, say

if TYPE_CHECKING:
    from seer.quickstart.tour import Terminal

app = typer.Typer()

Out = Annotated[Path, typer.Option(help="Where images, shards, runs and reports go.")]
Seed = Annotated[int, typer.Option(help="Of training and of the network untrained.", min=0)]
FOLDER = Path("quickstart")


@app.command(epilog=example("seer demo"))
def demo(context: typer.Context, out: Out = FOLDER, seed: Seed = 0, json_target: Json = "") -> None:
    """In a minute: photographs that come with the package → shards → thirty steps of SwAV → the
    nearest neighbours that it finds, against untrained. `seer quickstart` goes on from there.
    """
    from seer.quickstart.tour import demo as run

    with terminal(context, json_target) as shown:
        summary = run(out, seed, shown)
    emit(summary, json_target)


@app.command(epilog=example("seer quickstart --out quickstart"))
def quickstart(
    context: typer.Context,
    out: Out = FOLDER,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Time to spend on pretraining; 4 on a CPU, 1 on a GPU.",
            min=0.1,
            callback=finite,
            show_default=False,
        ),
    ] = None,
    seed: Seed = 0,
    json_target: Json = "",
) -> None:
    """Photographs that come with the package → shards → SwAV → kNN and linear against untrained →
    report.
    """
    from seer.quickstart.tour import quickstart as run

    with terminal(context, json_target) as shown:
        summary = run(out, minutes, seed, shown)
    emit(summary, json_target)


@contextmanager
def terminal(context: typer.Context, json_target: str) -> Iterator["Terminal"]:
    """What a tour prints with, and runs the other verbs by."""
    from seer.quickstart.blocks import show
    from seer.quickstart.tour import Terminal

    def typed(*words: str) -> None:
        """Show a command as a user would type it, and run it."""
        say("", f"$ seer {shlex.join(words)}")
        context.find_root().command.main(list(words), standalone_mode=False)

    # The verbs that it runs print, too; stdout is for the JSON alone.
    with redirect_stdout(sys.stderr if json_target == "-" else sys.stdout):
        yield Terminal(say, typed, show)
