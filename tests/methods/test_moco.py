"""MoCo v2 and v3 against the definitions, written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss

from seer.engine.learner import Step
from seer.errors import InputError
from seer.methods.losses import contrast
from seer.methods.moco import MoCo
from tests.methods.tiny import build, make_views, train_step


def double(name: str, **options):
    return build(name, **options).double()


def views_of(seed: int = 0, batch: int = 4):
    return make_views(batch=batch, small=0, seed=seed, dtype=torch.float64)


def test_the_loss_is_lightlys_with_the_same_queue():
    draw = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 5, 6, generator=draw, dtype=torch.float64)
    negatives = F.normalize(torch.randn(9, 6, generator=draw, dtype=torch.float64), dim=1)
    theirs = NTXentLoss(0.2, memory_bank_size=(9, 6))
    theirs.memory_bank.bank = negatives.clone()
    theirs.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.long)
    loss, _ = contrast(queries, keys, negatives, 0.2)
    torch.testing.assert_close(loss, theirs(queries, keys), rtol=1e-10, atol=0)


def test_three_steps_are_mocos_algorithm():
    method = double("moco", queue=8, momentum=0.9)
    key_encoder = [p.detach().clone() for p in method.teacher.parameters()]
    queue = method.queue.rows.clone()
    assert torch.allclose(queue.norm(dim=1), torch.ones(8, dtype=torch.float64))
    for number in range(3):
        views = views_of(number)
        # Their order: the key encoder follows before it makes the keys; at first it is the same.
        student = [*method.backbone.parameters(), *method.head.parameters()]
        key_encoder = [
            0.9 * theirs + 0.1 * mine.detach()
            for theirs, mine in zip(key_encoder, student, strict=True)
        ]
        for ours, theirs in zip(method.teacher.parameters(), key_encoder, strict=True):
            torch.testing.assert_close(ours, theirs)
        query, other = views.crops[0]
        q = F.normalize(method.head(method.backbone(query)), dim=1)
        with torch.no_grad():
            k = F.normalize(method.teacher.head(method.teacher.backbone(other)), dim=1)
        expected = 0.0
        for i in range(4):
            scores = [(q[i] @ row).item() / 0.2 for row in (k[i], *queue)]
            expected -= scores[0] - math.log(sum(map(math.exp, scores)))
        loss = train_step(method, views, Step(number, 3), lr=0.5)
        assert loss.item() == pytest.approx(expected / 4, rel=1e-12)
        place = 4 * number % 8
        queue[place : place + 4] = k
        torch.testing.assert_close(method.queue.rows, queue)


def test_a_step_that_failed_leaves_no_keys():
    method = double("moco", queue=8)
    before = method.queue.rows.clone()
    method(views_of(0), Step(0, 3))
    method(views_of(1), Step(1, 3))
    assert torch.equal(method.queue.rows, before)
    method.after_update(Step(1, 3))
    assert torch.equal(method.queue.rows[4:], before[4:])
    assert not torch.equal(method.queue.rows[:4], before[:4])


def test_micro_batches_leave_their_keys_in_order():
    method = double("moco", queue=8)
    keys = [method.teacher(views_of(number).crops[0][1:])[0] for number in range(2)]
    for number in range(2):
        method(views_of(number), Step(3, 9))
    method.after_update(Step(3, 9))
    torch.testing.assert_close(method.queue.rows, F.normalize(torch.cat(keys), dim=1))


def test_what_is_told_of_the_queue_and_its_candidates():
    method = double("moco", queue=8)
    metrics = method(views_of(), Step(0, 3)).metrics
    assert metrics["log_candidates"].item() == pytest.approx(math.log(9))  # its own key besides
    mean = method.queue.rows.mean(0)
    assert metrics["queue_spread"].item() == pytest.approx(math.sqrt(1 - mean.square().sum()))


def test_accuracy_is_how_often_the_own_key_is_nearest():
    alike = torch.eye(4)
    assert contrast(alike, alike, None, 0.2)[1] == 1
    assert contrast(alike, alike.roll(1, 0), None, 0.2)[1] == 0
    queue = torch.cat([alike[:1], -alike])  # holds the first query itself, its key is half as near
    keys = F.normalize(alike + alike.roll(1, 1), dim=1)
    assert contrast(alike, keys, queue, 0.2)[1] == 0.75


def test_parts_of_a_batch_have_their_own_statistics_and_keys_are_made_among_others():
    method = double("moco", queue=8, splits=2)
    views = views_of(batch=6)
    _, others = views.crops[0]
    torch.manual_seed(3)
    keys = method._keys(others)
    torch.manual_seed(3)
    order = torch.randperm(6)
    expected = torch.zeros_like(keys)
    for part in order.chunk(2):
        expected[part] = method.teacher.head(method.teacher.backbone(others[part]))
    torch.testing.assert_close(keys, expected)
    unshuffled = [method.teacher.head(method.teacher.backbone(part)) for part in others.chunk(2)]
    assert not torch.allclose(keys, torch.cat(unshuffled))


def test_v3_is_the_mean_over_both_directions_times_twice_the_temperature():
    method = double("mocov3", temperature=0.5)
    views = views_of()
    first, second = views.crops[0]
    both = torch.cat([first, second])
    q = F.normalize(method.predictor(method.head(method.backbone(both))), dim=1)
    k = F.normalize(method.teacher(views.crops[0]).flatten(0, 1), dim=1)
    expected = 0.0
    for i in range(8):
        candidates = k[4:] if i < 4 else k[:4]
        scores = [(q[i] @ row).item() / 0.5 for row in candidates]
        expected -= scores[i % 4] - math.log(sum(map(math.exp, scores)))
    output = method(views, Step(0, 10))
    assert output.loss.item() == pytest.approx(2 * 0.5 * expected / 4, rel=1e-12)
    nearest = torch.cat([(q[:4] @ k[4:].T).argmax(1), (q[4:] @ k[:4].T).argmax(1)])
    right = (nearest == torch.arange(8) % 4).double().mean()
    assert output.metrics["contrastive_accuracy"].item() == pytest.approx(right.item())
    assert right > 0
    spread = math.sqrt(1 - k[:4].mean(0).square().sum())
    assert output.metrics["target_spread"].item() == pytest.approx(spread)


def test_v3s_head_ends_in_a_batchnorm_without_scale_and_shift():
    *_, norm = build("mocov3").head
    assert not list(norm.parameters())
    assert build("mocov3").head[-2].bias is None


def test_no_gradient_reaches_keys():
    draw = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 5, 6, generator=draw, dtype=torch.float64)
    keys.requires_grad_()
    contrast(queries.requires_grad_(), keys, None, 0.2)[0].backward()
    assert keys.grad is None
    assert torch.autograd.gradcheck(
        lambda q: contrast(q, keys, None, 0.2)[0], queries.detach().requires_grad_()
    )


@pytest.mark.parametrize("name", ["moco", "mocov3"])
def test_small_crops_are_refused(name):
    with pytest.raises(InputError, match=r"views\.small\.count=0"):
        build(name)(make_views(small=2), Step(0, 1))


def test_wrong_input():
    with pytest.raises(InputError, match=r"method.predictor=\[16, 5\]"):
        build("mocov3", predictor=[16, 5])
    with pytest.raises(InputError, match=r"method\.splits=3: parts of two .* a process has 4"):
        build("moco", splits=3)(make_views(small=0), Step(0, 1))
    with pytest.raises(InputError, match=r"method\.splits=4: parts of two and more images"):
        build("moco", splits=4)(make_views(small=0), Step(0, 1))
    assert MoCo.warnings(MoCo.Config(queue=8), 16, 9)[0].startswith("method.queue=8: less than")
    assert not MoCo.warnings(MoCo.Config(queue=16), 16, 9)
    (told,) = MoCo.warnings(MoCo.Config(queue=40), 16, 9)
    assert told.startswith("method.queue=40: no multiple of batch_size=16")
