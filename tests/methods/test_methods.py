"""What every method owes the engine."""

import math

import pytest
import torch

from seer.config import resolve
from seer.engine.learner import Step
from seer.methods import METHODS
from tests.methods.tiny import begin_epoch, build, train_step, views_for

EVERY = pytest.mark.parametrize("name", METHODS)


@EVERY
def test_built_on_meta_and_initialised_completely(name):
    with torch.device("meta"):
        method = build(name, **({"queue": 8} if name == "swav" else {}))
    method.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*method.parameters(), *method.buffers()):
            tensor.fill_(torch.nan if tensor.is_floating_point() else -1)
    method.reset_parameters()
    for key, tensor in method.state_dict().items():
        assert tensor.isfinite().all(), key
        assert tensor.is_floating_point() or tensor == 0, key
    assert train_step(method, views_for(name), Step(0, 10)).isfinite()


@EVERY
def test_output(name):
    output = build(name)(views_for(name, batch=5), Step(0, 10))
    assert output.loss.shape == ()
    assert output.embeddings.shape == (5, 6)
    assert not output.embeddings.requires_grad
    for key, value in output.metrics.items():
        assert value.shape == (), key
        assert value.isfinite(), key
        assert not value.requires_grad, key


@EVERY
def test_learns(name):
    method, views = build(name), views_for(name, batch=8)
    begin_epoch(method, [views], Step(0, 2000))
    losses = [train_step(method, views, Step(number, 2000)) for number in range(40)]
    # A queue begins with random keys, which are easily told apart from the first images'.
    assert losses[-1] < max(losses[:5]) - 0.2


@EVERY
def test_state_dict_restores_everything(name):
    options = {"queue": 4, "freeze": 0} if name == "swav" else {}
    method, copy = build(name, **options), build(name, seed=1, **options)
    train_step(method, views_for(name), Step(0, 10))
    copy.load_state_dict(method.state_dict())
    for number in (1, 2):
        views, step = views_for(name, seed=number), Step(number, 10)
        assert torch.equal(train_step(method, views, step), train_step(copy, views, step))


SYMPTOMS = [
    ("moco", "loss_at_chance", {"loss": math.log(9), "log_candidates": math.log(9)}, {"loss": 1.0}),
    ("moco", "dead_queue", {"queue_spread": 0.01}, {"queue_spread": 0.9}),
    ("dino", "flat_targets", {"target_entropy": 2.4849, "log_prototypes": math.log(12)}, {"target_entropy": 1.0}),
    ("dino", "constant_targets", {"target_perplexity": 1.0}, {"target_perplexity": 8.0}),
    ("deepcluster", "empty_clusters", {"clusters_empty": 0.7}, {"clusters_empty": 0.1}),
    ("visreg", "no_scale", {"scale": 1.0}, {"scale": 0.3}),
    ("distill", "learns_nothing", {"loss": 1.0}, {"loss": 0.5}),
    ("relicv2", "contrast_at_chance", {"contrastive": 2.3979, "log_candidates": math.log(11)}, {"contrastive": 1.0}),
    ("relicv2", "same_targets", {"target_spread": 0.01}, {"target_spread": 0.9}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "symptom", "ill", "well"), SYMPTOMS)
def test_symptoms_are_known_by_their_numbers(name, symptom, ill, well):
    (own,) = [each for each in METHODS[name].symptoms if each.name == symptom]
    assert own.shown(ill)
    assert not own.shown(ill | well)
    assert "{" not in own.why(ill)


def test_every_symptom_of_the_newer_methods_is_looked_at():
    listed = {(name, symptom) for name, symptom, _, _ in SYMPTOMS}
    newer = set(METHODS) - {"swav", "simclr", "byol"}
    assert listed == {(name, each.name) for name in newer for each in METHODS[name].symptoms}


@pytest.mark.parametrize(
    ("name", "halfway"), [("byol", 0.95), ("moco", 0.9), ("mocov3", 0.95), ("dino", 0.95)]
)
def test_a_teacher_keeps_more_and_more_of_itself_but_mocos(name, halfway):
    method = build(name, momentum=0.9)
    assert method.momentum(Step(0, 10)) == pytest.approx(0.9)
    assert method.momentum(Step(5, 10)) == pytest.approx(halfway)


@EVERY
def test_configuration_is_typed_and_named(name):
    config = METHODS[name].Config()
    assert config.name == name
    assert resolve(METHODS[name].Config, []) == config


@EVERY
def test_runs_on_meta(name):
    """Shapes and costs can be worked out without memory."""
    with torch.device("meta"):
        method = build(name)
    views = views_for(name)
    assert method(views.to("meta"), Step(0, 10)).loss.is_meta
