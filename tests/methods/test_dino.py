import copy

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead

from seer.engine.learner import Step
from seer.errors import InputError
from seer.methods.dino import target_metrics, teacher_temperature
from seer.methods.memory import teacher_momentum
from tests.methods.tiny import build, make_views, train_step


def scores_of(method, views):
    """All crops' scores by the student, the large ones' by the teacher."""
    features = torch.cat([method.backbone(crops.flatten(0, 1)) for crops in views.crops])
    # As in their code the head's BatchNorm sees all crops together.
    student = method.prototypes(F.normalize(method.head(features), dim=1))
    teacher = method.teacher(views.crops[0])
    return list(student.unflatten(0, (-1, len(views.index)))), list(teacher)


def test_losses_and_centre_are_lightlys():
    method = build("dino", teacher_temperature=0.06, teacher_warmup=0, freeze=0).double()
    theirs = DINOLoss(12, 0.06, 0.06, 0, student_temp=0.1, center_momentum=0.9).double()
    for number in range(3):
        views = make_views(small=2, seed=number, dtype=torch.float64)
        student, teacher = scores_of(copy.deepcopy(method), views)
        expected = theirs(teacher, student, epoch=1)
        loss = train_step(method, views, Step(number, 10))
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-9, atol=0)
        centre = getattr(theirs.center, "center", theirs.center)
        torch.testing.assert_close(method.centre, centre.flatten())
        norms = method.teacher.head.prototypes.weight.norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms))


def test_the_teachers_temperature_rises_and_stays():
    config = build("dino", teacher_warmup=0.5).config
    at = [teacher_temperature(config, Step(number, 20)) for number in (0, 5, 10, 19)]
    assert at == pytest.approx([0.04, 0.055, 0.07, 0.07])


def test_the_head_is_lightlys():
    method = build("dino", head=[16, 16, 6]).double()
    theirs = DINOProjectionHead(8, 16, 6, 12, batch_norm=True).double()
    linear = [layer for layer in method.head if isinstance(layer, torch.nn.Linear)]
    others = [layer for layer in theirs.layers if isinstance(layer, torch.nn.Linear)]
    for ours, other in zip(linear, others, strict=True):
        # Theirs has no bias before a BatchNorm, which takes it away.
        other.load_state_dict({name: ours.state_dict()[name] for name in other.state_dict()})
    theirs.last_layer.weight_v.data.copy_(method.prototypes.weight)
    features = torch.randn(7, 8, dtype=torch.float64)
    scores = method.prototypes(F.normalize(method.head(features), dim=1))
    torch.testing.assert_close(scores, theirs(features))


def test_a_teacher_that_is_the_student_gives_its_scores():
    method = build("dino")
    student, teacher = scores_of(method, make_views(small=0))
    torch.testing.assert_close(torch.stack(teacher), torch.stack(student))


def test_a_step_takes_the_temperature_that_it_has_warmed_up_to():
    views = make_views()
    losses = [
        build("dino", **options)(views, Step(0, 10)).loss
        for options in (
            {"teacher_warmup": 0.5},
            {"teacher_warmup": 0, "teacher_temperature": 0.04},
            {"teacher_warmup": 0},
        )
    ]
    assert losses[0] == losses[1] != losses[2]


def test_the_teachers_prototypes_follow_those_of_length_one():
    method = build("dino", momentum=0.5, freeze=0)
    before = method.teacher.head.prototypes.weight.clone()
    train_step(method, make_views(), Step(0, 10), lr=5.0)
    keep = teacher_momentum(0.5, Step(0, 10))
    torch.testing.assert_close(method.prototypes.weight.norm(dim=1), torch.ones(12))
    followed = keep * before + (1 - keep) * method.prototypes.weight
    torch.testing.assert_close(method.teacher.head.prototypes.weight, F.normalize(followed, dim=1))


def test_prototypes_are_frozen_at_first():
    method = build("dino", freeze=2)
    before = method.prototypes.weight.clone()
    train_step(method, make_views(), Step(1, 10), lr=1.0)
    torch.testing.assert_close(method.prototypes.weight, before)
    train_step(method, make_views(), Step(2, 10), lr=1.0)
    assert not torch.allclose(method.prototypes.weight, before, atol=1e-3)


def test_small_crops_go_to_the_student_alone():
    method = build("dino")
    seen = []
    method.teacher.backbone.register_forward_hook(lambda _, args, out: seen.append(len(args[0])))
    method(make_views(batch=4, small=2), Step(0, 10))
    assert seen == [8]


def test_a_step_that_failed_moves_no_centre():
    method = build("dino")
    method(make_views(seed=0), Step(0, 10))
    method(make_views(seed=1), Step(1, 10))
    (mean,) = method.mean_scores.kept
    method.after_update(Step(1, 10))
    torch.testing.assert_close(method.centre, 0.1 * mean)


def test_the_centre_moves_to_the_mean_of_all_micro_batches():
    method = build("dino")
    scores = [method.teacher(make_views(seed=number).crops[0]) for number in range(2)]
    for number in range(2):
        method(make_views(seed=number), Step(3, 10))
    method.after_update(Step(3, 10))
    mean = torch.cat(scores, dim=1).mean((0, 1))
    torch.testing.assert_close(method.centre, 0.1 * mean)


def test_how_targets_use_the_prototypes():
    alike = torch.tensor([1.0, 0, 0, 0]).expand(2, 3, 4)
    assert target_metrics(alike)["target_perplexity"] == pytest.approx(1)
    flat = torch.full((2, 3, 4), 0.25)
    metrics = target_metrics(flat)
    assert metrics["target_entropy"] == pytest.approx(metrics["log_prototypes"])
    assert metrics["target_perplexity"] == pytest.approx(4)
    four = torch.eye(4).expand(2, 4, 4)
    assert target_metrics(four)["target_perplexity"] == pytest.approx(4)
    assert target_metrics(four)["target_entropy"] == 0


def test_one_large_crop_is_refused():
    views = make_views()
    one = type(views)((views.crops[0][:1], views.crops[1]), views.index)
    with pytest.raises(InputError, match=r"views\.large\.count=2"):
        build("dino")(one, Step(0, 1))
