"""Verbs that compare models: on many data sets by many tasks, or by results that are there."""

import json
from pathlib import Path
from typing import Annotated

import typer

from seer import outputs
from seer.eval.tasks import is_trained
from seer.terminal import Json, emit, example, outlast_terminal, progress, say
from seer.verbs.options import keys

app = typer.Typer()

PAGE = "transfer.html"
SUMMARY = "transfer.json"


@app.command(
    epilog=example(
        "seer transfer --model runs/photos --model runs/photos:random --model pixels --data ~/datasets",
        "seer transfer --model timm:resnet50 --model runs/photos --data ~/datasets --suite few-shot size=224",
        "seer launch slurm --array 8 -- transfer --model runs/photos --data ~/datasets --part {i}/{n}",
    )
)
def transfer(
    model: Annotated[
        list[str],
        typer.Option(
            "--model", help="Each model, as of seer eval: a run, weights, timm:NAME, ..., pixels."
        ),
    ],
    data: Annotated[
        Path, typer.Option("--data", help="A folder that holds data sets (seer data check).")
    ],
    overrides: Annotated[
        list[str] | None,
        keys(
            "Options of the tasks, each for those that have it (size=64), or TASK.KEY=VALUE for one "
            "(linear.epochs=10).",
        ),
    ] = None,
    suite: Annotated[
        str, typer.Option(help="quick, many-shot, few-shot or full: which tasks on which data.")
    ] = "quick",
    out: Annotated[
        Path, typer.Option(help="The folder for results, transfer.html and transfer.json.")
    ] = Path("transfer"),
    part: Annotated[
        str, typer.Option(metavar="I/N", help="This process's part of a job array; or slurm.")
    ] = "",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what runs, what is missing, how long; measure nothing."
        ),
    ] = False,
    json_target: Json = "",
) -> None:
    """Compare models on many data sets: scores, ranks, what is larger than chance, on one page. What is
    measured already is not measured again.
    """
    from seer import forkserver
    from seer.eval.data.coverage import check
    from seer.eval.transfer.agenda import arrange
    from seer.eval.transfer.suites import check_models, suite_of
    from shards.writing.parts import parse

    # Before torch is imported.
    chosen = suite_of(suite)
    own = parse(part)
    check_models(model)
    outputs.check_folder_writable(out, "--out")
    with progress("reading", "images") as tick:
        findings = check(data, False, tick)
    agenda = arrange(chosen, findings, model, overrides or [])
    if any(is_trained(cell.task) for cell in agenda.cells):
        outlast_terminal()
        forkserver.start(forkserver.LOADING)

    from seer.eval.transfer import benchmark
    from seer.eval.transfer.plan_lines import described
    from seer.eval.transfer.summary import summarize
    from seer.report.transfer_page import told, write_transfer

    numbers = (own.number, own.of) if own else (1, 1)
    work = benchmark.plan(agenda, model, overrides or [], out, numbers)
    say(*described(work), json_target=json_target)
    if dry_run:
        return
    benchmark.run(work, lambda line: say(line, json_target=json_target), own.name if own else "")
    summary = summarize(work, data)
    write_transfer(summary, out / PAGE)
    outputs.write(out / SUMMARY, json.dumps(summary, indent=1) + "\n", "the summary")
    say(*told(summary), f"→ {out / PAGE}", json_target=json_target)
    emit(summary, json_target)


@app.command(
    epilog=example(
        "seer correlate transfer/results.jsonl --with fewshot",
        "seer correlate published.csv --with imagenet --of linear --of detection_frozen/voc/AP50",
    )
)
def correlate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="results.jsonl, or CSV files of published values: model,task,dataset,metric,value, perhaps unit and "
            "source; unit is percent (the default), share, raw or negated.",
        ),
    ],
    x: Annotated[
        str,
        typer.Option(
            "--with",
            metavar="QUANTITY",
            help="TASK, TASK/DATASET or TASK/DATASET/METRIC; a task alone is its average over data sets.",
        ),
    ],
    of: Annotated[
        list[str] | None,
        typer.Option("--of", metavar="QUANTITY", help="Likewise; by default all that there are."),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="logit: of shares, as the transfer paper did; raw: as they are.")
    ] = "logit",
    seed: Annotated[int, typer.Option(help="Of the resampled models.", min=0)] = 0,
    json_target: Json = "",
) -> None:
    """How closely results go together over models: Pearson, Spearman, Kendall, with 95 % intervals."""
    from seer.eval.analyses.correlating import correlate_files

    table = correlate_files(files, x, of or [], scale, seed)
    say(*table.lines(), json_target=json_target)
    emit(table.rows(), json_target)


@app.command(epilog=example("seer rank transfer/results.jsonl --of fewshot"))
def rank(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="results.jsonl or CSV files, as of seer correlate."),
    ],
    of: Annotated[
        str, typer.Option("--of", metavar="TASK", help="The task whose data sets count.")
    ],
    json_target: Json = "",
) -> None:
    """Models by their mean rank over data sets, and which are not told apart."""
    from seer.eval.analyses.ranked import rank_files

    ranked = rank_files(files, of)
    say(*ranked.lines(), json_target=json_target)
    emit(ranked.row(), json_target)
