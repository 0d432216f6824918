"""Verbs that look after machines and runs."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from seer import outputs
from seer.errors import InputError
from seer.terminal import (
    Json,
    emit,
    example,
    finite,
    output_option,
    progress,
    say,
    warn,
)

app = typer.Typer()


@app.command(epilog=example("seer audit runs/swav_small", "seer audit runs/swav_small --step 5000"))
def audit(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    key: Annotated[
        list[str] | None, typer.Option(help="Say which steps took the sample of this key.")
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="Name the samples of this step (from 1) instead.")
    ] = None,
    json_target: Json = "",
) -> None:
    """Prove what a run saw and how often. Exit code 2 when it is not what the order prescribes."""
    from seer.checks.audit import audit as run
    from seer.checks.audit import batch

    if step is not None:
        rows = [row for path in runs for row in batch(path, step)]
        say(*("{key}  {shard} row {row}".format(**row) for row in rows), json_target=json_target)
        return emit(rows, json_target)
    with progress("auditing", "steps") as tick:
        found = [run(path, key or [], tick) for path in runs]
    say(*(line for one in found for line in one.lines()), json_target=json_target)
    emit([asdict(one) | {"exact": one.exact} for one in found], json_target)
    raise typer.Exit(0 if all(one.exact for one in found) else 2)


@app.command(
    epilog=example("seer watch runs/swav_small runs/other", "seer watch runs/swav_small --once")
)
def watch(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    every: Annotated[
        float, typer.Option(help="Seconds between two looks.", min=0.1, callback=finite)
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Look once, print one table and end.")
    ] = False,
    json_target: Json = "",
) -> None:
    """Follow runs while they train: progress, time left, losses, health. Exit code 2 where there is
    no run.
    """
    from seer.report.watch import NOWHERE, status
    from seer.report.watch import watch as follow

    if json_target:
        found = [status(run) for run in runs]
        emit([asdict(one) for one in found], json_target)
    if json_target != "-":
        found = follow(runs, every, once or bool(json_target))
    raise typer.Exit(2 if any(one.state in (*NOWHERE, "unreadable") for one in found) else 0)


@app.command(
    epilog=example("seer report runs/swav_small", "seer report runs/a runs/b --out comparison.html")
)
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run directories, or folders of studies.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            callback=output_option,
            show_default="RUN/report.html, or comparison.html",
            help="Where the page goes.",
        ),
    ] = None,
) -> None:
    """Write RUN/report.html, one self-contained page; over several runs, one page with their curves
    together. Of a study, STUDY/study.html: scores over what its arms differ in; of seer hpt's chains,
    chains.html: scores over steps.
    """
    from seer.inputs import inside
    from seer.rundir.chains import is_chains
    from seer.rundir.studies import is_study

    folders = [run for run in runs if is_study(run) or is_chains(run)]
    runs = [run for run in runs if run not in folders]
    if folders:
        _report_studies(folders, out, bool(runs))
    if not runs:
        return
    from seer.report.html import write_page
    from seer.report.runfiles import read_run
    from seer.rundir.names import REPORT

    found = [read_run(run) for run in runs]
    out = out or (Path("comparison.html") if len(runs) > 1 else inside(runs[0], REPORT))
    outputs.check_writable(out, "--out")
    write_page(found, out)
    warn(*(remark for run in found for remark in run.remarks))
    say(f"report  {out}")


def _report_studies(folders: list[Path], out: Path | None, also_runs: bool) -> None:
    """A page for each study."""
    from seer.report.chains_page import write_chains_page
    from seer.report.study_page import write_study_page
    from seer.rundir import chains, studies

    if out and (also_runs or len(folders) > 1):
        raise InputError("--out: one page; a study has one of its own, so give a single study")
    for folder in folders:
        of_chains = chains.is_chains(folder)
        page = out or folder / (chains.PAGE if of_chains else studies.PAGE)
        outputs.check_writable(page, "--out")
        (write_chains_page if of_chains else write_study_page)(folder, page)
        say(f"report  {page}")


@app.command(
    epilog=example("seer doctor --dir /scratch/runs", "seer doctor --data s3://bucket/shards")
)
def doctor(
    data: Annotated[
        str, typer.Option("--data", help="Shards: also what limits reading, decoding, cropping.")
    ] = "",
    images_per_second: Annotated[
        float, typer.Option(help="What one accelerator consumes.", min=1, callback=finite)
    ] = 1000,
    folder: Annotated[Path, typer.Option("--dir", help="Where run directories will be.")] = Path(),
    json_target: Json = "",
) -> None:
    """What this machine or cluster can and cannot run, line by line. Exit code 1 if a line says
    failure.
    """
    if not folder.is_dir():
        raise InputError(
            f"--dir {folder}: no such folder; give the one where run directories are to be"
        )
    from launch import doctor as launching
    from seer.checks import machine
    from seer.checks.feeding import lines, measure
    from shards.first_use import holds_images

    findings = [
        *machine.software(),
        launching.ranks(),
        *launching.slurm(),
        *machine.file_system(folder),
    ]
    images = holds_images(data)
    if images:
        told = f"{data} holds images, of which seer pretrain makes shards"
        findings.append(
            machine.Finding("ok", "data", f"{told}; what limits loading these is measured then")
        )
    elif data:
        findings.append(machine.data(data))
    say(*map(str, findings), json_target=json_target)
    failed = any(finding.level == "failure" for finding in findings)
    results: dict = {"findings": [asdict(finding) for finding in findings]}
    if data and not images and findings[-1].level == "ok":
        found = measure(data)
        say(*lines(found, images_per_second), json_target=json_target)
        results |= asdict(found) | {"limits": found.limits}
    emit(results, json_target)
    raise typer.Exit(1 if failed else 0)
