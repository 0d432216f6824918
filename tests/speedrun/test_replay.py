"""Steps that are recorded once and replayed are the steps that would have been launched."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import torch
from torch import nn

from seer.data.crops.options import View
from seer.distributed import World
from seer.engine.learner import Step
from seer.engine.step import forward_backward
from seer.methods.swav import SwAV, SwAVConfig
from seer.speedrun import replay
from seer.speedrun.resident import ResidentBatches
from tests.kit.networks import ConvNet

LATE = Step(9, 10, measure=False)


class Launches:
    """A step's loss and gradients. In place of a CUDA graph, what was launched within one is
    launched again, into the tensors that it gave.
    """

    def __init__(self, method: nn.Module):
        self.method = method
        self.parameters = [p for p in method.parameters() if p.requires_grad]

    def __call__(self, views, step):
        self.views, self.step = views, step
        self.loss = forward_backward(self.method, self.method, views, step).loss
        return self.loss

    @contextmanager
    def recording(self, graph):
        yield
        self.recorded = [p.grad for p in self.parameters]

    def replay(self):
        loss, views = self.loss, self.views
        self.method.zero_grad(set_to_none=True)
        loss.copy_(self(views, self.step))
        self.loss = loss
        for kept, parameter in zip(self.recorded, self.parameters, strict=True):
            kept.copy_(parameter.grad)
            parameter.grad = None


def trained(record, monkeypatch) -> tuple[list[torch.Tensor], list[float]]:
    """The weights after five steps, of which the prototypes are frozen for two, and the losses."""
    torch.manual_seed(0)
    method = SwAV(ConvNet(), SwAVConfig(head=[8, 4], prototypes=6, freeze=0.4))
    pixels = torch.randint(0, 256, (20, 8, 8, 3), dtype=torch.uint8)
    views = {"large": View(size=6, blur=0.0)}
    batches = ResidentBatches(pixels, views, 4, 0, [0.5] * 3, [0.2] * 3, World())
    launches = Launches(method)
    fakes = {
        "Stream": lambda: SimpleNamespace(wait_stream=lambda stream: None),
        "current_stream": lambda: SimpleNamespace(wait_stream=lambda stream: None),
        "stream": lambda stream: nullcontext(),
        "CUDAGraph": lambda: launches,
        "graph": launches.recording,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    first = next(batches.iterate(0, 1))
    of = replay.record(method, launches, first, LATE) if record else launches
    optimizer = torch.optim.SGD(method.parameters(), 0.1)
    losses = []
    prototypes = method.prototypes.weight.clone()
    for number, crops in enumerate(batches.iterate(0, 5)):
        step = Step(number, 5)
        losses.append(float(of(crops, step)))
        assert torch.equal(launches.views.index, crops.index)
        optimizer.step()
        method.after_update(step)
        optimizer.zero_grad(set_to_none=True)
        moved = not torch.allclose(prototypes, method.prototypes.weight)
        assert moved == (number >= 2)
    return [p.detach().clone() for p in method.parameters()], losses


def test_replayed_steps_are_those_that_would_be_launched(monkeypatch):
    weights, losses = trained(True, monkeypatch)
    expected_weights, expected_losses = trained(False, monkeypatch)
    assert losses == expected_losses
    assert len(set(losses)) == 5  # each step had its own batch
    for made, expected in zip(weights, expected_weights, strict=True):
        assert torch.equal(made, expected)


def test_a_preparation_leaves_no_gradient():
    method = SwAV(ConvNet(), SwAVConfig(head=[8, 4], prototypes=6, freeze=0))
    pixels = torch.randint(0, 256, (20, 8, 8, 3), dtype=torch.uint8)
    batches = ResidentBatches(
        pixels, {"large": View(size=6, blur=0.0)}, 4, 0, [0.5] * 3, [0.2] * 3, World()
    )
    weights = [p.detach().clone() for p in method.parameters()]
    gradients = replay.prepare(method, method, next(batches.iterate(0, 1)), LATE, "fp32", True)
    assert not gradients.recorded  # on a CPU
    assert all(p.grad is None for p in method.parameters())
    assert all(torch.equal(p, kept) for p, kept in zip(method.parameters(), weights, strict=True))
