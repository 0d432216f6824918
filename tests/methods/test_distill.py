"""Distillation against its definition, written out."""

import pytest
import torch

from seer.engine.learner import Step
from seer.errors import InputError
from seer.interop.models import load_model
from seer.interop.teaching import check_teacher, teach
from seer.methods.distill import Distill, as_buffers, standardised
from tests.kit.networks import ConvNet
from tests.methods.tiny import build, make_views, train_step


def test_small_crops_are_to_have_the_mean_of_the_large_ones_features():
    method = build("distill").double()
    views = make_views(small=2, dtype=torch.float64)
    large, small = views.crops
    # From the run's colours, mean 0.5 and deviation 0.25, to the teacher's.
    pixels = 0.25 * large + 0.5
    theirs = (pixels - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / 0.2
    features = method.teacher(theirs.flatten(0, 1))
    mean = features.mean(0)
    deviation = (features - mean).square().mean(0).sqrt()
    targets = ((features - mean) / deviation).unflatten(0, (2, 4))
    student = torch.cat([method.backbone(crops.flatten(0, 1)) for crops in (large, small)])
    predictions = method.head(student).unflatten(0, (4, 4))
    expected = 0.0
    for number, prediction in enumerate(predictions):
        target = targets[number] if number < 2 else targets.mean(0)
        expected += ((prediction - target) ** 2).mean() / 4
    output = method(views, Step(0, 10))
    torch.testing.assert_close(output.loss, expected, rtol=1e-6, atol=0)
    every = torch.cat([targets, targets.mean(0).expand(2, -1, -1)])
    lengths = predictions.norm(dim=2) * every.norm(dim=2)
    cosine = ((predictions * every).sum(2) / lengths).mean()
    torch.testing.assert_close(output.metrics["teacher_cosine"], cosine)


def test_the_teacher_stays_as_it_is_and_no_checkpoint_has_it():
    method = build("distill")
    method.train()
    before = {name: buffer.clone() for name, buffer in method.teacher.named_buffers()}
    train_step(method, make_views(), Step(0, 10), lr=1.0)
    assert not method.teacher.training
    assert all(torch.equal(before[name], b) for name, b in method.teacher.named_buffers())
    assert before
    assert not list(method.teacher.parameters())
    assert not [name for name in method.state_dict() if name.startswith(("teacher", "sc", "sh"))]


def test_a_constant_feature_is_no_target():
    features = torch.cat([torch.randn(2, 8, 3), torch.ones(2, 8, 1)], dim=2)
    targets = standardised(features)
    assert targets.isfinite().all()
    assert (targets[..., 3] == 0).all()
    torch.testing.assert_close(targets[..., :3].flatten(0, 1).std(0, correction=0), torch.ones(3))


def test_a_network_of_buffers_computes_the_same():
    network = ConvNet().eval()
    images = torch.randn(2, 3, 8, 8)
    expected = network(images)
    assert torch.equal(as_buffers(network)(images), expected.detach())


def test_any_model_teaches():
    spec = "torchvision:resnet18:random"
    method = Distill(ConvNet(), Distill.Config(teacher=spec, head=[16]))
    teach(method, [0.5] * 3, [0.5] * 3)
    assert method.head[-1].out_features == 512
    views = make_views(small=0)
    assert method(
        type(views)((views.crops[0].repeat(1, 1, 1, 4, 4),), views.index), Step(0, 1)
    ).loss.isfinite()
    theirs = load_model(spec)
    assert theirs.backbone.out_dim == 512


def test_wrong_teachers(tmp_path):
    with pytest.raises(InputError, match=r"method\.teacher: not set; give MODEL"):
        build("distill", teacher="")
    missing = Distill(ConvNet(), Distill.Config(teacher="nowhere"))
    with pytest.raises(InputError, match=r"method\.teacher: nowhere: no such model"):
        teach(missing, [0.5] * 3, [0.5] * 3)
    with pytest.raises(InputError, match=r"method\.teacher: size=65: .*; set views\.large\.size"):
        check_teacher("timm:vit_tiny_patch16_224:random", 65)
