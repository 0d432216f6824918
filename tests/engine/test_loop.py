"""The loop: what is applied, when, and what is not."""

import json
from collections.abc import Container
from dataclasses import replace

import pytest
import torch
from torch import nn

from seer.data.views import Views
from seer.distributed import World
from seer.engine.bank import banks_of
from seer.engine.health import Health, HealthConfig, RollbackError
from seer.engine.learner import Output, Step
from seer.engine.loop import Run, Saves, gradients, train
from seer.engine.metrics import LogConfig, RunLog
from seer.engine.optim import LossScaler, OptimConfig, build_optimizer
from seer.engine.schedule import ScheduleConfig
from seer.errors import DivergedError, StoppedError
from seer.methods import METHODS
from seer.methods.base import Method
from tests.methods import tiny


class Mean(Method):
    """Loss: the squared distance of a weight from the mean of the batch. Notes what the loop calls."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.calls: list[tuple[str, int]] = []

    def forward(self, views: Views, step: Step) -> Output:
        self.calls.append(("forward", step.number))
        distance = self.weight - views.crops[0].mean((0, 1, 3, 4))
        return Output(distance.square().sum(), {"first": distance[0].detach()})

    def before_epoch(self, step, survey) -> None:
        self.calls.append(("before_epoch", 0))

    def after_backward(self, step: Step) -> None:
        assert self.weight.grad is not None
        self.calls.append(("after_backward", step.number))

    def after_update(self, step: Step) -> None:
        self.calls.append(("after_update", step.number))


class Batches:
    wait_seconds = 0.25
    seen = 0
    work_seconds: dict[str, float] = {}  # noqa: RUF012

    def __init__(self, poisoned=()):
        self.poisoned = poisoned

    def views(self, step: int) -> Views:
        crops = torch.randn(
            2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(step), dtype=torch.float64
        )
        return Views((crops * float("nan") if step in self.poisoned else crops,), torch.arange(4))

    def iterate(self, start, stop, skipped=()):
        return (self.views(step) for step in range(start, stop) if step not in skipped)

    def survey(self, epoch):
        return iter([self.views(0)])


@pytest.fixture
def run(tmp_path):
    logs: list[RunLog] = []

    def build(poisoned=(), steps=6, **more) -> Run:
        method = Mean()
        optimizer = build_optimizer(method, OptimConfig(larc=False, momentum=0.0, weight_decay=0.0))
        log = RunLog(tmp_path, LogConfig(every=1, tensorboard=False), World(), steps)
        logs.append(log)
        saved: list[int] = []
        made = Run(
            learner=method,
            module=method,
            optimizer=optimizer,
            scaler=LossScaler(False),
            batches=Batches(poisoned),
            schedule=ScheduleConfig("constant", 0.1),
            log=log,
            health=Health(HealthConfig(), tmp_path, World()),
            world=World(),
            saves=Saves(saved.append, 4),
            steps=steps,
            batch_size=4,
            samples_per_epoch=8,
            seed=0,
            precision="fp64",
            **more,
        )
        made.saved = saved
        return made

    yield build
    for log in logs:
        log.close()


def test_every_step_goes_down_the_gradient_of_its_batch(run):
    made = run()
    train(made)
    expected = torch.zeros(3, dtype=torch.float64)
    for step in range(6):
        expected -= 0.1 * 2 * (expected - made.batches.views(step).crops[0].mean((0, 1, 3, 4)))
    assert torch.allclose(made.learner.weight.data, expected, atol=1e-14)
    assert made.saved == [4, 6]


def test_the_order_of_calls_and_the_epochs(run):
    made = run(steps=3)  # an epoch is two steps
    train(made)
    one = [("forward", 0), ("after_backward", 0), ("after_update", 0)]
    rest = [[(name, step) for name, _ in one] for step in (1, 2)]
    proof = [("forward", 2), ("after_backward", 2)]  # of the last update
    assert made.learner.calls == [
        ("before_epoch", 0),
        *one,
        *rest[0],
        ("before_epoch", 0),
        *rest[1],
        *proof,
    ]


def test_a_continued_run_does_not_begin_its_epoch_again(run):
    made = run(steps=2)
    train(made, start=1)
    step = ["forward", "after_backward", "after_update"]
    # The last update is proven.
    assert [name for name, _ in made.learner.calls] == [*step, *step[:2]]


def test_a_loss_that_jumps_with_new_targets_is_no_spike(run):
    """After the first epoch, of 64 steps, the loss is a hundred times as large."""

    class Renewed(Mean):
        def forward(self, views: Views, step: Step) -> Output:
            output = super().forward(views, step)
            return replace(output, loss=output.loss * 0.01 + 10 ** (2 * int(step.epoch)))

    def trained(new_targets: bool) -> Run:
        made = replace(run(steps=128), samples_per_epoch=256)
        made.learner = made.module = Renewed()
        made.learner.new_targets = new_targets
        made.optimizer = build_optimizer(made.learner, OptimConfig(larc=False, weight_decay=0.0))
        train(made)
        return made

    with pytest.raises(RollbackError, match="robust deviations above"):
        trained(new_targets=False)
    made = trained(new_targets=True)
    assert made.learner.calls.count(("before_epoch", 0)) == 2
    assert len(made.health.state_dict()["losses"]) == 64  # what a continued run would have


def test_a_step_that_is_not_finite_is_not_applied(run, tmp_path):
    poisoned, clean = run(poisoned={2, 3}), run()
    train(poisoned)
    weight = torch.zeros(3, dtype=torch.float64)
    for step in (0, 1, 4, 5):
        weight -= 0.1 * 2 * (weight - clean.batches.views(step).crops[0].mean((0, 1, 3, 4)))
    assert torch.allclose(poisoned.learner.weight.data, weight, atol=1e-14)
    assert ("after_update", 2) not in poisoned.learner.calls
    poisoned.log.close()
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert [loss is None for loss in losses] == [False, False, True, True, False, False]


def test_three_such_steps_in_a_row_lead_back(run):
    made = run(poisoned={1, 2, 3})
    with pytest.raises(RollbackError, match="3 steps in a row") as raised:
        train(made)
    assert (raised.value.first, raised.value.last) == (1, 4)  # and the one before them
    assert torch.isfinite(made.learner.weight).all()
    assert made.saved == []


def test_a_save_that_falls_on_a_step_that_is_not_applied_waits_for_the_next(run):
    made = run(poisoned={3})
    train(made)
    assert made.saved == [5, 6]


def test_a_stop_waits_for_a_step_that_is_applied(run):
    made = run(poisoned={1, 2})
    made.asked.by = "SIGTERM"
    with pytest.raises(StoppedError, match="stopped after step 4 as asked"):
        train(made, start=1)
    assert made.saved == [4]


def test_saves_come_by_the_clock_too(run):
    made = run(steps=9)
    clock = iter([False, True, False, False, False, True, False, False, False])
    made.saves.late = lambda: next(clock)
    train(made)
    assert made.saved == [2, 4, 6, 8, 9]


def test_a_save_is_confirmed_by_the_next_step_and_the_first_and_last_at_once(run):
    made, calls = run(steps=9), []
    made.saves = Saves(lambda step: calls.append(f"save {step}"), 4, confirm=lambda: calls.append("good"),
                       finish=lambda: calls.append("finish"))  # fmt: skip
    train(made)
    one = ["good"]  # what a step says before its update, of the state that it found
    assert calls == [
        *4 * one,
        "save 4",
        "good",
        *4 * one,
        "save 8",
        *one,
        "save 9",
        "good",
        "finish",
    ]


def test_an_update_that_breaks_something_is_taken_back_even_if_it_is_the_last(run):
    made = run(steps=3)
    made.learner.after_update = lambda step: made.learner.weight.data.fill_(
        1e200 if step.number == 2 else 0.0
    )
    with pytest.raises(
        RollbackError, match="loss or gradient is not finite after this step's update"
    ) as raised:
        train(made)
    assert (raised.value.first, raised.value.last) == (3, 3)


def test_a_run_whose_last_steps_are_passed_over_is_not_done(run, tmp_path):
    made = run(steps=6)
    made.health.skipped = frozenset({3, 4, 5})
    with pytest.raises(
        DivergedError, match="the run is not done: steps 4 to 6, the last ones, diverged"
    ):
        train(made)
    assert made.saved == [3]
    assert json.loads((tmp_path / "health.jsonl").read_text())["event"] == "diverged"


def test_micro_batches_give_the_mean_gradient(run):
    made = run(accumulate=2)
    views = made.batches.views(0)
    output = gradients(made, views, Step(0, 6))
    means = [part.crops[0].mean((0, 1, 3, 4)) for part in views.chunk(2)]
    assert [len(part.index) for part in views.chunk(2)] == [2, 2]
    assert torch.allclose(made.learner.weight.grad, -(means[0] + means[1]))
    assert torch.allclose(output.loss, sum(mean.square().sum() for mean in means) / 2)


def test_loss_scaling_leaves_the_update_alone(run):
    plain, scaled = run(), run()
    scaled.scaler = LossScaler(True, scale=2.0**10)
    train(plain)
    train(scaled)
    assert torch.allclose(plain.learner.weight, scaled.learner.weight, atol=1e-14)


def test_a_scale_that_cannot_fall_further_ends_the_run(run):
    made = run(poisoned=range(100), steps=100)
    made.scaler = LossScaler(True, scale=4.0)
    with pytest.raises(RollbackError) as raised:
        train(made)
    assert (raised.value.first, raised.value.last) == (2, 5)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_that_is_not_applied_leaves_everything_as_it_was(run, name):
    """BatchNorm's statistics, queue, teacher and prototypes too; and nothing of it is left for the
    next step.
    """

    def state(made: Run) -> dict[str, torch.Tensor]:
        banks = {name: bank.rows for name, bank in banks_of(made.learner).items()}
        return {key: tensor.clone() for key, tensor in (made.learner.state_dict() | banks).items()}

    disturbed, one_step = run_of(name, run, poisoned={1, 2}), run_of(name, run)
    with pytest.raises(RollbackError):  # at the end of the run
        train(disturbed)
    train(replace(one_step, steps=1))
    before, after = state(one_step), state(disturbed)
    assert before.keys() == after.keys()
    assert not [key for key in before if not torch.equal(before[key], after[key])]
    assert all(torch.isfinite(tensor).all() for tensor in after.values())


@pytest.mark.parametrize("name", METHODS)
def test_losses_count_from_where_targets_are_new(run, name):
    """Which is at each epoch of DeepCluster's, of four steps here."""
    made = replace(run_of(name, run), steps=6, samples_per_epoch=16)
    train(made)
    assert len(made.health.state_dict()["losses"]) == (2 if name == "deepcluster" else 6)


def run_of(name: str, run, poisoned: Container[int] = ()) -> Run:
    """Of three steps of a small method."""
    options = {"queue": 4, "freeze": 0} if name == "swav" else {}
    method, loader = tiny.build(name, **options).double(), Batches(poisoned)
    loader.views = lambda step: poison(
        tiny.views_for(name, seed=step, dtype=torch.float64), step in poisoned
    )
    return replace(
        run(steps=3),
        learner=method,
        module=method,
        optimizer=build_optimizer(method, OptimConfig()),
        batches=loader,
        samples_per_epoch=100,
    )


def poison(views: Views, bad: bool) -> Views:
    """The same, or with one value that is not a number in one image."""
    if bad:
        views.crops[0][1, 2, 0, 3, 3] = float("nan")
    return views
