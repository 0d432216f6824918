"""Verbs that look at data."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from seer.terminal import Json, emit, example, progress, say

app = typer.Typer(no_args_is_help=True, help="Look at labelled data sets.")


@app.callback()
def _group() -> None:
    """Look at labelled data sets."""


@app.command(epilog=example("seer data check ~/datasets", "seer data check ~/datasets --images"))
def check(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder that holds data sets, or one of them.")
    ],
    images: Annotated[
        bool,
        typer.Option(
            "--images", help="Also read every image: what is damaged, what stands in two splits."
        ),
    ] = False,
    json_target: Json = "",
) -> None:
    """Which data sets of the papers are there, which tasks they can run, and what is missing. With
    --images, exit code 2 when some of them cannot be decoded.
    """
    from seer.eval.data.coverage import check as run
    from seer.eval.data.coverage import suites, summary

    with progress("reading", "images") as tick:
        findings = run(folder, images, tick)
    say(*(line for finding in findings for line in finding.lines()), json_target=json_target)
    say("", *summary(findings), json_target=json_target)
    emit(
        {"data_sets": [asdict(finding) for finding in findings], "suites": suites(findings)},
        json_target,
    )
    raise typer.Exit(2 if any(finding.damaged for finding in findings) else 0)
