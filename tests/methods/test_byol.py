import copy
import math

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.utils.scheduler import cosine_schedule

from seer.engine.learner import Step
from seer.errors import InputError
from seer.methods.memory import spread, teacher_momentum
from tests.methods.tiny import build, make_views, train_step


def test_loss_is_lightlys_with_a_teacher_equal_to_the_student():
    method, views = build("byol").double(), make_views(small=0, dtype=torch.float64)
    z = method.head(method.backbone(views.crops[0].flatten(0, 1)))
    p, t = method.predictor(z).unflatten(0, (2, -1)), z.unflatten(0, (2, -1))
    cosine = NegativeCosineSimilarity()
    expected = 4 + 2 * cosine(p[0], t[1]) + 2 * cosine(p[1], t[0])
    output = method(views, Step(0, 10))
    torch.testing.assert_close(output.loss, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(output.metrics["target_similarity"], 1 - expected / 4)


def test_teacher_moves_by_the_schedule_and_only_so():
    method, views, step = build("byol", momentum=0.9), make_views(small=0), Step(5, 10)
    start = copy.deepcopy(method.teacher)
    train_step(method, views, step, lr=1.0)
    keep = teacher_momentum(0.9, step)
    students = [*method.backbone.parameters(), *method.head.parameters()]
    for teacher, student, old in zip(
        method.teacher.parameters(), students, start.parameters(), strict=True
    ):
        torch.testing.assert_close(teacher, keep * old + (1 - keep) * student)
        assert teacher.grad is None
    assert any(
        not torch.equal(a, b)
        for a, b in zip(method.teacher.parameters(), start.parameters(), strict=True)
    )


def test_momentum_schedule():
    assert teacher_momentum(0.996, Step(0, 100)) == pytest.approx(0.996)
    assert teacher_momentum(0.996, Step(50, 100)) == pytest.approx(0.998)
    assert teacher_momentum(0.996, Step(100, 100)) == 1
    # lightly's reaches the end one step earlier
    assert teacher_momentum(0.99, Step(7, 20)) == pytest.approx(cosine_schedule(7, 21, 0.99, 1.0))


def test_small_crops_go_to_the_student_alone():
    method, seen = build("byol"), []
    method.teacher.backbone.register_forward_hook(
        lambda _, args, out: seen.append(tuple(args[0].shape))
    )
    assert method(make_views(batch=4, small=2), Step(0, 10)).loss.isfinite()
    assert seen == [(8, 3, 8, 8)]


def test_teacher_takes_over_a_loaded_backbone():
    method, other = build("byol", seed=0), build("byol", seed=1)
    method.backbone.load_state_dict(other.backbone.state_dict())
    method.after_load()
    assert torch.equal(method.teacher.backbone.conv.weight, other.backbone.conv.weight)


def test_spread():
    assert spread(torch.ones(5, 3)) == pytest.approx(0, abs=1e-3)
    assert spread(torch.cat([torch.eye(4), -torch.eye(4)])) == pytest.approx(1)
    assert spread(torch.eye(2)) == pytest.approx(math.sqrt(0.5))
    assert spread(torch.diag(torch.tensor([3.0, 0.1]))) == pytest.approx(math.sqrt(0.5))


def test_wrong_input():
    with pytest.raises(InputError, match=r"method\.momentum: 1\.5 is not"):
        build("byol", momentum=1.5)
    with pytest.raises(InputError, match=r"method.predictor=\[16, 5\]"):
        build("byol", predictor=[16, 5])
    with pytest.raises(InputError, match=r"method\.head: a list of 0 is not"):
        build("byol", head=[])
    views = make_views(small=0)
    with pytest.raises(InputError, match=r"views.large.count=2"):
        build("byol")(type(views)((views.crops[0][:1],), views.index), Step(0, 1))
