"""Finetuning at every point of a grid, and finally by the options that were best on held-out images."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from seer.data.labelled import Labelled, part
from seer.distributed import World, on_main
from seer.errors import DivergedError
from seer.eval.probes.holdout import choosing
from seer.eval.scores import Score
from seer.eval.trained import grid
from seer.eval.trained.grid import Outcome
from seer.eval.trained.images import Images
from seer.eval.trained.options import FinetuneConfig
from seer.rundir.names import CHECKPOINTS
from seer.start import tell

# Trains on the first images, on all ranks together, and scores the others; on all ranks alike.
Train = Callable[[FinetuneConfig, Images, World], list[Score]]


def timed(config: FinetuneConfig, images: int) -> FinetuneConfig:
    """The options with their steps, for so many training images."""
    steps = config.steps or math.ceil(config.epochs * images / config.batch_size)
    return replace(config, steps=steps)


def divided(config: FinetuneConfig, images: Images) -> tuple[Images, str]:
    """What a point trains on and is scored by, and what the latter are in words. The test images
    are not among them.

    Raises:
        InputError: as `choosing`.
    """
    return _divided(images.train, config.holdout, config.seed)


@lru_cache(maxsize=1)  # all points have it in common, and seconds go by for a million images
def _divided(train: Labelled, share: float, seed: int) -> tuple[Images, str]:
    kept, held, rule = choosing(train, share, seed)
    return Images(part(train, kept.numpy()), part(train, held.numpy())), rule


def timed_points(config: FinetuneConfig, images: Images) -> list[FinetuneConfig]:
    """The points of the grid, as they are trained. Raises `InputError`."""
    if not config.grid:
        return []
    kept = len(divided(config, images)[0].train)
    return [timed(point, kept) for point in grid.points_of(config)]


def search(config: FinetuneConfig, images: Images, world: World, train: Train) -> list[Score]:
    """Train what of the grid is not trained yet, and then by the best of its points; scores of the
    test images.

    Raises:
        InputError: what is kept of a point is damaged, or of other images; all points failed.
    """
    points = timed_points(config, images)
    known = on_main(lambda: [known_outcome(point, images) for point in points])
    outcomes = [
        outcome or try_point(point, images, world, train)
        for point, outcome in zip(points, known, strict=True)
    ]
    best = grid.best_of(outcomes)
    chosen = points[best.point - 1]
    seen = Images(divided(config, images)[0].train, images.test)
    if config.retrain:
        final = timed(grid.with_setting(config, best.setting), len(images.train))
        chosen, seen = replace(final, run_dir=config.run_dir), images
    if world.is_main:
        tell(f"{_place(best.point, config)} is the best: {grid.words(best.setting)}, {_said(best)}")
    scores = train(chosen, seen, world)
    for score in scores:
        score.details |= grid.details_of(best, outcomes)
    return scores


def try_point(config: FinetuneConfig, images: Images, world: World, train: Train) -> Outcome:
    """Train one point, or go on training it, and keep what it comes to, even that it diverges."""
    setting = grid.settings_of(config.grid)[config.point - 1]
    parts, rule = divided(config, images)
    if world.is_main:
        tell(f"{_place(config.point, config)}: {grid.words(setting)}")
    outcome = Outcome(config.point, setting, _identity(config, parts), "", None, rule)
    try:
        headline = next(score for score in train(config, parts, world) if score.headline)
        outcome = replace(outcome, metric=headline.metric, value=headline.value)
    except DivergedError as error:
        outcome = replace(outcome, failed=str(error))
    if world.is_main:
        grid.write(outcome, config.run_dir)
        if config.retrain:  # its weights are not asked for again
            shutil.rmtree(Path(config.run_dir) / CHECKPOINTS, ignore_errors=True)
        tell(f"{_place(config.point, config)}: {_said(outcome)}")
    return outcome


def known_outcome(config: FinetuneConfig, images: Images) -> Outcome | None:
    """What a point came to, if it has been trained. Raises `InputError` as `grid.read`."""
    parts, _ = divided(config, images)
    setting = grid.settings_of(config.grid)[config.point - 1]
    return grid.read(config.run_dir, _identity(config, parts), config.point, setting)


def _identity(config: FinetuneConfig, parts: Images) -> str:
    return grid.identity_of(config, parts.train.fingerprint, parts.test.fingerprint)


def _place(number: int, config: FinetuneConfig) -> str:
    return f"point {number} of {len(grid.settings_of(config.grid))}"


def _said(outcome: Outcome) -> str:
    if outcome.value is None:
        return f"failed ({outcome.failed})"
    return f"{outcome.metric} {outcome.value:.2%} on {outcome.chosen_on}"
