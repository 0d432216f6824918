"""An average of weights against the recurrence written out."""

import torch
from torch import nn

from seer.engine.average import Average


def test_it_follows_by_the_recurrence_and_is_put_into_the_modules():
    torch.manual_seed(0)
    modules = [nn.Linear(3, 2), nn.BatchNorm1d(2)]
    average = Average(modules, 0.5)
    assert not any(parameter.requires_grad for parameter in average.parameters())
    expected = [p.detach().clone() for m in modules for p in m.parameters()]
    for step in range(4):
        for parameter in (p for m in modules for p in m.parameters()):
            parameter.data += torch.randn_like(parameter)
        modules[1].running_mean += 1
        average.follow(modules, step)
        decay = min(0.5, (1 + step) / (10 + step))
        live = [p.detach() for m in modules for p in m.parameters()]
        expected = [decay * e + (1 - decay) * p for e, p in zip(expected, live, strict=True)]
    assert average.copies[1].running_mean.tolist() == [0, 0]
    average.put_into(modules)
    for parameter, value in zip(
        (p for m in modules for p in m.parameters()), expected, strict=True
    ):
        torch.testing.assert_close(parameter.detach(), value)
    assert modules[1].running_mean.tolist() == [4, 4]
