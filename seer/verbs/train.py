"""Verbs that train a backbone."""

from pathlib import Path
from typing import Annotated

import typer

from seer.commands import RecipeCommand
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
