"""Health: what is measured, against numpy and by hand; what is decided, and that all ranks decide
the same.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from seer import jsonl
from seer.distributed import World, rank, size
from seer.engine.health import Health, HealthConfig, RollbackError, embedding_metrics, robust
from seer.engine.preempt import Verdict
from seer.engine.symptoms import COLLAPSE
from seer.errors import InputError, PausedError
from seer.methods.prototypes import PROTOTYPES
from seer.processes import spawn
from seer.schema import check_options

# What SwAV's small recipe logged on CIFAR-10 (K = 512, batch 64): after 100 steps, at its end, and,
# with epsilon=10 and then without BatchNorm in the head, after 50 steps.
HEALTHY = {
    "loss": 5.967,
    "embedding_std": 0.759,
    "effective_rank": 4.375,
    "assignment_entropy": 5.144,
}
HEALTHY |= {
    "sinkhorn_imbalance": 0.199,
    "perplexity": 60.4,
    "prototypes_empty": 0.0,
    "log_prototypes": 6.238,
}
TRAINED = HEALTHY | {
    "loss": 4.305,
    "embedding_std": 0.918,
    "effective_rank": 22.7,
    "assignment_entropy": 2.429,
}
FLAT = HEALTHY | {
    "loss": 6.239,
    "effective_rank": 1.6,
    "assignment_entropy": 6.238,
    "perplexity": 2.169,
}
COLLAPSED = FLAT | {"embedding_std": 0.0082}


def rankme(embeddings: np.ndarray) -> float:
    """As Garrido et al. define it."""
    singular = np.linalg.svd(embeddings, compute_uv=False)
    p = singular / singular.sum()
    return float(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()))


@pytest.mark.parametrize("shape", [(40, 16), (10, 16), (600, 4), (3, 600)])
def test_effective_rank_is_that_of_numpys_singular_values(shape):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=shape) * np.geomspace(1, 1e-3, shape[1]) + 0.5
    found = embedding_metrics(torch.from_numpy(embeddings))
    rows = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))[:, :512]
    assert found["effective_rank"].item() == pytest.approx(rankme(rows), rel=1e-5)
    deviation = np.sqrt(rows.var(axis=0).sum() / np.square(rows).sum(axis=1).mean())
    assert found["embedding_std"].item() == pytest.approx(deviation, rel=1e-9)


def test_what_can_be_counted_by_hand():
    one_for_all = embedding_metrics(torch.ones(8, 4))
    assert one_for_all["effective_rank"].item() == pytest.approx(1.0, abs=1e-5)
    assert one_for_all["embedding_std"].item() == pytest.approx(0.0, abs=1e-7)
    axes = embedding_metrics(torch.cat([torch.eye(4), -torch.eye(4)]))  # every axis, both ways
    assert axes["effective_rank"].item() == pytest.approx(4.0)
    assert axes["embedding_std"].item() == pytest.approx(1.0)
    plane = embedding_metrics(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).repeat(5, 1))
    assert plane["effective_rank"].item() == pytest.approx(2.0)
    assert plane["embedding_std"].item() == pytest.approx(math.sqrt(0.5))


def _measured(embeddings: torch.Tensor) -> list[float]:
    mine = embeddings.chunk(size())[rank()]
    return [value.item() for value in embedding_metrics(mine).values()]


def test_ranks_measure_together():
    embeddings = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    together = spawn(_measured, 2, embeddings, device="cpu")
    assert together[0] == together[1] == pytest.approx(_measured(embeddings))


def test_robust_deviations():
    assert robust([1.0, 2.0, 3.0, 4.0, 100.0]) == (3.0, 1.4826)
    assert robust([5.0] * 9) == (5.0, 0.05)  # no losses are so equal that a hundredth more is news
    draws = np.random.default_rng(0).normal(50, 3, 20_000)
    assert robust(draws)[1] == pytest.approx(3, rel=0.02)


@pytest.fixture
def make(tmp_path):
    def make(warmup: int = 0, **options) -> Health:
        return Health(HealthConfig(**options), tmp_path, World(), 1, warmup, PROTOTYPES)

    return make


def good(loss: float) -> Verdict:
    return Verdict(True, False, loss)


BAD = Verdict(False, False, math.nan)
NOISE = [2.0 + 0.1 * math.sin(7 * i) for i in range(200)]


def test_a_spike_leads_back(make):
    health = make(spike=20.0)
    assert not any(health.fault(i + 1, good(loss), False) for i, loss in enumerate(NOISE))
    centre, deviation = robust(NOISE[-128:])
    assert health.fault(201, good(centre + 19.9 * deviation), False) is None
    fault = health.fault(202, good(centre + 21 * deviation), False)
    assert isinstance(fault, RollbackError)
    assert (fault.first, fault.last) == (201, 202)
    assert "robust deviations above" in fault.why
    off = make(spike=0.0)
    assert not any(off.fault(i + 1, good(loss), False) for i, loss in enumerate([*NOISE, 1e9]))


def test_too_few_losses_say_nothing(make):
    health = make()
    assert not any(
        health.fault(i + 1, good(loss), False) for i, loss in enumerate([*NOISE[:31], 1e9])
    )


def test_bad_steps_in_a_row_lead_back(make, tmp_path):
    health = make(patience=3)
    verdicts = [good(1.0), BAD, BAD, good(1.0), BAD, BAD, BAD]
    faults = [health.fault(step, verdict, False) for step, verdict in enumerate(verdicts, 11)]
    assert faults[:-1] == [None] * 6
    assert (faults[-1].first, faults[-1].last) == (14, 17)
    assert [row["step"] for row in jsonl.read(tmp_path / "health.jsonl")] == [12, 13, 15, 16, 17]
    assert not any(health.fault(step, BAD, excused=True) for step in range(20, 40))


def test_decisions_do_not_depend_on_where_a_run_was_interrupted(make):
    losses = [*NOISE, 9.0]
    whole = make()
    at_once = [bool(whole.fault(i, good(loss), False)) for i, loss in enumerate(losses)]
    health, in_parts = make(), []
    for i, loss in enumerate(losses):
        in_parts.append(bool(health.fault(i, good(loss), False)))
        state = json.loads(json.dumps(health.state_dict()))
        health = make()
        health.load_state_dict(state)
    assert in_parts == at_once
    assert at_once == [False] * 200 + [True]


def test_measurements_are_due_in_logged_rows(tmp_path):
    def rows(log_every: int, every: int) -> list[int]:
        health = Health(HealthConfig(every=every), tmp_path, World(), log_every)
        logged = [step for step in range(1, 301) if step == 1 or step % log_every == 0]
        return [step for step in logged if health.measure(step, torch.eye(4))]

    assert rows(10, 50) == [1, 50, 100, 150, 200, 250, 300]
    assert rows(1, 100) == [100, 200, 300]
    assert rows(100, 50) == [1, 100, 200, 300]
    assert rows(20, 50) == [1, 60, 100, 160, 200, 260, 300]
    assert rows(10, 0) == []


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (HEALTHY, set()),
        (TRAINED, set()),
        (FLAT, {"dimensional_collapse", "loss_at_chance", "flat_assignments", "few_prototypes"}),
        (
            COLLAPSED,
            {
                "collapse",
                "dimensional_collapse",
                "loss_at_chance",
                "flat_assignments",
                "few_prototypes",
            },
        ),
        (HEALTHY | {"sinkhorn_imbalance": 0.7}, {"unequal_prototypes"}),
        (HEALTHY | {"prototypes_empty": 3.0}, {"empty_prototypes"}),
        (
            {"loss": 0.4, "embedding_std": 0.01, "effective_rank": 20.0},
            {"collapse"},
        ),  # a method without prototypes
        ({"loss": math.nan, "embedding_std": math.nan, "effective_rank": 20.0}, set()),
    ],
)
def test_symptoms_are_known_by_their_numbers(values, names):
    known = {**values, "batch": 64}
    shown = {symptom.name: symptom for symptom in (*COLLAPSE, *PROTOTYPES) if symptom.shown(known)}
    assert shown.keys() == names
    assert all("{" not in symptom.why(known) for symptom in shown.values())


def test_a_symptom_is_told_once_and_when_it_has_gone(make, tmp_path):
    health = make(patience=2, grace=100, warmup=50, every=1)
    for step in (50, 100, 149):
        assert health.judge(step, COLLAPSED, 64) is None  # too early to tell
    for step, values in enumerate([COLLAPSED, HEALTHY, FLAT, FLAT, FLAT, HEALTHY, HEALTHY], 150):
        assert health.judge(step, values, 64) is None
    events = jsonl.read(tmp_path / "health.jsonl")
    assert {(row["step"], row["event"], row["name"]) for row in events} == {
        (step, event, name)
        for step, event in ((153, "symptom"), (155, "recovered"))
        for name in ("dimensional_collapse", "loss_at_chance", "flat_assignments", "few_prototypes")
    }
    # A row without a measurement.
    assert make(patience=1, grace=0, every=50).judge(160, COLLAPSED, 64) is None
    assert (
        make(patience=1, grace=0, act="pause", every=1).judge(
            160, COLLAPSED | {"loss": math.nan}, 64
        )
        is None
    )


def test_what_a_symptom_leads_to(make):
    pausing = make(patience=1, grace=0, act="pause")
    paused = pausing.judge(50, COLLAPSED, 64)
    assert isinstance(paused, PausedError)
    assert paused.exit_code == 2
    assert "paused after step 50: all images get nearly the same embedding" in str(paused)
    assert "lower schedule.peak" in str(paused)
    assert pausing.judge(100, COLLAPSED, 64) is None  # the same command continues it
    going_back = make(patience=2, grace=0, act="rollback")
    assert [going_back.judge(step, v, 64) for step, v in ((50, HEALTHY), (100, COLLAPSED))] == [
        None,
        None,
    ]
    fault = going_back.judge(150, COLLAPSED, 64)
    assert isinstance(fault, RollbackError)
    assert (fault.first, fault.last, fault.named) == (51, 150, False)


@pytest.mark.parametrize(
    "wrong", [{"act": "panic"}, {"every": -1}, {"patience": 0}, {"window": 3}, {"rollbacks": -1}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(InputError, match="health"):
        check_options(HealthConfig(**wrong), "health")


def test_the_guide_has_every_symptom_and_setting():
    guide = (Path(__file__).parents[2] / "docs/health.md").read_text()
    missing = [s.name for s in (*COLLAPSE, *PROTOTYPES) if f"`{s.name}`" not in guide]
    missing += [
        name for name in HealthConfig.__dataclass_fields__ if f"`health.{name}" not in guide
    ]
    missing += [action for action in ("none", "pause", "rollback") if f"`{action}`" not in guide]
    assert not missing
