import math

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import SwaVLoss

from seer.errors import InputError
from seer.methods.base import Step, forward_crops
from seer.methods.swav import assignment_metrics
from tests.methods.tiny import build, make_views, train_step


def scores_of(method, views):
    """All crops' embeddings and scores `(V, B, ·)`, with the parts used one by one."""
    features = forward_crops(method.backbone, views)
    z = F.normalize(method.head(features.flatten(0, 1)), dim=1)
    return z.unflatten(0, features.shape[:2]), (z @ method.prototypes.weight.T).unflatten(0, features.shape[:2])


def lightly(scores, remembered=None):
    return SwaVLoss()(list(scores[:2]), list(scores[2:]), remembered).squeeze()


@pytest.mark.parametrize("head", [[16, 6], [16, 16, 6]])
@pytest.mark.parametrize("head_bn", [True, False])
def test_loss_is_lightlys_on_all_crops(head, head_bn):
    method, views = build("swav", head=head, head_bn=head_bn).double(), make_views(dtype=torch.float64)
    output = method(views, Step(0, 10))
    z, scores = scores_of(method, views)
    torch.testing.assert_close(output.loss, lightly(scores), rtol=1e-10, atol=0)
    torch.testing.assert_close(output.embeddings, z[0])


def test_backbone_runs_once_per_resolution_and_head_once():
    method, shapes = build("swav"), []
    for module in (method.backbone, method.head, method.prototypes):
        module.register_forward_hook(lambda _, args, out: shapes.append(tuple(args[0].shape)))
    method(make_views(batch=4, small=3), Step(0, 10))
    assert shapes == [(8, 3, 8, 8), (12, 3, 5, 5), (20, 8), (20, 6)]


def test_queue_is_used_when_full_and_not_before_its_step():
    method = build("swav", queue=10, queue_from=5, freeze=0).double()
    embeddings = []
    for number in range(8):
        views = make_views(batch=4, seed=number, dtype=torch.float64)
        z, scores = scores_of(method, views)
        remembered = None
        if number >= 5:  # 4 images a step fill 10 places in 3 steps, but step 5 comes later
            rows = torch.cat(embeddings, 1)[:, -10:]
            remembered = list((rows @ method.prototypes.weight.T).detach())
        expected = lightly(scores, remembered)
        assert (number >= 5) == bool((expected - lightly(scores)).abs() > 1e-6)
        torch.testing.assert_close(train_step(method, views, Step(number, 8)), expected, rtol=1e-10, atol=0)
        embeddings.append(z[:2].detach())


def test_queue_is_not_used_before_it_is_full():
    method = build("swav", queue=9, freeze=0).double()
    for number in range(4):
        views = make_views(batch=4, seed=number, dtype=torch.float64)
        alone = lightly(scores_of(method, views)[1])
        used = (train_step(method, views, Step(number, 8)) - alone).abs() > 1e-6
        assert used == (number == 3)


def test_queue_takes_every_micro_batch_of_a_finished_step_and_none_of_a_failed_one():
    method = build("swav", queue=8)
    method(make_views(batch=2, seed=0), Step(0, 10))  # no update follows: the step failed
    for seed in (1, 2):
        output = method(make_views(batch=2, seed=seed), Step(1, 10))
    method.after_update(Step(1, 10))
    assert method.queue.pushed == 4
    torch.testing.assert_close(method.queue.rows[2:4, 0], output.embeddings)


def test_frozen_prototypes_do_not_move():
    method = build("swav", freeze=2)
    start = method.prototypes.weight.clone()
    for number in range(3):
        views, step = make_views(seed=number), Step(number, 10)
        method(views, step).loss.backward()
        method.after_backward(step)
        assert (method.prototypes.weight.grad is None) == (number < 2)
        method.zero_grad()
        train_step(method, views, step)
        torch.testing.assert_close(method.prototypes.weight.norm(dim=1), torch.ones(12))
        assert torch.allclose(method.prototypes.weight, start, atol=1e-6) == (number < 2)


def test_one_assigning_crop_and_mixed_precision():
    method, views = build("swav", assign=[1]), make_views()
    with torch.autocast("cpu", torch.bfloat16):
        output = method(views, Step(0, 10))
    assert output.loss.dtype == torch.float32
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in method.parameters())


def test_metrics_of_known_assignments():
    sharp = torch.eye(4)[[0, 1, 1, 0]].reshape(2, 2, 4)
    m = assignment_metrics(sharp)
    assert m["prototypes_used"] == 2
    assert m["assignment_entropy"] == 0
    assert m["assignment_confidence"] == 1
    torch.testing.assert_close(m["perplexity"].item(), 2.0)
    torch.testing.assert_close(m["log_prototypes"].item(), math.log(4))
    uniform = assignment_metrics(torch.full((2, 2, 4), 0.25))
    torch.testing.assert_close(uniform["assignment_entropy"].item(), math.log(4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prototypes": 0}, "method.prototypes: 0 is not"),
        ({"epsilon": 0.0}, "method.epsilon: 0.0 is not"),
        ({"iterations": 0}, "method.iterations: 0 is not"),
        ({"assign": []}, "method.assign: a list of 0 is not"),
        ({"assign": [0, 0]}, "method.assign: it holds something twice"),
        ({"queue": -1}, "method.queue: -1 is not"),
    ],
)
def test_wrong_configuration(options, message):
    with pytest.raises(InputError, match=message):
        build("swav", **options)


def test_wrong_views():
    with pytest.raises(InputError, match="2 large crops"):
        build("swav", assign=[2])(make_views(), Step(0, 1))
    one = make_views(small=0)
    one = type(one)((one.crops[0][:1],), one.index)
    with pytest.raises(InputError, match=r"views.large.count=2"):
        build("swav", assign=[0])(one, Step(0, 1))
