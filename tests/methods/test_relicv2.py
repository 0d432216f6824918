"""RELICv2's loss against the definition, written out in plain numpy, number by number."""

import numpy as np
import pytest
import torch

from seer.engine.learner import Step
from seer.errors import InputError
from seer.methods import relicv2
from seer.methods.relicv2 import SYMPTOMS, RELICv2, draw_negatives, pair_scores, relic
from tests.methods.tiny import build, make_views

LARGE, CROPS, BATCH, WIDTH, NEGATIVES = 3, 5, 6, 4, 2


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    predictions = torch.randn(CROPS, BATCH, WIDTH, generator=draw, dtype=torch.float64)
    targets = torch.randn(LARGE, BATCH, WIDTH, generator=draw, dtype=torch.float64)
    return predictions, targets, draw_negatives(predictions, targets, NEGATIVES)


def likelihoods(online: np.ndarray, candidates: list[np.ndarray], temperature: float) -> np.ndarray:
    """Softmax over one image's candidates."""
    cosines = [
        online @ candidate / np.linalg.norm(online) / np.linalg.norm(candidate)
        for candidate in candidates
    ]
    powers = np.exp(np.array(cosines) / temperature)
    return powers / powers.sum()


def by_definition(predictions, targets, negatives, temperature: float) -> tuple[float, float]:
    """Contrastive part and divergence, pair by pair and image by image."""
    p, t = predictions.numpy(), targets.numpy()
    contrastive = divergence = 0.0
    for i in range(CROPS):
        for j in range(LARGE):
            for b in range(BATCH):
                images = [b, *((b + int(n)) % BATCH for n in negatives[i, j])]
                own = likelihoods(p[i, b], [t[j, m] for m in images], temperature)
                if i < LARGE:
                    other = likelihoods(p[j, b], [t[i, m] for m in images], temperature)
                else:
                    after = (j + 1) % LARGE
                    other = likelihoods(p[after, b], [t[j, m] for m in images], temperature)
                contrastive -= np.log(own[0])
                divergence += (own * np.log(own / other)).sum()
    terms = CROPS * LARGE * BATCH
    return contrastive / terms, divergence / terms


def test_the_loss_is_its_definition():
    predictions, targets, negatives = drawn()
    found = relic(*pair_scores(predictions, targets, negatives, 0.3))
    expected = by_definition(predictions, targets, negatives, 0.3)
    assert [part.item() for part in found] == pytest.approx(expected, rel=1e-12)
    assert expected[1] > 0.1


def test_a_steps_loss_is_made_of_them(monkeypatch):
    method = build("relicv2", contrastive=0.5, invariance=3.0, temperature=0.3).double()
    views = make_views(dtype=torch.float64)
    features = torch.cat([method.backbone(crops.flatten(0, 1)) for crops in views.crops])
    predictions = method.predictor(method.head(features)).unflatten(0, (4, 4))
    targets = method.teacher(views.crops[0])
    negatives = draw_negatives(predictions, targets, 3)
    monkeypatch.setattr(relicv2, "draw_negatives", lambda *_: negatives)
    contrastive, invariance = relic(*pair_scores(predictions, targets, negatives, 0.3))
    output = method(views, Step(0, 10))
    torch.testing.assert_close(output.loss, 0.5 * contrastive + 3 * invariance, rtol=1e-10, atol=0)
    assert output.metrics["log_candidates"].item() == pytest.approx(np.log(4))


def test_the_gradient_is_of_one_side():
    predictions, targets, negatives = drawn()
    targets.requires_grad_()
    references = pair_scores(predictions, targets, negatives, 0.3)[1]
    assert not references.requires_grad

    def loss(p: torch.Tensor) -> torch.Tensor:
        scores, _ = pair_scores(p, targets, negatives, 0.3)
        return sum(relic(scores, references))

    assert torch.autograd.gradcheck(loss, predictions.clone().requires_grad_())
    online = predictions.clone().requires_grad_()
    sum(relic(*pair_scores(online, targets, negatives, 0.3))).backward()
    fixed = predictions.clone().requires_grad_()
    loss(fixed).backward()
    assert torch.equal(online.grad, fixed.grad)
    assert targets.grad is None


def test_negatives_are_other_images_each_once_and_all_as_often():
    torch.manual_seed(0)
    predictions, targets = torch.empty(40, 9, 2), torch.empty(50, 9, 2)
    negatives = draw_negatives(predictions, targets, 3)
    assert negatives.shape == (40, 50, 3)
    assert ((negatives >= 1) & (negatives <= 8)).all()
    assert (negatives.sort(-1).values.diff(dim=-1) > 0).all()
    counts = negatives.flatten().bincount(minlength=9)[1:]
    assert counts.float().std() / counts.float().mean() < 0.1
    assert draw_negatives(predictions, targets, 100).shape == (40, 50, 8)


def test_crops_that_are_alike_diverge_from_nothing():
    one = torch.randn(1, BATCH, WIDTH, dtype=torch.float64)
    alike = one.expand(LARGE, -1, -1)
    negatives = draw_negatives(alike, alike, NEGATIVES)
    _, divergence = relic(*pair_scores(alike, alike, negatives, 0.3))
    assert divergence.abs() < 1e-12


def test_symptoms():
    chance, same = SYMPTOMS
    nothing = torch.zeros(CROPS, LARGE, BATCH, 1 + NEGATIVES)
    contrastive, _ = relic(nothing, nothing)
    assert chance.test({"contrastive": contrastive.item(), "log_candidates": np.log(3)})
    assert not chance.test({"contrastive": 0.9, "log_candidates": np.log(3)})
    assert same.test({"target_spread": 0.01})
    assert not same.test({"target_spread": 0.5})


def test_wrong_input():
    views = make_views()
    one_large = type(views)((views.crops[0][:1], *views.crops[1:]), views.index)
    with pytest.raises(InputError, match=r"views\.large\.count=2"):
        build("relicv2")(one_large, Step(0, 1))
    with pytest.raises(InputError, match=r"batch_size: .* give 2 or more"):
        build("relicv2")(make_views(batch=1), Step(0, 1))
    with pytest.raises(InputError, match=r"method.predictor=\[16, 5\]"):
        build("relicv2", predictor=[16, 5])
    warnings = RELICv2.warnings(RELICv2.Config(negatives=8), 8, 9)
    assert warnings == ["method.negatives=8: a batch of 8 has 7 other images, which are taken"]
    assert not RELICv2.warnings(RELICv2.Config(negatives=7), 8, 9)
