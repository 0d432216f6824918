"""The verbs, each of which can be launched: parse, call, print. No logic lives here, and each
imports what it needs only when it runs. `preview` says beforehand what a verb would refuse, and
what it trains."""

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from seer import outputs
from seer.commands import USAGE_ERROR, RecipeCommand
from seer.errors import InputError, nearest
from seer.eval.tasks import TASKS, check_options
from seer.readiness import as_shards, index_tars
from seer.terminal import (
    AllowEnv,
    Json,
    emit,
    example,
    finite,
    outlast_terminal,
    output_option,
    progress,
    say,
    warn,
)
from shards.cli import app as shards_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(shards_app, name="shards")

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", show_default=False)
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        help="A run directory (or RUN:random, RUN:step-000100), an exported file, BACKBONE:random, "
        "timm:NAME[:WEIGHTS], torchvision:NAME[:WEIGHTS], or pixels.",
    ),
]


@app.command(epilog=example("seer quickstart --out quickstart"))
def quickstart(
    out: Annotated[Path, typer.Option(help="Where images, shards, run and report go.")] = Path(
        "quickstart"
    ),
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Time to spend on pretraining; 4 on a CPU, 1 on a GPU.",
            min=0.1,
            callback=finite,
            show_default=False,
        ),
    ] = None,
    json_target: Json = "",
) -> None:
    """Photographs that come with the package → shards → SwAV → kNN and linear against untrained →
    report.
    """
    from seer.quickstart.tour import quickstart as run

    # The verbs that it runs print, too; stdout is for the JSON alone.
    with redirect_stdout(sys.stderr) if json_target == "-" else nullcontext():
        summary = run(out, minutes, say, typed)
    emit(summary, json_target)


def typed(*words: str) -> None:
    """Show a command as a user would type it, and run it."""
    say("", f"$ seer {shlex.join(words)}")
    app(list(words), standalone_mode=False)


@app.command(
    cls=RecipeCommand,
    epilog=example(
        "seer pretrain swav_small data=photos/ epochs=100",
        "seer pretrain swav_small data=shards/ steps=5000",
        "seer pretrain swav_regnety_16gf data=shards/ batch_size=64 --nproc 2",
    ),
)
def pretrain(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A recipe's name or the path of a YAML file.")
    ],
    overrides: Overrides = None,
    nproc: Annotated[int, typer.Option(help="Processes on this host.", min=1)] = 1,
    allow_env: AllowEnv = False,
) -> None:
    """Pretrain a backbone. The same command again continues the run."""
    from seer import forkserver
    from seer.pretrain.ending import is_alone, is_finished, last_lines
    from seer.pretrain.length import foreseen
    from seer.pretrain.recipe import check_run_dir, check_settings, load_config

    outlast_terminal()  # also what is said at the end

    # What is wrong is told, and what is done already, before torch is imported, which takes seconds.
    resolved = load_config(config, overrides or [], allow_env)
    alone = is_alone()
    if alone and resolved.steps:
        check_settings(resolved, nproc)
    index_tars(resolved.data, nested=True)
    resolved = replace(resolved, data=as_shards(resolved.data, resolved.run_dir))
    resolved = foreseen(resolved)
    if alone:
        check_settings(resolved, nproc)
    check_run_dir(resolved)
    if alone and is_finished(resolved):
        return say(*last_lines(resolved))

    # Imports while this process does.
    forkserver.start(forkserver.LOADING if nproc == 1 else forkserver.TRAINING)
    from seer.pretrain.run import run
    from seer.processes import spawn

    if nproc == 1:
        run(resolved)
    else:
        spawn(run, nproc, resolved, device=resolved.device)
    return say(*last_lines(resolved))


@app.command(epilog=example("seer recipes"))
def recipes(json_target: Json = "") -> None:
    """The recipes: for which images and hardware, how many hours, and what score to expect."""
    from seer.pretrain.catalogue import catalogue

    entries = catalogue()
    say(*(line for entry in entries for line in entry.lines()), json_target=json_target)
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
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A recipe's name or the path of a YAML file.")
    ],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY | KEY=VALUE]...", show_default=False)
    ] = None,
    allow_env: AllowEnv = False,
    json_target: Json = "",
) -> None:
    """Every key of a recipe with its value, meaning and range, or those keys that are named."""
    from seer.config.meanings import meanings, under
    from seer.pretrain.recipe import load_config

    overrides = [word for word in words or [] if "=" in word]
    names = [word for word in words or [] if "=" not in word]
    rows = under(names, meanings(load_config(config, ["data=SHARDS", *overrides], allow_env)))
    say(*(line for row in rows for line in row.lines()), json_target=json_target)
    emit([asdict(row) for row in rows], json_target)


@app.command(
    cls=RecipeCommand,
    epilog=example(
        "seer plan swav_regnety_256gf --gpus 512 --gpu v100-32g",
        "seer plan swav_resnet50_800ep --gpus 64 --gpu a100-40g --price 1.5 --sweep",
        "seer plan swav_regnety_16gf --gpus 128 --gpu h100 --calibrate runs/short",
    ),
)
def plan(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A recipe's name or the path of a YAML file.")
    ],
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
    from seer.pretrain.recipe import load_config

    # Before torch is imported.
    find(gpu)
    load_config(config, ["data=.", *(overrides or [])], allow_env)
    from seer.planning.plan import Options, draw
    from seer.planning.plan import plan as run

    found = run(
        config,
        overrides or [],
        gpus,
        gpu,
        Options(price, calibrate, images_per_core, sweep, allow_env),
    )
    if sweep:
        draw(found.sweep, plot)
    say(*found.lines(), json_target=json_target)
    emit(asdict(found), json_target)


@app.command(
    cls=RecipeCommand,
    epilog=example(
        "seer speedrun gpu data=cifar10",
        "seer speedrun cpu data=cifar10 method.temperature=0.5 --nproc 2 --json -",
    ),
)
def speedrun(
    config: Annotated[
        str, typer.Argument(metavar="CLASS", help="cpu, gpu, or the path of a YAML file.")
    ],
    overrides: Overrides = None,
    nproc: Annotated[int, typer.Option(help="Processes on this host.", min=1)] = 1,
    allow_env: AllowEnv = False,
    json_target: Json = "",
) -> None:
    """Train on small images without labels for a few minutes, and tell what the features are worth:
    kNN accuracy against the clock.
    """
    from seer import forkserver
    from seer.speedrun.entry import load_config

    resolved = load_config(config, overrides or [], allow_env)  # before torch is imported
    if nproc > 1:
        forkserver.start(forkserver.TRAINING)
    from seer.processes import spawn
    from seer.speedrun.run import describe, run

    index_tars(*(f"{resolved.data}/{split}" for split in ("train", "test", "val")))
    alone = nproc == 1
    row = run(resolved) if alone else spawn(run, nproc, resolved, device=resolved.device)[0]
    say(describe(row), json_target=json_target)
    emit(row, json_target)


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
            help=f"{', '.join(TASKS)}; all: the quick ones, of the model, untrained, and of raw pixels.",
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

    check_options(task, model, data, overrides or [])  # before torch is imported
    if TASKS[task].trained:
        outlast_terminal()
        forkserver.start(forkserver.LOADING if nproc == 1 else forkserver.TRAINING)

    from seer.eval.baselines import evaluate_all, table
    from seer.eval.task import evaluate as run
    from seer.results import describe

    index_tars(data, *(f"{data}/{split}" for split in ("train", "test", "val")))
    if task == "all":
        if nproc > 1:
            raise InputError(f"--nproc {nproc}: {task} is one process")
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
    from seer.eval.embed import embed as run

    index_tars(data)
    summary = run(model, data, out)
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
    from seer.interop.export import export as run

    summary = run(model, to, out)
    say(*(f"{key:14} {value}" for key, value in summary.items()), json_target=json_target)
    emit(summary, json_target)


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

    findings = [
        *machine.software(),
        launching.ranks(),
        *launching.slurm(),
        *machine.file_system(folder),
    ]
    findings += [machine.data(data)] if data else []
    say(*map(str, findings), json_target=json_target)
    failed = any(finding.level == "failure" for finding in findings)
    results: dict = {"findings": [asdict(finding) for finding in findings]}
    if data and findings[-1].level == "ok":
        found = measure(data)
        say(*lines(found, images_per_second), json_target=json_target)
        results |= asdict(found) | {"limits": found.limits}
    emit(results, json_target)
    raise typer.Exit(1 if failed else 0)


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
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
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
    together.
    """
    from seer.inputs import inside
    from seer.report.html import write_page
    from seer.report.runfiles import read_run
    from seer.rundir.names import REPORT

    found = [read_run(run) for run in runs]
    out = out or (Path("comparison.html") if len(runs) > 1 else inside(runs[0], REPORT))
    outputs.check_writable(out, "--out")
    write_page(found, out)
    warn(*(remark for run in found for remark in run.remarks))
    say(f"report  {out}")


def preview(words: Sequence[str], ranks: int) -> Path | None:
    """Refuse now what `ranks` processes elsewhere would refuse of a command.

    Returns:
        The run directory of a verb that trains; None of another.

    Raises:
        InputError: no such verb, or one that cannot be run so.
    """
    command: Any = typer.main.get_command(app)
    verb, *rest = words
    while hasattr(command, "commands"):
        name = words[0] if words else ""
        if name not in command.commands:
            raise InputError(f"'{name}': not a verb to launch{nearest(name, command.commands)}")
        command = command.commands[name]
        words = words[1:]
    try:
        context = command.make_context(verb, list(words))
    except USAGE_ERROR as error:
        raise InputError(f"{' '.join([verb, *rest])}: {error.format_message()}") from error
    return TRAINING[verb](ranks, **context.params) if verb in TRAINING else None


def preview_pretrain(
    ranks: int, config: str, overrides: list[str] | None, nproc: int, allow_env: bool
) -> Path:
    """What a launched `pretrain` would refuse; its run directory."""
    check_one(nproc)
    from seer.pretrain.recipe import check_settings, load_config

    check_settings(
        load_config(config, overrides or [], allow_env), ranks
    )  # before torch is imported
    from seer.pretrain.rehearsal import preview

    return preview(config, overrides or [], ranks, allow_env).absolute()


def preview_evaluate(
    ranks: int,
    task: str,
    model: str,
    data: str,
    overrides: list[str] | None,
    nproc: int,
    **others: Any,
) -> Path | None:
    """What a launched `eval` would refuse; the run directory of a task that trains."""
    if task not in TASKS or not TASKS[task].trained or is_awaited(model):
        return None
    check_one(nproc)
    module = TASKS[task].load()
    config = module.configure(model, data, overrides or [])
    module.check(config, ranks)
    return Path(config.run_dir).absolute()


def is_awaited(model: str) -> bool:
    """Whether a model may be a run that has no checkpoint yet, as in a chain of jobs: nothing can
    be told of it.
    """
    from seer.rundir.names import checkpoints

    path = Path(model)
    return ":" not in model and not path.is_file() and not checkpoints(path)


def check_one(nproc: int) -> None:
    if nproc != 1:
        raise InputError(
            "--nproc: a launched job has its processes from --nodes, --gpus-per-node and --tasks-per-node"
        )


# Verbs that train, and so run as several processes: by their options and the number of these, their
# run directory.
TRAINING: dict[str, Callable[..., Path | None]] = {
    "pretrain": preview_pretrain,
    "eval": preview_evaluate,
}
