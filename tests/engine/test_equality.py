"""SwAV and RELICv2 through the whole engine: two and four processes, however laid out, give what one
process gives.

Compared are losses, parameters, BatchNorm's buffers, queue and teacher, and the optimizer's state,
in float64.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from seer import distributed
from seer.data.views import Views
from seer.distributed import local
from seer.engine import parallel
from seer.engine.checkpoint.tensors import named_state
from seer.engine.health import Health, HealthConfig
from seer.engine.loop import Run, Saves, train
from seer.engine.optim import LossScaler, OptimConfig, build_optimizer
from seer.engine.parallel import ParallelConfig, parallelize
from seer.engine.schedule import ScheduleConfig
from seer.methods import METHODS
from seer.processes import spawn
from tests.engine import tiny
from tests.engine.tiny import full
from tests.kit.networks import ResidualNet

BATCH, STEPS = 16, 3
METHOD = {
    "swav": {"head": [16, 6], "prototypes": 12, "freeze": 1, "queue": 24},
    "relicv2": {"head": [16, 6], "predictor": [16, 6], "momentum": 0.5, "negatives": 5},
}
OPTIM = {
    "swav": OptimConfig(larc_trust=0.1),
    "relicv2": OptimConfig("lars", larc_trust=0.1, clip_grad=0.2),
}
LAYOUTS = {
    "ddp": ParallelConfig("ddp"),
    "fsdp": ParallelConfig("fsdp", [[1, 3], [1]]),
    "hybrid": ParallelConfig("fsdp", shard_group=2),
}
# Which layouts are tried with so many processes, and in how many micro-batches: the last of two
# does what one does.
CASES = {
    2: [("ddp", 1), ("ddp", 2), ("fsdp", 2)],
    4: [("fsdp", 1), ("hybrid", 2)],
}


@dataclass
class Parts:
    """This rank's part of each step's batch, every micro-batch of which is shared evenly by the
    ranks.
    """

    accumulate: int
    wait_seconds, seen = 0.0, 0

    @property
    def work_seconds(self) -> dict[str, float]:
        return {}

    def iterate(self, start: int, stop: int, skip: Collection[int] = ()) -> Iterator[Views]:
        for number in range(start, stop):
            draw = torch.Generator().manual_seed(number)
            crops = (
                torch.randn(v, BATCH, 3, s, s, generator=draw, dtype=torch.float64)
                for v, s in ((2, 12), (2, 8))
            )
            yield Views(tuple(self._mine(c, 1) for c in crops), self._mine(torch.arange(BATCH), 0))

    def _mine(self, tensor: Tensor, dim: int) -> Tensor:
        parts = tensor.unflatten(dim, (self.accumulate, distributed.size(), -1))
        return parts.select(dim + 1, distributed.rank()).flatten(dim, dim + 1)


@dataclass
class Result:
    losses: list[float]
    state: dict[str, Tensor]
    held: int  # numbers that this rank held


def trained(name: str, layout: ParallelConfig, accumulate: int = 1) -> Result:
    world, optim = distributed.init("cpu"), OPTIM[name]
    torch.manual_seed(0)
    method = METHODS[name](ResidualNet(), METHODS[name].Config(**METHOD[name]))
    module = parallelize(method, layout, world, "fp64")
    optimizer, losses = build_optimizer(method, optim), []

    def record(step: int, metrics: dict[str, Tensor], *args, **kwargs) -> dict[str, float]:
        losses.append(distributed.all_reduce_mean(metrics["loss"]).item())
        return {}

    health, log = (
        Health(HealthConfig(every=0), Path(), world),
        SimpleNamespace(step=record, due=lambda step: False),
    )
    run = Run(
        learner=method,
        module=module,
        optimizer=optimizer,
        scaler=LossScaler(False),
        batches=Parts(accumulate),
        schedule=ScheduleConfig(peak=0.5),
        log=log,
        health=health,
        world=world,
        saves=Saves(lambda step: None),
        steps=STEPS,
        batch_size=BATCH,
        samples_per_epoch=BATCH,
        seed=0,
        precision="fp64",
        accumulate=accumulate,
        clip_grad=optim.clip_grad,
    )
    train(run)
    state = named_state(method, optimizer)
    return Result(
        losses,
        {key: full(t) for key, t in state.items()},
        sum(local(t).numel() for t in state.values()),
    )


def on_each_rank() -> tuple[dict[tuple[str, str, int], Result], Tensor]:
    """The runs, and this rank's shard of a weight that was drawn in shards."""
    torch.set_num_threads(1)
    parallel.LARGE = 200  # so that some convolutions are gathered by themselves
    cases = CASES[distributed.init("cpu").size]
    runs = {(name, key, n): trained(name, LAYOUTS[key], n) for name in METHOD for key, n in cases}
    deferred = tiny.build(replace(LAYOUTS["hybrid"], deferred_init=True))[0]
    return runs, local(deferred.head[0].weight).detach()


@pytest.fixture(scope="module", params=CASES)
def ranks(request) -> list[tuple[dict, Tensor]]:
    return spawn(on_each_rank, request.param, device="cpu")


@pytest.fixture(scope="module")
def alone() -> dict[tuple[str, int], Result]:
    return {
        (name, n): trained(name, replace(LAYOUTS["ddp"], mode="none"), n)
        for name in METHOD
        for n in (1, 2)
    }


def test_the_runs_are_worth_comparing(alone):
    """Losses move, prototypes after their freeze, the queue is full, statistics and momentum are
    there.
    """
    for (name, accumulate), result in alone.items():
        assert len(result.losses) == STEPS
        assert (
            min(abs(a - b) for a, b in zip(result.losses, result.losses[1:], strict=False)) > 1e-4
        )
        assert result.state["method.backbone.stem.1.num_batches_tracked"] == 2 * accumulate * STEPS
        assert result.state["optimizer.backbone.stem.0.weight.momentum_buffer"].abs().sum() > 0
        assert name != "swav" or result.state["method.queue.pushed"] == BATCH * STEPS
    assert alone["swav", 1].losses != alone["swav", 2].losses


@pytest.mark.slow
def test_processes_equal_one(ranks, alone):
    for results, _ in ranks:
        for (name, _, accumulate), result in results.items():
            expected = alone[name, accumulate]
            torch.testing.assert_close(result.losses, expected.losses, rtol=1e-9, atol=0)
            # A bias before a BatchNorm has rounding errors for a gradient, which LARC magnifies:
            # hence 1e-8.
            torch.testing.assert_close(result.state, expected.state, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_what_each_rank_holds(ranks, alone):
    """FSDP shares everything trained among all ranks, hybrid sharding among two of them; small
    tensors unevenly.
    """
    for name in METHOD:
        whole, size = alone[name, 1].held, len(ranks)
        held = {key: ranks[0][0][name, key, n].held for key, n in CASES[size]}
        assert held.get("ddp", whole) == whole
        assert whole / size < held["fsdp"] < 1.5 * whole / size
        assert size == 2 or whole / 2 < held["hybrid"] < 0.65 * whole


@pytest.mark.slow
def test_deferred_shards_differ_and_their_copies_do_not(ranks):
    drawn = [weight for _, weight in ranks]
    assert not torch.equal(drawn[0], drawn[1])
    assert all(torch.equal(drawn[i], drawn[i - 2]) for i in range(2, len(drawn)))
