"""Oracles: lightly's losses on the same tensors, and numerical gradients."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NegativeCosineSimilarity, NTXentLoss, SwaVLoss

from seer.methods.losses import nt_xent, regression, swapped_prediction
from seer.methods.sinkhorn import sinkhorn


def rand(*shape, grad=False):
    return torch.randn(*shape, dtype=torch.float64).requires_grad_(grad)


@pytest.mark.parametrize("crops", [2, 6])
@pytest.mark.parametrize("queue", [0, 7])
def test_swapped_prediction_equals_lightly(crops, queue):
    scores, remembered = (
        F.normalize(rand(crops, 5, 9), dim=-1),
        F.normalize(rand(2, queue, 9), dim=-1),
    )
    assignments, _ = sinkhorn(torch.cat([scores[:2], remembered], 1), 0.05, 3)
    ours = swapped_prediction(scores, assignments[:, :5], [0, 1], 0.1)
    theirs = SwaVLoss(0.1, 3, 0.05)(
        list(scores[:2]), list(scores[2:]), list(remembered) if queue else None
    )
    torch.testing.assert_close(ours, theirs.squeeze(), rtol=1e-12, atol=0)


def test_swapped_prediction_from_one_crop():
    scores, assignments = rand(3, 5, 9), rand(1, 5, 9).softmax(-1)
    pairs = [F.cross_entropy(scores[v] / 0.1, assignments[0]) for v in (0, 2)]
    torch.testing.assert_close(
        swapped_prediction(scores, assignments, [1], 0.1), sum(pairs) / 2, rtol=1e-12, atol=0
    )


def test_swapped_prediction_without_knowledge_is_log_k():
    scores, assignments = torch.zeros(2, 4, 50), torch.rand(2, 4, 50).softmax(-1)
    torch.testing.assert_close(
        swapped_prediction(scores, assignments, [0, 1], 0.1).item(), math.log(50)
    )


@pytest.mark.parametrize("batch", [1, 6])
def test_nt_xent_equals_lightly(batch):
    z = rand(2, batch, 10)
    ours, accuracy = nt_xent(z, 0.2)
    torch.testing.assert_close(ours, NTXentLoss(0.2)(z[0], z[1]), rtol=1e-12, atol=0)
    assert 0 <= accuracy <= 1


def test_nt_xent_of_more_views_finds_each_among_other_images():
    """By the definition, a pair at a time."""
    z = rand(3, 4, 5)
    unit = z / z.norm(dim=2, keepdim=True)
    pairs = []
    for view, image, other in product(range(3), range(4), range(3)):
        if view == other:
            continue
        anchor = unit[view, image]
        elsewhere = torch.cat([unit[:, :image], unit[:, image + 1 :]], 1).flatten(0, 1)
        positive = (anchor @ unit[other, image] / 0.2).exp()
        pairs.append(-(positive / (positive + (elsewhere @ anchor / 0.2).exp().sum())).log())
    loss, accuracy = nt_xent(z, 0.2)
    torch.testing.assert_close(loss, torch.stack(pairs).mean())
    similarities = torch.einsum("vbd,wcd->vbwc", unit, unit).reshape(12, 12).fill_diagonal_(-9)
    hits = similarities.argmax(1) % 4 == torch.arange(12) % 4
    assert accuracy == hits.float().mean()


def test_nt_xent_of_one_image_has_nothing_to_tell_it_from():
    z = rand(2, 1, 5, grad=True)
    loss, accuracy = nt_xent(z, 0.2)
    loss.backward()
    assert (loss, accuracy) == (0, 1)
    assert z.grad.eq(0).all()


def test_nt_xent_accuracy():
    z = torch.eye(4)
    assert nt_xent(torch.stack([z, z]), 0.1)[1] == 1
    assert nt_xent(torch.stack([z, z.roll(1, 0)]), 0.1)[1] == 0


def test_regression_equals_lightly():
    p, t = rand(2, 5, 7), rand(2, 5, 7)
    cosine = NegativeCosineSimilarity()
    theirs = (2 + 2 * cosine(p[0], t[1])) + (2 + 2 * cosine(p[1], t[0]))
    torch.testing.assert_close(regression(p, t), theirs, rtol=1e-12, atol=0)


def test_regression_of_more_predictions_than_targets():
    p, t = rand(3, 5, 7), rand(2, 5, 7)
    pairs = [(1, 0), (2, 0), (0, 1), (2, 1)]
    theirs = [
        (F.normalize(p[v], dim=1) - F.normalize(t[i], dim=1)).square().sum(1).mean()
        for v, i in pairs
    ]
    torch.testing.assert_close(regression(p, t), 2 * sum(theirs) / 4, rtol=1e-12, atol=0)


def test_gradients():
    targets = rand(2, 3, 5).softmax(-1)
    assert torch.autograd.gradcheck(
        lambda s: swapped_prediction(s, targets, [0, 1], 0.3), rand(3, 3, 5, grad=True)
    )
    assert torch.autograd.gradcheck(lambda z: nt_xent(z, 0.3)[0], rand(2, 3, 5, grad=True))
    assert torch.autograd.gradcheck(lambda z: nt_xent(z, 0.3)[0], rand(4, 3, 5, grad=True))
    assert torch.autograd.gradcheck(lambda p: regression(p, targets), rand(3, 3, 5, grad=True))


def test_no_gradient_to_byols_target():
    p, t = rand(2, 3, 5, grad=True), rand(2, 3, 5, grad=True)
    regression(p, t).backward()
    assert p.grad is not None
    assert t.grad is None


def test_mixed_precision_does_not_reach_them():
    z, targets = torch.randn(2, 6, 10), torch.rand(2, 6, 10).softmax(-1)
    losses = [
        lambda: nt_xent(z, 0.1)[0],
        lambda: regression(z, targets),
        lambda: swapped_prediction(z, targets, [0, 1], 0.1),
    ]
    for loss in losses:
        expected = loss()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(loss(), expected)
