"""What every method owes the engine."""

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
