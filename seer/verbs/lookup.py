"""Verbs that say beforehand what a run would be: recipes, keys, memory, hours, cost."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from seer import outputs
from seer.commands import RecipeCommand
from seer.errors import quoted
from seer.terminal import (
    AllowEnv,
    Json,
    emit,
    example,
    finite,
    say,
)
from seer.verbs.options import Overrides, Recipe

app = typer.Typer()


@app.command(epilog=example("seer recipes"))
def recipes(json_target: Json = "") -> None:
    """The recipes: for which images and hardware, how many hours, and what score to expect."""
    from seer.hardware import gpus_here, usable_cores
    from seer.pretrain.catalogue import catalogue, for_machine

    entries = catalogue()
    lines = [line for entry in entries for line in entry.lines()]
    say(*lines, for_machine(entries, usable_cores(), gpus_here()), json_target=json_target)
    emit([asdict(entry) for entry in entries], json_target)


@app.command(
    "config",
    cls=RecipeCommand,
    epilog=example(
        "seer config swav_small",
        "seer config swav_small schedule batch_size=64",
    ),
)
def configuration(
    config: Recipe,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY | KEY=VALUE]...", show_default=False)
    ] = None,
    allow_env: AllowEnv = False,
    json_target: Json = "",
) -> None:
    """Every key of a recipe with its value, meaning and range, or those keys that are named."""
    from seer.config.meanings import first_ones_first, meanings, under
    from seer.pretrain.recipe import load_config

    overrides = [word for word in words or [] if "=" in word]
    names = [word for word in words or [] if "=" not in word]
    options = meanings(load_config(config, ["data=SHARDS", *overrides], allow_env))
    rows = first_ones_first(under(names, options))
    say(*(line for row in rows for line in row.lines()), json_target=json_target)
    emit([asdict(row) for row in rows], json_target)


@app.command(
    cls=RecipeCommand,
    epilog=example(
        "seer plan swav_regnety_256gf --gpus 512 --gpu v100-32g",
        "seer plan swav_resnet50_800ep --gpus 64 --gpu a100-40g --price 1.5 --sweep",
        "seer plan swav_regnety_16gf --gpus 128 --gpu h100 --calibrate runs/short",
        "seer plan detect_seer model=regnety_128gf parallel.mode=fsdp --gpus 8 --gpu v100-32g",
        "seer plan segment_ade20k model=resnet50 parallel.mode=ddp --gpus 8 --gpu v100-32g",
    ),
)
def plan(
    config: Recipe,
    overrides: Overrides = None,
    *,
    gpus: Annotated[int, typer.Option(help="Processes, each with a GPU.", min=1)],
    gpu: Annotated[
        str,
        typer.Option(
            help="v100-16g, v100-32g, a100-40g, a100-80g, h100, h200, b200, l40s, t4, l4, a10, a6000, "
            "rtx-3090, rtx-4090, rtx-5090, cpu."
        ),
    ],
    price: Annotated[
        float | None,
        typer.Option(help="Of one GPU-hour, in your currency.", min=0, callback=finite),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Take the efficiency from this run on the same kind of GPU."
        ),
    ] = None,
    images_per_core: Annotated[
        float,
        typer.Option(
            help="Images that one core makes ready per second; seer doctor measures it.",
            min=1,
            callback=finite,
        ),
    ] = 100,
    images: Annotated[
        int,
        typer.Option(
            help="How many there are to learn from, where data= is not here.",
            min=0,
            show_default="those of data=",
        ),
    ] = 0,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Also an eighth to eight times as many GPUs.")
    ] = False,
    plot: Annotated[Path, typer.Option(help="Where the chart of --sweep goes.")] = Path("plan.svg"),
    allow_env: AllowEnv = False,
    json_target: Json = "",
) -> None:
    """What a run needs and costs: memory, hours, energy; whether it fits, and what would make it
    fit.
    """
    if sweep:
        outputs.check_writable(plot, "--plot")
    from seer.hardware import find
    from seer.planning.asked import check, load

    # Before torch is imported.
    find(gpu)
    check(load(config, overrides or [], allow_env), gpus)
    if calibrate:
        from seer.rundir.rundir import RunDir

        RunDir(calibrate).check("--calibrate")
    from seer.planning.plan import Options, draw
    from seer.planning.plan import plan as run

    found = run(
        config,
        overrides or [],
        gpus,
        gpu,
        Options(price, calibrate, images_per_core, sweep, allow_env, images),
    )
    if sweep:
        draw(found.sweep, plot)
    say(*found.lines(), json_target=json_target)
    emit(asdict(found), json_target)


@app.command(
    epilog=example(
        "seer study parameters --data s3://bucket/shards --labelled imagenet --gpus 128 --gpu v100-32g",
        "seer study curation --data curated=shards/a --data uncurated=shards/b --labelled flowers "
        "--gpus 8 --gpu h100 steps=20000",
    )
)
def study(
    name: Annotated[
        str, typer.Argument(metavar="STUDY", help="A study's name or the path of a YAML file.")
    ],
    overrides: Overrides = None,
    *,
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            help="What arms learn from: shards for seer launch; NAME=DIR where they name several.",
        ),
    ],
    labelled: Annotated[str, typer.Option(help="Labelled images, as of seer eval.")],
    gpus: Annotated[int, typer.Option(help="Processes of each arm, each with a GPU.", min=1)],
    gpu: Annotated[str, typer.Option(help="As of seer plan.")],
    evaluation: Annotated[
        str, typer.Option("--eval", help="Task and options in place of the study's: 'knn size=32'.")
    ] = "",
    seeds: Annotated[
        int,
        typer.Option(
            help="Trainings of each arm, in place of the study's.",
            min=0,
            show_default="the study's",
        ),
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The study's folder.", show_default="runs/STUDY")
    ] = None,
    json_target: Json = "",
) -> None:
    """Plan several trainings and evaluations that answer one question: steps and GPU-hours of each,
    recorded for seer launch and seer report. Nothing is started.
    """
    from seer.hardware import find
    from seer.rundir.studies import write_study

    find(gpu)
    folder = out or Path("runs") / Path(name).stem
    outputs.check_folder_writable(folder, "--out")
    from seer.planning.study import Asked, plan_study, sources, table, words_of

    words = words_of(evaluation)
    asked = Asked(name, sources(data), labelled, words, overrides or [], gpus, gpu, seeds)
    planned, plans = plan_study(asked)
    folder.mkdir(parents=True, exist_ok=True)
    write_study(planned, folder)
    say(
        *table(planned, plans, asked),
        f"→ {quoted(folder)}; start it: seer launch slurm ... -- study {quoted(folder)}",
        json_target=json_target,
    )
    emit(asdict(planned), json_target)
