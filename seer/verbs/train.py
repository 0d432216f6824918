"""Verbs that train a backbone."""

from pathlib import Path
from typing import Annotated

import typer

from seer.commands import RecipeCommand
from seer.errors import InputError, quoted
from seer.readiness import as_shards, index_tars, with_splits
from seer.terminal import (
    AllowEnv,
    Json,
    emit,
    example,
    outlast_terminal,
    say,
    warn,
)
from seer.verbs.options import EntryOverrides, Overrides, Recipe

app = typer.Typer()


@app.command(
    cls=RecipeCommand,
    epilog=example(
        "seer pretrain swav_small data=photos/ epochs=100",
        "seer pretrain swav_small data=shards/ steps=5000 run_dir=runs/shards",
        "seer pretrain swav_regnety_16gf data=shards/ batch_size=64 --nproc 2",
    ),
)
def pretrain(
    config: Recipe,
    overrides: Overrides = None,
    nproc: Annotated[int, typer.Option(help="Processes on this host.", min=1)] = 1,
    allow_env: AllowEnv = False,
) -> None:
    """Pretrain a backbone. The same command again continues the run."""
    from seer import forkserver
    from seer.pretrain.recipe import (
        check_run_dir,
        check_settings,
        check_start,
        load_config,
        rate_of_scratch,
    )

    outlast_terminal()  # also what is said at the end

    # What is wrong is told, and what is done already, before torch is imported, which takes seconds;
    # and a key that is misspelt before whatever reads data is.
    resolved = load_config(config, overrides or [], allow_env)
    check_start(resolved)
    from seer.pretrain.ending import is_alone, is_finished, last_lines, speaks
    from seer.pretrain.length import at_any_length, check_images, with_steps
    from seer.pretrain.taken_images import manifest_of

    alone = is_alone()
    if alone:
        check_settings(at_any_length(resolved), nproc)
    from seer.pretrain.scoring import Scoring, check_labels

    if speaks():
        index_tars(*with_splits(resolved.score.data))
        check_labels(resolved.score)
    index_tars(resolved.data, nested=True)
    resolved = as_shards(resolved, nproc)
    images = manifest_of(resolved).samples
    resolved = with_steps(resolved, images)
    if alone:
        check_settings(resolved, nproc)
    check_run_dir(resolved)
    if alone and is_finished(resolved):
        Scoring(resolved.score, Path(resolved.run_dir), warn).catch_up()
        return say(*last_lines(resolved))
    check_images(resolved, images)

    if nproc > 1:
        forkserver.start(forkserver.TRAINING)  # imports while this process does
    elif resolved.loader.forks:
        forkserver.start(forkserver.LOADING)
    from seer.pretrain.run import run
    from seer.processes import spawn

    remarks = rate_of_scratch(resolved, config, overrides or [], allow_env)
    if nproc == 1:
        run(resolved, remarks)
    else:
        spawn(run, nproc, resolved, remarks, device=resolved.device)
    if speaks():
        say(*last_lines(resolved))
    return None


@app.command(
    cls=RecipeCommand,
    epilog=example(
        "seer hpt hpt_resnet50 init=moco.pth source=photos target=xrays/train labelled=xrays",
        "seer hpt runs/hpt_resnet50",
        "seer launch slurm --gpus-per-node 8 -- hpt runs/hpt_resnet50",
    ),
)
def hpt(
    config: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG",
            help="A recipe of configs/hpt/, the path of a YAML file, or the folder of chains that were begun.",
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            show_default=False,
            help="init= (the base MODEL), source= and target= (images or shards), labelled= (as of seer eval), "
            "strategies=, steps=, set= (keys of each stage's recipe), evaluations=, run_dir=.",
        ),
    ] = None,
    nproc: Annotated[int, typer.Option(help="Processes on this host.", min=1)] = 1,
    plan: Annotated[
        bool, typer.Option("--plan", help="Record the chains for seer launch; train nothing.")
    ] = False,
    json_target: Json = "",
) -> None:
    """Hierarchical pretraining: chains of pretrainings from a base model over a source to a target, and
    what each is worth after so many steps. The same command again goes on.
    """
    from dataclasses import asdict

    from seer import outputs
    from seer.adapt.options import load_config
    from seer.rundir.chains import is_chains, read_chains, write_chains
    from shards.first_use import check_data, holds_images

    recorded = Path(config)
    if is_chains(recorded):
        if overrides:
            raise InputError(f"{config}: its chains are recorded; give no keys, or a recipe")
        folder = recorded
        chains = read_chains(folder)
    else:
        resolved = load_config(config, overrides or [])
        folder = Path(resolved.run_dir)
        outputs.check_folder_writable(folder, "run_dir")
        index_tars(*with_splits(resolved.labelled))
        for data in filter(None, (resolved.source, resolved.target)):
            index_tars(data, nested=True)
            if not holds_images(data):
                check_data(data)
        from seer.adapt.hpt import plan as planned

        chains = planned(resolved)
    from seer.adapt.hpt import check, described

    check(chains, folder, nproc)
    folder.mkdir(parents=True, exist_ok=True)
    write_chains(chains, folder)
    say(*described(chains, folder), json_target=json_target)
    emit(asdict(chains), json_target)
    if plan:
        started = f"seer launch slurm ... -- hpt {quoted(folder)}"
        say(f"→ {quoted(folder)}; start it: {started}", json_target=json_target)
        return
    from seer.adapt.carrying_out import carry_out
    from seer.rundir.chains import PAGE

    carry_out(chains, folder, nproc, lambda line: say(line, json_target="-"))
    say(f"report  {folder / PAGE}", json_target=json_target)


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
    overrides: EntryOverrides = None,
    nproc: Annotated[int, typer.Option(help="Processes on this host.", min=1)] = 1,
    allow_env: AllowEnv = False,
    json_target: Json = "",
) -> None:
    """Train on small images without labels for a few minutes, and tell what the features are worth:
    kNN accuracy against the clock.
    """
    from seer import forkserver
    from seer.speedrun.entry import check, check_data, load_config

    # Before torch is imported.
    resolved = load_config(config, overrides or [], allow_env)
    check(resolved, nproc)
    index_tars(*with_splits(resolved.data)[1:])
    check_data(resolved)

    if nproc > 1:
        forkserver.start(forkserver.TRAINING)
    from seer.processes import spawn
    from seer.speedrun.run import describe, run

    alone = nproc == 1
    row = run(resolved) if alone else spawn(run, nproc, resolved, device=resolved.device)[0]
    say(describe(row), json_target=json_target)
    emit(row, json_target)
