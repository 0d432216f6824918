import math

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import SwaVLoss

from seer.engine.learner import Step
from seer.errors import InputError
from seer.methods.base import forward_crops
from seer.methods.swav import SwAV, assignment_metrics
from tests.methods.tiny import build, make_views, train_step


def scores_of(method, views):
    """All crops' embeddings and scores `(V, B, ·)`, with the parts used one by one."""
    features = forward_crops(method.backbone, views)
    z = F.normalize(method.head(features.flatten(0, 1)), dim=1)
    return z.unflatten(0, features.shape[:2]), (z @ method.prototypes.weight.T).unflatten(
        0, features.shape[:2]
    )


def lightly(scores, remembered=None):
    return SwaVLoss()(list(scores[:2]), list(scores[2:]), remembered).squeeze()


@pytest.mark.parametrize("head", [[16, 6], [16, 16, 6]])
@pytest.mark.parametrize("head_bn", [True, False])
def test_loss_is_lightlys_on_all_crops(head, head_bn):
    method, views = (
        build("swav", head=head, head_bn=head_bn).double(),
        make_views(dtype=torch.float64),
    )
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


class OriginalQueue:
    """The bookkeeping of SwAV's code: from the first step of an epoch on there are zeros, new rows
    enter in front.
    """

    def __init__(self, crops: int, length: int, width: int):
        self.rows = torch.zeros(crops, length, width, dtype=torch.float64)
        self.in_use = False

    def take(self, embeddings):
        """The rows that help assign a step's `(A, B, D)` embeddings, which enter; None while the
        last row is zero.
        """
        remembered = None
        if self.in_use or not torch.all(self.rows[:, -1] == 0):
            self.in_use = True
            remembered = self.rows.clone()
        batch = embeddings.shape[1]
        self.rows[:, batch:] = self.rows[:, :-batch].clone()
        self.rows[:, :batch] = embeddings
        return remembered


@pytest.mark.parametrize(
    ("length", "start", "first"),
    [(8, 0, 2), (8, 5, 7), (8, 0.5, 7), (12, 3, 6), (4, 8, 9), (4, 10, None), (8, 9, None)],
)
def test_queue_is_filled_and_used_as_in_swavs_code(length, start, first):
    """Batches of 4 in 10 steps. `length` divides by the batch: SwAV's code cuts it to that."""
    method = build("swav", queue=length, queue_from=start, freeze=0).double()
    begin, original, used = 5 if start == 0.5 else start, None, []
    for number in range(10):
        views = make_views(batch=4, seed=number, dtype=torch.float64)
        z, scores = scores_of(method, views)
        if number == begin:
            original = OriginalQueue(2, length, z.shape[-1])
        rows = original.take(z[:2].detach()) if original else None
        remembered = None if rows is None else list((rows @ method.prototypes.weight.T).detach())
        if remembered:
            used.append(number)
        expected = lightly(scores, remembered)
        assert bool(remembered) == bool((expected - lightly(scores)).abs() > 1e-6)
        torch.testing.assert_close(
            train_step(method, views, Step(number, 10)), expected, rtol=1e-10, atol=0
        )
    assert used == ([] if first is None else list(range(first, 10)))


@pytest.mark.parametrize(("number", "kept"), [(3, 0), (5, 12)])
def test_rows_that_an_older_checkpoint_holds_from_before_the_start_are_forgotten(number, kept):
    """Once the queue has begun they were the ones to count, and still are."""
    old, method = build("swav", queue=8), build("swav", queue=8, queue_from=4)
    old.queue.push(torch.randn(8, 2, 6))
    method.load_state_dict(old.state_dict())
    method(make_views(batch=4), Step(number, 10))
    method.after_update(Step(number, 10))
    assert method.queue.pushed == kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": 0.1}, None),
        ({"freeze": 200}, "method.freeze=200: the prototypes stay as initialised in all 200 steps"),
        ({"freeze": 0, "queue": 64, "queue_from": 0.5}, None),
        ({"freeze": 0, "queue": 64, "queue_from": 75068}, "method.queue=64: no step uses it"),
        ({"freeze": 0, "queue": 64, "queue_from": 193}, "full after 201 of 200"),
        (
            {"freeze": 0, "queue": 60, "queue_from": 0.5},
            "method.queue=60: no multiple of batch_size=8",
        ),
    ],
)
def test_options_without_effect_are_told(options, message):
    config = SwAV.Config(**options)
    lines = SwAV.warnings(config, 8, 200)
    assert len(lines) == (message is not None)
    assert message is None or message in lines[0]


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
