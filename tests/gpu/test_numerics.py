"""Sinkhorn, optimizers, scaling, teachers, queues and signs of collapse, against float64 or Python."""

from collections import deque
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seer.engine.health import embedding_metrics
from seer.engine.optim import LossScaler, build_optimizer, clip_grad_norm
from seer.methods.memory import Queue, Teacher
from seer.methods.sinkhorn import sinkhorn
from seer.methods.swav import assignment_metrics
from tests.gpu.small import OPTIMIZERS, as_vector, distance

PROTOTYPES, SAMPLES = 16_000, 48


def scores_of(samples: int, prototypes: int) -> Tensor:
    """`(2, samples, prototypes)` cosines."""
    draw = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(2, samples, 64, generator=draw), dim=-1)
    directions = F.normalize(torch.randn(prototypes, 64, generator=draw), dim=-1)
    return rows @ directions.T


def published(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Sinkhorn–Knopp as SwAV's paper has it, on one `(N, K)` problem in float64."""
    q = (scores.double() / epsilon).exp().T
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(1, keepdim=True) * q.shape[0]
        q /= q.sum(0, keepdim=True) * q.shape[1]
    return (q / q.sum(0, keepdim=True)).T


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.05, 3), (0.03, 10)])
def test_sinkhorn_of_16000_prototypes(device, epsilon, iterations, measured):
    scores = scores_of(SAMPLES, PROTOTYPES)
    ours, empty = sinkhorn(scores.to(device), epsilon, iterations)
    theirs = torch.stack([published(problem, epsilon, iterations) for problem in scores])
    # Half the sum of differences: the share of a sample that lies on another prototype.
    moved = (ours.cpu().double() - theirs).abs().sum(-1) / 2
    measured("moved", moved.max())
    assert moved.max() < 1e-4
    assert empty == 0
    torch.testing.assert_close(ours.sum(-1).cpu(), torch.ones(2, SAMPLES), rtol=1e-5, atol=0)


def test_metrics_of_assignments(device, deterministic):
    """`scatter_add_` adds ones, and so the same in any order; perplexity by another way."""
    assignments, _ = sinkhorn(scores_of(SAMPLES, 300).to(device), 0.05, 3)
    first, second = (assignment_metrics(assignments) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    votes = assignments.flatten(0, 1).argmax(1).bincount(minlength=300).double().cpu()
    shares = votes[votes > 0] / votes.sum()
    assert first["prototypes_used"] == len(shares)
    perplexity = (-(shares * shares.log()).sum()).exp()
    assert float(first["perplexity"]) == pytest.approx(float(perplexity), rel=1e-5)


def network() -> nn.Module:
    """Matrices, vectors, a scalar, and a matrix of zeros, for which no rate is to be adapted."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5), nn.PReLU())
    net.register_parameter("zeros", nn.Parameter(torch.zeros(4, 4)))
    net.register_parameter("scale", nn.Parameter(torch.tensor(2.0)))
    return net


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(device, name):
    exact = network().double()
    ours = network().to(device).to(memory_format=torch.channels_last)
    config = OPTIMIZERS[name]
    optimizers = [build_optimizer(net, config) for net in (exact, ours)]
    draw = torch.Generator().manual_seed(1)
    for step in range(4):
        for theirs, mine in zip(exact.parameters(), ours.parameters(), strict=True):
            gradient = torch.randn(theirs.shape, generator=draw, dtype=torch.float64)
            gradient *= 0 if step == 1 and theirs.dim() == 4 else 1
            theirs.grad = gradient
            mine.grad = gradient.to(device, torch.float32)
        norms = [clip_grad_norm(net.parameters(), config.clip_grad) for net in (exact, ours)]
        assert distance(norms[1], norms[0]) < 1e-6
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (1 + step)
            optimizer.step()
    for (what, theirs), mine in zip(exact.named_parameters(), ours.parameters(), strict=True):
        assert distance(mine.detach(), theirs.detach()) < 2e-6, what
    assert as_vector(exact.parameters()).isfinite().all()


def test_gradients_are_scaled_and_clipped(device):
    parameters = [nn.Parameter(torch.zeros(5, 3, device=device)) for _ in range(3)]
    draw = torch.Generator().manual_seed(0)
    gradients = [torch.randn(5, 3, generator=draw) for _ in parameters]
    scaler = LossScaler(True, scale=2.0**15)
    loss = scaler.scale(torch.ones((), device=device))
    assert loss == 2.0**15
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.to(device) * 2.0**15
    scaler.unscale(parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert torch.equal(parameter.grad.cpu(), gradient)  # a power of two rounds nothing
    norm = clip_grad_norm(parameters, 0.5)
    expected = as_vector(gradients).norm()
    assert float(norm) == pytest.approx(float(expected), rel=1e-6)
    assert float(as_vector(p.grad for p in parameters).norm()) == pytest.approx(0.5, rel=1e-5)
    parameters[0].grad[0, 0] = float("inf")
    assert not clip_grad_norm(parameters, 0.0).isfinite()


def test_a_teacher_follows(device):
    torch.manual_seed(0)
    backbone = nn.Conv2d(3, 8, 3).to(device)
    head = nn.Linear(8, 4).to(device)
    teacher = Teacher(backbone, head)
    exact = as_vector(teacher.parameters())
    with torch.no_grad():
        for parameter in (*backbone.parameters(), *head.parameters()):
            parameter.normal_()
    student = as_vector([*backbone.parameters(), *head.parameters()])
    for momentum in (0.9, 0.996):
        teacher.follow(backbone, head, momentum)
        exact = momentum * exact + (1 - momentum) * student
    assert distance(as_vector(teacher.parameters()), exact) < 1e-6


def test_a_queue_holds_the_last_rows(device):
    queue = Queue(7, 2).to(device)
    expected: deque[float] = deque(maxlen=7)
    number = 0
    for pushed in (3, 0, 5, 9, 1, 4):
        rows = torch.arange(number, number + pushed, dtype=torch.float32)
        number += pushed
        expected.extend(rows.tolist())
        queue.push(rows[:, None].expand(-1, 2).to(device))
        assert queue.full == (len(expected) == 7)
        assert queue.pushed == number
    assert sorted(queue.share()[:, 0].tolist()) == sorted(expected)


def test_a_queue_knows_what_was_written_into_it(device):
    """Its count is noted on the host; a checkpoint fills the tensors behind its back."""
    queue = Queue(4, 2).to(device)
    assert not queue.full
    queue.state_dict()["pushed"].copy_(torch.tensor(4))
    assert queue.full
    copy = deepcopy(queue)
    copy.clear()
    assert queue.full
    assert not copy.full
    queue.pushed = torch.tensor(3, device=device)
    assert not queue.full
    queue.push(torch.zeros(1, 2, device=device))
    assert queue.full


def test_signs_of_collapse(device):
    draw = torch.Generator().manual_seed(0)
    healthy = torch.randn(64, 32, generator=draw)
    collapsed = torch.ones(64, 32) + 1e-3 * healthy
    for embeddings in (healthy, collapsed):
        ours = embedding_metrics(embeddings.to(device))
        z = F.normalize(embeddings.double(), dim=1)
        singular = torch.linalg.svdvals(z)
        shares = singular / singular.sum()
        rank = torch.special.entr(shares).sum().exp()
        spread = z.std(0, correction=0).square().sum().sqrt()
        assert float(ours["effective_rank"]) == pytest.approx(float(rank), rel=1e-6)
        assert float(ours["embedding_std"]) == pytest.approx(float(spread), rel=1e-6)
    assert float(ours["embedding_std"]) < 0.05
