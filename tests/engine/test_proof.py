"""Whatever breaks a run, and wherever: what is there to go on from is good, and what ends as done
is, too.

`SEER_PROOF_CASES` draws more cases than the suite does.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from seer.data.views import Views
from seer.distributed import World
from seer.engine.checkpoint.checkpointer import CheckpointConfig, Checkpointer
from seer.engine.health import Health, HealthConfig, RollbackError, roll_back
from seer.engine.learner import Output, Step
from seer.engine.loop import Run, Saves, train
from seer.engine.metrics import LogConfig, RunLog
from seer.engine.optim import LossScaler, OptimConfig, build_optimizer
from seer.engine.preempt import StopRequest
from seer.engine.schedule import ScheduleConfig
from seer.errors import DivergedError, StoppedError
from seer.methods.base import Method
from seer.rundir.names import checkpoints, latest

CASES = int(os.environ.get("SEER_PROOF_CASES", 40))
# What an update may leave: what is no number, and what is finite and gives no finite loss, or a
# loss out of all bounds.
RUINS = {"nan": float("nan"), "inf": float("inf"), "huge": 1e28, "far": 1e12}


class KilledError(Exception):
    """Stands for the end of the process, wherever it is."""


@dataclass
class Plan:
    """What befalls a run, by step from 1.

    Attributes:
        bad: batches that are not finite. ruined: updates that break the weights (by a name of `RUINS`) or, where this
            is `momentum`, the optimizer's state. fleeting: the bad batches are so only once.
        ends: for each process but the last, the step at which it ends, and whether it is asked to (or killed).
    """

    steps: int
    bad: frozenset[int]
    ruined: dict[int, str]
    fleeting: bool
    ends: list[tuple[int, bool]]
    every: int
    keep_last: int
    patience: int
    fp16: bool


class Mean(Method):
    """Loss: the squared distance of a weight from the mean of the batch."""

    def __init__(self, plan: Plan):
        super().__init__()
        self.plan = plan
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("updates", torch.zeros(1))
        self.optimizer: torch.optim.Optimizer | None = None

    def forward(self, views: Views, step: Step) -> Output:
        return Output((self.weight - views.crops[0].mean((0, 1, 3, 4))).square().sum())

    @torch.no_grad()
    def after_update(self, step: Step) -> None:
        self.updates.add_(1)
        ruin = self.plan.ruined.get(step.number + 1)
        if ruin == "momentum":
            self.optimizer.state[self.weight]["momentum_buffer"].fill_(float("inf"))
        elif ruin:
            self.weight.fill_(RUINS[ruin])


class Batches:
    """Batches that are bad as planned; the process ends where it is to end."""

    wait_seconds = 0.0
    work_seconds: dict[str, float] = {}  # noqa: RUF012
    seen = 0

    def __init__(
        self, plan: Plan, bad: set[int], end: tuple[int, bool] | None, asked: StopRequest, look
    ):
        self.plan, self.bad, self.end, self.asked, self.look = plan, bad, end, asked, look

    def iterate(self, start, stop, skipped=()):
        for number in range(start, stop):
            if number in skipped:
                continue
            self.look()
            if self.end and number + 1 == self.end[0]:
                if not self.end[1]:
                    raise KilledError
                self.asked.by = "SIGTERM"
            crops = torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(number))
            if number + 1 in self.bad:
                crops *= float("nan")
                if self.plan.fleeting:
                    self.bad.discard(number + 1)
            yield Views((crops,), torch.arange(4))


def is_good(path: Path) -> bool:
    """Whether the weights of a checkpoint and the optimizer's state are finite, and the loss that
    they give, too.
    """
    try:
        (file,) = (path / "state").iterdir()
        tensors = load_file(file)
    except OSError:
        return False
    finite = all(tensor.isfinite().all() for tensor in tensors.values())
    return finite and bool(tensors["method.weight"].square().sum().isfinite())


class Watch:
    """Looks at the checkpoints that can be seen: all are good, and once there was one, there is
    one.
    """

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir
        self.any = False
        self.known: set[Path] = set()

    def __call__(self) -> None:
        # A save under way may put one in the place of another while they are being listed, or read.
        paths = checkpoints(self.run_dir) or checkpoints(self.run_dir)
        for path in set(paths) - self.known:
            assert is_good(path) or not path.exists(), path.name
        self.known = set(paths)
        assert paths or not self.any, "the last good checkpoint is gone"
        self.any = bool(paths)


def process(
    plan: Plan, run_dir: Path, bad: set[int], end: tuple[int, bool] | None, look: Watch
) -> None:
    """One process of a run, as `engine.run` has it, to its end."""
    torch.manual_seed(0)
    method = Mean(plan)
    asked = StopRequest()
    fault: RollbackError | None = None
    first = True
    while fault is not None or first:
        fault = attempt(plan, run_dir, method, asked, Batches(plan, bad, end, asked, look), fault)
        look()
        first = False


def attempt(plan, run_dir, method, asked, batches, fault):
    """As `engine.run.attempt`."""
    optimizer = build_optimizer(method, OptimConfig(larc=False, momentum=0.5, weight_decay=0.0))
    method.optimizer = optimizer
    config = CheckpointConfig(every=plan.every, keep_last=plan.keep_last)
    saves = Checkpointer(run_dir, config, World(), asked)
    load = partial(saves.load, method, optimizer)
    config = HealthConfig(patience=plan.patience, rollbacks=5)
    header = (
        load()
        if fault is None
        else roll_back(fault, load, run_dir, config.rollbacks, World(), lambda step: [])
    )
    health, scaler = Health(config, run_dir, World()), LossScaler(plan.fp16, scale=4.0)
    start = 0
    if header is not None:
        start = header["step"]
        health.load_state_dict(header["health"])
        scaler.load_state_dict(header["scaler"])

    def save(done: int) -> None:
        extra = {"health": health.state_dict(), "scaler": scaler.state_dict()}
        saves.save(done, method, optimizer, extra, proven=False)

    calls = Saves(save, plan.every, saves.late, saves.confirm, saves.finish)
    log = RunLog(run_dir, LogConfig(every=1000, tensorboard=False), World(), plan.steps, start)
    try:
        with log, saves:
            run = Run(
                learner=method,
                module=method,
                optimizer=optimizer,
                scaler=scaler,
                batches=batches,
                schedule=ScheduleConfig("constant", 0.1),
                log=log,
                health=health,
                world=World(),
                saves=calls,
                steps=plan.steps,
                batch_size=4,
                samples_per_epoch=8,
                seed=0,
                precision="fp32",
                asked=asked,
            )
            train(run, start)
    except RollbackError as error:
        return error
    except KilledError:
        with suppress(RollbackError):
            saves.finish()  # its thread must not meet the next process's
        raise
    return None


@st.composite
def plans(draw) -> Plan:
    steps = draw(st.integers(1, 24))
    numbers = st.integers(1, steps)
    return Plan(
        steps,
        draw(st.frozensets(numbers, max_size=6)),
        draw(
            st.dictionaries(numbers, st.sampled_from([*RUINS, "momentum", "momentum"]), max_size=3)
        ),
        draw(st.booleans()),
        draw(st.lists(st.tuples(numbers, st.booleans()), max_size=3)),
        draw(st.integers(0, 6)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
        draw(st.booleans()),
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nothing has to outlive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=CASES == 40,
)
@given(plans())
def test_what_is_left_is_good(plan):
    with TemporaryDirectory() as folder:
        run_dir = Path(folder)
        look = Watch(run_dir)
        bad = set(plan.bad)
        outcome = "done"
        for end in [
            *plan.ends,
            None,
            None,
        ]:  # the same command again changes nothing of what is the end
            try:
                process(plan, run_dir, bad, end, look)
                outcome = "done"
            except (KilledError, StoppedError, DivergedError) as error:
                outcome = type(error).__name__
            look()
        event(outcome)
        assert outcome in ("done", "DivergedError")
        if outcome == "done":
            assert latest(run_dir).name == f"step-{plan.steps:09d}"
        else:
            assert not (run_dir / f"checkpoints/step-{plan.steps:09d}").exists()
