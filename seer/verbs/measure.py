"""Verbs that take a trained backbone: scores, features, files for other libraries."""

from pathlib import Path
from typing import Annotated

import typer

from seer import outputs
from seer.errors import InputError
from seer.eval.tasks import (
    ALL,
    QUICK,
    TASKS,
    check_frozen,
    check_inputs,
    check_request,
    check_scoring,
    is_trained,
)
from seer.readiness import index_tars, with_splits
from seer.start import end_with
from seer.terminal import (
    Json,
    emit,
    example,
    outlast_terminal,
    output_option,
    say,
)
from seer.verbs.options import ModelOption, QuickOverrides, TaskOverrides

app = typer.Typer()


@app.command(
    "eval",
    epilog=example(
        "seer eval all --model runs/swav_small --data flowers",
        "seer eval knn --model runs/swav_small --data cifar10 k=[20,200]",
        "seer eval linear --model timm:resnet18 --data flowers102:datasets",
        "seer eval linear --model timm:resnet50 --data imagenet protocol=swav",
        "seer eval lowshot --model timm:resnet50 --data imagenet percent=1 subset=1percent.txt",
        "seer eval finetune --model runs/swav_small --data flowers epochs=50 --nproc 2 parallel.mode=ddp",
        "seer eval finetune --model timm:resnet50 --data flowers102:datasets protocol=ericsson",
        "seer eval attention --model runs/swav_small --data flowers images=8 picture=attention.png",
        "seer eval robustness --model timm:resnet50 --data imagenet:datasets variants=datasets",
        "seer eval mme --model torchvision:resnet34 --data pacs/photo target=pacs/sketch labels=3",
        "seer eval detect --model runs/swav_small --data balloon batchnorm=sync freeze=0",
        "seer eval segment --model runs/swav_small --data camvid void=[11]",
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
            help="Class folders or labelled shards, in train/ and test/ (or val/), else one in five is held out; "
            "a CSV file (path,label[,split]); a data set as its owner lays it out, or NAME:DIR (seer data check). "
            "Of detect: COCO's JSON, VOC's XML or YOLO's text files. Of segment and denselinear: images/ and masks/, "
            "ADE20K, VOC, Cityscapes.",
        ),
    ],
    overrides: TaskOverrides = None,
    out: Annotated[
        Path | None, typer.Option(help="results.jsonl to append to (default: the run's own).")
    ] = None,
    nproc: Annotated[
        int, typer.Option(help="Processes on this host, which train or measure together.", min=1)
    ] = 1,
    json_target: Json = "",
) -> None:
    """Measure a backbone on labelled images; values come with 95 % intervals."""
    from seer import forkserver

    # Before torch is imported, which takes seconds.
    check_request(task, model, data, overrides or [], out, nproc)
    index_tars(*with_splits(data))
    check_inputs(task, model, data)
    if is_trained(task):
        outlast_terminal()
        forkserver.start(forkserver.LOADING if nproc == 1 else forkserver.TRAINING)
    elif nproc > 1:
        forkserver.start(forkserver.PROBING)

    from seer.eval.baselines import evaluate_all, results_file, table, verdicts
    from seer.eval.task import evaluate as run
    from seer.results import describe

    if task == ALL:
        rows = evaluate_all(model, data, overrides or [], out)
        said = verdicts(rows, results_file(model, out))
        say(*table(rows), *said, json_target=json_target)
    else:
        rows = run(task, model, data, overrides or [], out, nproc)
        say(*describe(rows), json_target=json_target)
    if rows:  # of several processes one measures
        emit(rows, json_target)


@app.command(
    epilog=example(
        "seer score runs/photos --data flowers",
        "seer score runs/photos --data flowers --follow --every 2000",
        "seer launch slurm -- score runs/photos --data flowers --follow",
    )
)
def score(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    overrides: QuickOverrides = None,
    *,
    data: Annotated[str, typer.Option("--data", help="Labelled images, as of seer eval.")],
    every: Annotated[
        int, typer.Option(help="Steps between scored checkpoints, the last besides; 0: all.", min=0)
    ] = 0,
    follow: Annotated[
        bool, typer.Option("--follow", help="Wait for further ones until the run is over.")
    ] = False,
    task: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(QUICK)}; all of these by default.")
    ] = None,
    parent: Annotated[int, typer.Option(hidden=True, help="End when this process does.")] = 0,
    json_target: Json = "",
) -> None:
    """Score the checkpoints of a run, beside the same network untrained and raw pixels: a curve, for
    seer watch, seer report and TensorBoard. What was scored is not scored again.
    """
    # Before torch is imported.
    tasks = task or list(QUICK)
    check_scoring(run, data, tasks, overrides or [], follow)
    index_tars(*with_splits(data))
    end_with(parent)

    from seer.eval.following import score_run
    from seer.eval.tensorboard import Board

    rows = score_run(
        run,
        data,
        overrides or [],
        follow=follow,
        tasks=tasks,
        every=every,
        tell=lambda line: say(f"score: {line}", json_target=json_target),
        seen=Board(run).write,
    )
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

    # Before torch is imported.
    check_table(out)
    check_frozen(model)
    index_tars(data)
    pile = open_pile(data)

    from seer.eval.embed import embed as run

    summary = run(model, pile, out)
    say(
        f"{summary['samples']} × {summary['dimensions']} features in {summary['out']}",
        json_target=json_target,
    )
    emit(summary, json_target)


@app.command(epilog=example("seer cluster features.parquet --clusters 3 --out clusters"))
def cluster(
    features: Annotated[
        Path, typer.Argument(metavar="FEATURES", help="What seer embed wrote: .parquet or .npz.")
    ],
    clusters: Annotated[int, typer.Option(help="How many.", min=2, max=1000)],
    out: Annotated[
        Path, typer.Option(callback=output_option, help="The folder for a list of each.")
    ],
    seed: Annotated[int, typer.Option(help="Of what they begin with.", min=0)] = 0,
    json_target: Json = "",
) -> None:
    """Put images in clusters of their features, by spherical k-means: OUT/0.txt, 1.txt, … are lists of keys,
    which seer pretrain takes as subset= and method.lists=.
    """
    if not features.is_file():  # before torch is imported
        raise InputError(f"{features}: no such file; give what seer embed wrote")
    from seer.pretrain import clusters as of

    embedded = of.read_features(features)
    found, cosine = of.cluster(embedded, clusters, seed)
    summary = of.write_lists(embedded, found, cosine, out)
    sizes = zip(summary["lists"], summary["sizes"], strict=True)
    lines = [f"{out / name}  {size:,} images" for name, size in sizes]
    say(*lines, f"mean cosine with the centroid {cosine:.3f}", json_target=json_target)
    emit(summary, json_target)


@app.command(epilog=example("seer export runs/swav_small --to timm --out backbone.safetensors"))
def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run directory or a file or folder of weights.")
    ],
    to: Annotated[
        str, typer.Option("--to", help="safetensors, torchvision, timm, transformers or onnx.")
    ],
    out: Annotated[
        Path,
        typer.Option(callback=output_option, help="The file to write; for transformers, a folder."),
    ],
    card: Annotated[
        str,
        typer.Option(
            metavar="FILE.md",
            callback=output_option,
            help="Also write a model card of a run: data, audit, scores, recipe, energy.",
        ),
    ] = "",
    json_target: Json = "",
) -> None:
    """Write a backbone for another library, and check that it gives the same features there."""
    from seer.interop.spec import check_export, run_of

    check_export(model, to, out)  # before torch is imported
    run_dir = run_of(model)
    if card and run_dir is None:
        raise InputError(f"--card {card}: {model} is no run, and only a run knows its data")
    from seer.checks.card import model_card
    from seer.interop.export import export as run

    summary = run(model, to, out)
    if card and run_dir is not None:
        outputs.write(card, model_card(run_dir, summary), "the card")
        summary["card"] = card
    notes = {"max_abs_diff": " between its features here and there, of random images"}
    lines = [f"{key:16}{value}{notes.get(key, '')}" for key, value in summary.items()]
    say(*lines, json_target=json_target)
    emit(summary, json_target)


@app.command(
    "import",
    epilog=example(
        "seer import model_final_checkpoint_phase0.torch --from vissl --out seer_32gf.safetensors",
        "seer import regnet-y-320-seer/ --from transformers --out seer_32gf.safetensors",
    ),
)
def import_(
    path: Annotated[
        Path,
        typer.Argument(help="A file of weights, the index of several, or a folder of them."),
    ],
    library: Annotated[
        str,
        typer.Option(
            "--from",
            help="vissl, classy_vision, pycls, timm, torchvision, transformers, fairscale or seer.",
        ),
    ],
    out: Annotated[Path, typer.Option(callback=output_option, help="The .safetensors to write.")],
    partial: Annotated[
        str,
        typer.Option(
            metavar="BACKBONE",
            help="Fill what fits of this backbone, the rest being as untrained.",
        ),
    ] = "",
    ignore_code: Annotated[
        bool,
        typer.Option(
            "--ignore-code", help="Leave out what a pickle holds besides tensors; none of it runs."
        ),
    ] = False,
    json_target: Json = "",
) -> None:
    """Weights that others published, whoever trained them, as one file that every verb takes."""
    from seer.interop.spec import check_import

    check_import(path, library, out)  # before torch is imported
    from seer.interop.importing import import_backbone

    summary = import_backbone(path, library, out, ignore_code, partial)
    say(*(f"{key:14} {value}" for key, value in summary.items()), json_target=json_target)
    emit(summary, json_target)
