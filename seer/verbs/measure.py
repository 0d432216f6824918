"""Verbs that take a trained backbone: scores, features, files for other libraries."""

from pathlib import Path
from typing import Annotated

import typer

from seer.eval.tasks import ALL, TASKS, check_inputs, check_request, is_pixels, is_trained
from seer.readiness import index_tars
from seer.terminal import (
    Json,
    emit,
    example,
    outlast_terminal,
    output_option,
    say,
)
from seer.verbs.options import ModelOption, Overrides

app = typer.Typer()


@app.command(
    "eval",
    epilog=example(
        "seer eval all --model runs/swav_small --data flowers",
        "seer eval knn --model runs/swav_small --data cifar10 k=[20,200]",
        "seer eval linear --model timm:resnet18 --data flowers",
        "seer eval finetune --model runs/swav_small --data flowers epochs=50 --nproc 2 parallel.mode=ddp",
    ),
)
def evaluate(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help=f"{', '.join(TASKS)}; {ALL}: the quick ones, of the model, untrained, and of raw pixels.",
        ),
    ],
    model: ModelOption,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="Class folders or labelled shards, in train/ and test/ (or val/); else one in five is held out.",
        ),
    ],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="results.jsonl to append to (default: the run's own).")
    ] = None,
    nproc: Annotated[
        int, typer.Option(help="Processes on this host, for tasks that train.", min=1)
    ] = 1,
    json_target: Json = "",
) -> None:
    """Measure a backbone on labelled images; values come with 95 % intervals."""
    from seer import forkserver

    # Before torch is imported, which takes seconds.
    check_request(task, model, data, overrides or [], out, nproc)
    index_tars(data, *(f"{data}/{split}" for split in ("train", "test", "val")))
    check_inputs(task, model, data)
    if is_trained(task):
        outlast_terminal()
        forkserver.start(forkserver.LOADING if nproc == 1 else forkserver.TRAINING)

    from seer.eval.baselines import evaluate_all, table
    from seer.eval.task import evaluate as run
    from seer.results import describe

    if task == ALL:
        rows = evaluate_all(model, data, overrides or [], out)
        say(*table(rows), json_target=json_target)
    else:
        rows = run(task, model, data, overrides or [], out, nproc)
        say(*describe(rows), json_target=json_target)
    if rows:  # of several processes one measures
        emit(rows, json_target)


@app.command(
    epilog=example("seer embed --model runs/swav_small --data photos/ --out features.parquet")
)
def embed(
    model: ModelOption,
    data: Annotated[
        str, typer.Option("--data", help="A folder of images of any depth, or shards.")
    ],
    out: Annotated[
        Path, typer.Option(callback=output_option, help="features.parquet or features.npz")
    ],
    json_target: Json = "",
) -> None:
    """Write a backbone's features of every image."""
    from seer.eval.pile import check_table, open_pile
    from seer.interop.spec import check_model

    # Before torch is imported.
    check_table(out)
    if not is_pixels(model):
        check_model(model)
    index_tars(data)
    pile = open_pile(data)

    from seer.eval.embed import embed as run

    summary = run(model, pile, out)
    say(
        f"{summary['samples']} × {summary['dimensions']} features in {summary['out']}",
        json_target=json_target,
    )
    emit(summary, json_target)


@app.command(epilog=example("seer export runs/swav_small --to timm --out backbone.safetensors"))
def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run directory or an exported file.")
    ],
    to: Annotated[str, typer.Option("--to", help="safetensors, torchvision or timm.")],
    out: Annotated[Path, typer.Option(callback=output_option, help="The file to write.")],
    json_target: Json = "",
) -> None:
    """Write a backbone for another library, and check that it gives the same features there."""
    from seer.interop.spec import check_export

    check_export(model, to, out)  # before torch is imported
    from seer.interop.export import export as run

    summary = run(model, to, out)
    say(*(f"{key:14} {value}" for key, value in summary.items()), json_target=json_target)
    emit(summary, json_target)
