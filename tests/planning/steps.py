"""A real step beside the planned one."""

from typing import Any

from torch.profiler import ProfilerActivity, profile

from seer.engine.learner import Learner, Step
from seer.engine.optim import build_optimizer
from seer.engine.options import RunConfig
from seer.planning.footprint import Footprint
from tests.planning.test_footprint import allocations_of, peak_of


def allocated(learner: Learner[Any], batch: Any, config: RunConfig) -> int:
    """The most that a real step has allocated at once beyond what is there before it."""
    optimizer = build_optimizer(learner, config.optim)

    def step() -> None:
        learner(batch, Step(8, 10)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    return peak_of(allocations_of(profiler.profiler.kineto_results.experimental_event_tree()))


def planned(footprint: Footprint) -> int:
    """What a plan has of the same."""
    resident = ("parameters", "optimizer", "inputs")
    return sum(size for kind, size in footprint.memory.items() if kind not in resident)
