"""Train a recipe of `seer pretrain` until it has worked for so many minutes of one core.

    python benchmarks/core_minutes.py RECIPE OUT.safetensors [--minutes 6] KEY=VALUE ...

Two trainings that take equally many steps take unlike times, and on a machine with other work nobody
can say beforehand how many steps a time is: the schedule follows the time, of all threads, the
process's start among it. Batches, crops, losses and updates are those of `seer pretrain`; what guards
a run, logs and saves it is left out. OUT holds the backbone (no training at all after `--minutes 0`),
a `.json` beside it how many samples it saw. `methods.py` has its trainings from here.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from seer import distributed
from seer.data.views import Views
from seer.engine.learner import Output, Step
from seer.engine.optim import build_optimizer, clip_grad_norm
from seer.engine.run import Training
from seer.engine.schedule import effective
from seer.engine.step import forward_backward, surveyed, update
from seer.errors import InputError
from seer.interop.native import save_backbone
from seer.outputs import check_writable
from seer.pretrain.length import with_steps
from seer.pretrain.recipe import Pretrain, load_config
from seer.pretrain.rehearsal import check
from seer.pretrain.run import set_up
from seer.pretrain.taken_images import manifest_of
from seer.speedrun.entry import check_places
from seer.speedrun.timed import TICKS, paced


@dataclass
class Budget:
    """What trainings are equal in: images seen, if they are given, or minutes of one core."""

    minutes: float
    images: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.minutes < math.inf and self.images >= 0):
            raise InputError(f"minutes={self.minutes}, images={self.images}: give 0 or more")

    def share(self, samples: int) -> float:
        """The part that is spent by this process, which has seen so many samples; 1 and more: all."""
        if self.images:
            return samples / self.images
        return time.process_time() / 60 / self.minutes if self.minutes else 1.0


def train(config: Pretrain, budget: Budget) -> tuple[Training[Views], int]:
    """A training when its budget is spent, and the samples that it saw.

    Raises:
        InputError: what `seer pretrain` refuses, or steps where there is a time.
    """
    check_places(config.method, config.schedule)
    world = distributed.init("cpu")
    manifest = manifest_of(config)
    config = with_steps(config, manifest.samples)
    check(config, manifest, world)
    training = set_up(config, manifest, world)
    learner, batches = training.learner, training.batches
    optimizer = build_optimizer(learner, config.optim)
    schedule = effective(config.schedule, config.batch_size, TICKS)
    parameters = [p for p in learner.parameters() if p.requires_grad]
    training.module.train()
    surveying = partial(survey, training)
    steps = 0
    for views, step in paced(
        learner, optimizer, schedule, batches, config.batch_size, budget.share, surveying
    ):
        forward_backward(learner, training.module, views, step, config.precision)
        if config.optim.clip_grad:
            clip_grad_norm(parameters, config.optim.clip_grad)
        update(learner, optimizer, step)
        optimizer.zero_grad(set_to_none=True)
        steps += 1
    return training, steps * config.batch_size


def survey(training: Training[Views], step: Step) -> Iterator[tuple[Views, Output]]:
    """A pass over all images as they are in the epoch of `step`; see `Learner.before_epoch`."""
    views = training.batches.survey(int(step.epoch))
    return surveyed(training.learner, training.module, views, step, training.config.precision)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("out", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--minutes", type=float, default=4, help="of one core")
    parser.add_argument("--images", type=int, default=0, help="to see, in place of minutes")
    options = parser.parse_intermixed_args()
    try:
        check_writable(options.out, "OUT")
        budget = Budget(options.minutes, options.images)
        config = load_config(options.recipe, options.overrides)
        training, samples = train(config, budget)
    except InputError as error:
        parser.error(str(error))
    backbone = training.learner.backbone
    options.out.parent.mkdir(parents=True, exist_ok=True)
    size = max(view.size for view in config.views.values() if view.count)
    spent = f"{budget.images:,} images" if budget.images else f"{budget.minutes:g} core-minutes"
    about = {"label": f"{config.name}, {spent}"}
    save_backbone(
        options.out, backbone.state_dict(), config.backbone, size, config.mean, config.std, about
    )
    options.out.with_suffix(".json").write_text(json.dumps({"samples": samples}))


if __name__ == "__main__":
    main()
