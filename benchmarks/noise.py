"""A run's own training loop on noise: what `plan.py` and the stages of `gpu/` time."""

import time
from collections.abc import Callable, Collection, Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from seer.data.views import Views
from seer.distributed import World
from seer.engine.health import Health, HealthConfig
from seer.engine.loop import Run, Saves, train
from seer.engine.metrics import LogConfig, RunLog
from seer.engine.optim import LossScaler, build_optimizer
from seer.engine.parallel import parallelize
from seer.engine.schedule import effective
from seer.pretrain.recipe import Pretrain
from seer.pretrain.rehearsal import build_method


class SameViews:
    """A loader that hands out the same views again and again, and so takes no time."""

    wait_seconds = 0.0
    seen = 0

    def __init__(self, config: Pretrain, world: World):
        self.work_seconds: dict[str, float] = {}
        batch = config.batch_size // world.size
        largest_first = sorted(config.views.values(), key=lambda view: -view.size)
        crops = [
            torch.randn(view.count, batch, view.size, view.size, 3, device=world.device)
            for view in largest_first
            if view.count
        ]
        channels_last = [group.permute(0, 1, 4, 2, 3) for group in crops]
        self.views = Views(tuple(channels_last), torch.arange(batch, device=world.device))

    def iterate(self, start: int, stop: int, skipped: Collection[int] = ()) -> Iterator[Views]:
        for _ in range(start, stop):
            yield self.views


def train_on_noise(
    config: Pretrain, world: World, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Train for `config.steps`. Returns what the clock counted of each step but the first.

    The loop waits for each step's verdict, so that a wall clock tells true on a GPU as well.
    """
    method = build_method(config)
    module = parallelize(method, config.parallel, world, config.precision)
    ends: list[float] = []

    def finished(*_: object, **__: object) -> dict[str, float]:
        ends.append(clock())
        return {}

    with (
        TemporaryDirectory() as folder,
        RunLog(Path(folder), LogConfig(10**6, False), world, config.steps) as log,
    ):
        log.step = finished  # type: ignore[method-assign]
        run = Run(
            learner=method,
            module=module,
            optimizer=build_optimizer(method, config.optim),
            scaler=LossScaler(config.precision == "fp16"),
            batches=SameViews(config, world),  # type: ignore[arg-type]
            schedule=effective(config.schedule, config.batch_size, config.steps),
            log=log,
            health=Health(HealthConfig(every=0, spike=0), Path(folder), world),
            world=world,
            saves=Saves(lambda step: None),
            steps=config.steps,
            batch_size=config.batch_size,
            samples_per_epoch=10**6,
            seed=config.seed,
            precision=config.precision,
            accumulate=config.accumulate,
        )
        train(run)
    return [end - begin for begin, end in pairwise(ends)]
