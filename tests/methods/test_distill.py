"""Distillation against its definition, written out."""

import pytest
import torch
import torch.nn.functional as F

from seer.data.crops.options import View, is_fixed
from seer.engine.learner import Step
from seer.errors import InputError
from seer.interop.models import load_model
from seer.interop.teaching import check_teachers, last_map_of, teach
from seer.methods.distill import Distill
from seer.methods.lessons import as_buffers, as_places, halved, standardised
from tests.kit.networks import ConvNet
from tests.methods.tiny import begin_epoch, build, make_views, train_step

STEP = Step(0, 10)


def theirs(large):
    """A run's crops in the teacher's colours: from mean 0.5 and deviation 0.25, to its own."""
    pixels = 0.25 * large + 0.5
    return (pixels - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / 0.2


def test_small_crops_are_to_have_the_mean_of_the_large_ones_features():
    method = build("distill").double()
    views = make_views(small=2, dtype=torch.float64)
    large, small = views.crops
    (lesson,) = method.lessons
    features = lesson.network(theirs(large).flatten(0, 1))
    mean = features.mean(0)
    deviation = (features - mean).square().mean(0).sqrt()
    targets = ((features - mean) / deviation).unflatten(0, (2, 4))
    student = torch.cat([method.backbone(crops.flatten(0, 1)) for crops in (large, small)])
    predictions = lesson.head(student).unflatten(0, (4, 4))
    expected = 0.0
    for number, prediction in enumerate(predictions):
        target = targets[number] if number < 2 else targets.mean(0)
        expected += ((prediction - target) ** 2).mean() / 4
    output = method(views, STEP)
    torch.testing.assert_close(output.loss, expected, rtol=1e-6, atol=0)
    every = torch.cat([targets, targets.mean(0).expand(2, -1, -1)])
    lengths = predictions.norm(dim=2) * every.norm(dim=2)
    cosine = ((predictions * every).sum(2) / lengths).mean()
    torch.testing.assert_close(output.metrics["teacher_cosine"], cosine)


def test_dense_features_at_each_place():
    """The student's map, a quarter of the teacher's, is interpolated to it; both terms by weight."""
    method = build("distill", dense=3.0, pooled=1.0).double().eval()
    views = make_views(small=2, dtype=torch.float64)
    (lesson,) = method.lessons
    images = theirs(views.crops[0]).flatten(0, 1)
    taught = lesson.network.bn(lesson.network.conv(images))  # 6 channels, 6 × 6 places
    mean = taught.mean((0, 2, 3), keepdim=True)
    targets = (taught - mean) / taught.var((0, 2, 3), correction=0, keepdim=True).sqrt()
    own = views.crops[0].flatten(0, 1)
    for part in (method.backbone.stem, *method.backbone.stages):
        own = part(own)
    assert own.shape[2:] != taught.shape[2:]
    weight = lesson.dense_head.weight[:, :, None, None]
    predicted = F.conv2d(F.interpolate(own, size=(6, 6), mode="bilinear"), weight)
    predicted = predicted + lesson.dense_head.bias[:, None, None]
    dense = (predicted - targets).square().mean()
    output = method(views, STEP)
    torch.testing.assert_close(output.metrics["dense_loss"], dense, rtol=1e-9, atol=0)
    expected = (output.metrics["pooled_loss"] + 3 * dense) / 4
    torch.testing.assert_close(output.loss, expected, rtol=1e-9, atol=0)


def test_experts_teach_their_own_images():
    """Image i is of expert i mod 3 - 1, or of none; beside one teacher of all."""
    method = build("distill", experts=["a", "b"], lists=["1", "2"]).double()
    views = make_views(batch=8, small=0, dtype=torch.float64)
    large = views.crops[0]
    student = method.backbone(large.flatten(0, 1))
    squares = []
    rows_of = [range(8), [1, 4, 7], [2, 5]]
    for lesson, rows in zip(method.lessons, rows_of, strict=True):
        rows = list(rows)
        features = lesson.network(theirs(large).flatten(0, 1)).unflatten(0, (2, 8))[:, rows]
        mean = features.mean((0, 1))
        targets = (features - mean) / (features - mean).square().mean((0, 1)).sqrt()
        predictions = lesson.head(student).unflatten(0, (2, 8))[:, rows]
        squares += [*(predictions - targets).square().mean((0, 2))]
    expected = torch.stack(squares).mean()  # over 8 + 3 + 2 pairs
    assert len(squares) == 13
    torch.testing.assert_close(method(views, STEP).loss, expected, rtol=1e-6, atol=0)
    seen = method.lessons[2].network.seen
    method(views, STEP)
    assert method.lessons[2].network.seen - seen == 4  # two crops of its two images


@pytest.mark.parametrize("first", [STEP, Step(1, 10, epoch=0.1)])  # health may skip step 0
def test_kept_features_teach_the_same(first):
    options = {"head_bn": False}
    views = make_views(batch=6, small=0)
    one = type(views)((views.crops[0][:1],), views.index)
    method = build("distill", cache=True, **options)
    fresh = build("distill", **options)
    begin_epoch(method, [one], first)
    torch.testing.assert_close(method(one, STEP).loss, fresh(one, STEP).loss)
    seen = method.lessons[0].network.seen
    begin_epoch(method, [one], Step(5, 10, epoch=1.0))
    train_step(method, one, STEP)
    assert method.lessons[0].network.seen == seen


def test_a_teacher_may_see_larger_crops_in_half_precision():
    plain = build("distill", teacher_size=12)
    views = make_views(small=0)
    images = F.interpolate(theirs(views.crops[0]).flatten(0, 1), size=12, mode="bilinear")
    expected = plain.lessons[0].network(images)
    taught = plain.lessons[0].teach(views.crops[0], None, torch.ones(4))
    torch.testing.assert_close(taught.pooled[:, :, 0].flatten(0, 1), expected)
    half = build("distill", teacher_size=12, teacher_bf16=True)
    network = half.lessons[0].network
    assert network.conv.weight.dtype == torch.bfloat16
    assert network.bn.weight.dtype == torch.float32
    about = half.lessons[0].teach(views.crops[0], None, torch.ones(4)).pooled
    assert about.dtype == torch.float32
    torch.testing.assert_close(about, taught.pooled, rtol=0.05, atol=0.05)
    assert half(views, STEP).loss.isfinite()


def test_the_teacher_stays_as_it_is_and_no_checkpoint_has_it():
    method = build("distill")
    method.train()
    network = method.lessons[0].network
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    train_step(method, make_views(), Step(0, 10), lr=1.0)
    assert not network.training
    assert all(torch.equal(before[name], b) for name, b in network.named_buffers())
    assert before
    assert not list(network.parameters())
    assert {name.split(".")[0] for name in method.state_dict()} == {"backbone", "lessons"}
    assert not [
        name
        for name in method.state_dict()
        if "head" not in name.split(".")[2:] and name.startswith("lessons")
    ]


def test_a_constant_feature_is_no_target():
    features = torch.cat([torch.randn(2, 8, 1, 3), torch.ones(2, 8, 1, 1)], dim=3)
    targets = standardised(features, torch.ones(8))
    assert targets.isfinite().all()
    assert (targets[..., 3] == 0).all()
    torch.testing.assert_close(targets[..., :3].flatten(0, 2).std(0, correction=0), torch.ones(3))


def test_a_network_of_buffers_computes_the_same():
    network = ConvNet().eval()
    images = torch.randn(2, 3, 8, 8)
    expected = network(images)
    assert torch.equal(as_buffers(network)(images), expected.detach())
    assert halved(ConvNet()).conv.bias.dtype == torch.bfloat16


def test_maps_of_any_layout():
    places = torch.randn(2, 5, 3, 3)
    torch.testing.assert_close(as_places(places, 5), places)
    torch.testing.assert_close(as_places(places.permute(0, 2, 3, 1), 5), places)
    tokens = torch.cat([torch.randn(2, 2, 5), places.flatten(2).transpose(1, 2)], dim=1)
    torch.testing.assert_close(as_places(tokens, 5), places)


def test_any_model_teaches():
    spec = "torchvision:resnet18:random"
    method = Distill(ConvNet(), Distill.Config(teacher=spec, head=[16]))
    teach(method, [0.5] * 3, [0.5] * 3)
    assert method.lessons[0].head[-1].out_features == 512
    views = make_views(small=0)
    assert method(
        type(views)((views.crops[0].repeat(1, 1, 1, 4, 4),), views.index), STEP
    ).loss.isfinite()
    model = load_model(spec)
    assert model.backbone.out_dim == 512
    assert last_map_of(model, spec, 64) == ("network.layer4", 512)
    with pytest.raises(
        InputError, match=r"no map of several places of images of 32 px; set method"
    ):
        last_map_of(Single(), "x", 32)


class Single:
    """A model whose features have no place."""

    size = 32

    def __init__(self):
        self.backbone = torch.nn.Sequential(
            torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2)
        )
        self.backbone.out_dim = 2


def test_only_crops_that_stay_are_kept():
    whole = {"scale": [1, 1], "ratio": [1, 1], "jitter": 0, "grey": 0, "blur": 0}
    assert is_fixed(View(**whole, flip=0))
    assert is_fixed(View(**whole, flip=1))
    for change in ({"flip": 0.5}, {"scale": [0.5, 1]}, {"jitter": 0.1}, {"blur": 1}, {"grey": 0.2}):
        assert not is_fixed(View(**{**whole, "flip": 0, **change}))


def test_wrong_teachers():
    with pytest.raises(InputError, match=r"method\.teacher: not set; give MODEL"):
        build("distill", teacher="")
    missing = Distill(ConvNet(), Distill.Config(teacher="nowhere"))
    with pytest.raises(InputError, match=r"method\.teacher: nowhere: no such model"):
        teach(missing, [0.5] * 3, [0.5] * 3)
    vit = Distill.Config(teacher="timm:vit_tiny_patch16_224:random")
    with pytest.raises(
        InputError, match=r"method\.teacher: size=65: .*; set method\.teacher_size=224"
    ):
        check_teachers(vit, 65)
    vit.teacher_size = 224
    check_teachers(vit, 65)
    with pytest.raises(InputError, match="0 lists for 1 experts; give the list of each"):
        build("distill", experts=["x"])
    with pytest.raises(InputError, match="nothing is learned"):
        build("distill", pooled=0)
    with pytest.raises(InputError, match="pooled features alone are kept"):
        build("distill", cache=True, dense=1)
