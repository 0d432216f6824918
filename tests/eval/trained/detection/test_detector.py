"""Faster and Mask R-CNN, against torchvision's whole models."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection import (
    fasterrcnn_resnet50_fpn,
    fcos_resnet50_fpn,
    maskrcnn_resnet50_fpn,
)
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.image_list import ImageList

from seer.backbones import BackboneConfig, build
from seer.data.hashing import mix
from seer.engine.learner import Step
from seer.errors import InputError
from seer.eval.trained.detection.boxbatches import BoxBatch
from seer.eval.trained.detection.boxheads import DRAWS
from seer.eval.trained.detection.detector import Detector, targets_of
from seer.eval.trained.detection.kept_features import GIB, KeptFeatures
from seer.eval.trained.detection.options import DetectConfig
from seer.eval.trained.detection.sampling import Sampler
from seer.interop.foreign import Pooled
from seer.interop.levels import levels_of

HEIGHT, WIDTH = 96, 128
MODELS = {
    "mask": maskrcnn_resnet50_fpn,
    "box": fasterrcnn_resnet50_fpn,
    "fcos": fcos_resnet50_fpn,
}
STEP = Step(3, 10)


def config(**options) -> DetectConfig:
    return DetectConfig(model="", data="", **({"freeze": 0} | options))


def batch(masks: bool = True, none: bool = False) -> BoxBatch:
    torch.manual_seed(1)
    boxes = (
        torch.tensor([[10.0, 12, 60, 80], [50, 5, 120, 60]]),
        torch.empty(0, 4) if none else torch.tensor([[5.0, 5, 40, 40]]),
    )
    if none:
        boxes = (torch.empty(0, 4), torch.empty(0, 4))
    flags = []
    for own in boxes:
        flags.append(torch.zeros(len(own), HEIGHT, WIDTH, dtype=torch.uint8))
        for flag, (left, top, right, bottom) in zip(flags[-1], own.int().tolist(), strict=True):
            flag[top + 3 : bottom, left : right - 4] = 1
    labels = tuple(torch.arange(1, len(own) + 1) for own in boxes)
    pixels = torch.randn(2, 3, HEIGHT, WIDTH)
    sizes = ((HEIGHT, WIDTH),) * 2
    return BoxBatch(
        pixels, sizes, boxes, labels, tuple(flags) if masks else None, torch.tensor([7, 4])
    )


@cache
def pair(name: str) -> tuple[Detector, nn.Module]:
    """Ours on torchvision's ResNet-50, and theirs, with the same weights."""
    torch.manual_seed(0)
    thresholds = {"score_thresh": 0.0} if name == "fcos" else {"box_score_thresh": 0.0}
    theirs = MODELS[name](
        weights=None,
        weights_backbone=None,
        num_classes=3,
        trainable_backbone_layers=5,
        min_size=HEIGHT,
        max_size=WIDTH,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        **thresholds,
    )
    network = torchvision.models.resnet50()
    network.fc = nn.Identity()
    levels = levels_of(Pooled(network, 2048, "torchvision:resnet"), "torchvision:resnet50")
    head = "fcos" if name == "fcos" else "rcnn"
    ours = Detector(levels, 2, name == "mask", config(score_floor=0.0, head=head))
    names = {
        "backbone.body.": "backbone.network.",
        "backbone.fpn.": "neck.",
        "rpn.": "heads.rpn.",
        "roi_heads.": "heads.roi_heads.",
        "head.": "heads.head.",
    }
    state = theirs.state_dict()
    for before, after in names.items():
        state = {
            after + k.removeprefix(before) if k.startswith(before) else k: v
            for k, v in state.items()
        }
    ours.load_state_dict(state)
    return ours, theirs


@pytest.mark.parametrize("name", MODELS)
def test_losses_are_torchvisions(name):
    ours, theirs = pair(name)
    masks = name == "mask"
    images = batch(masks)
    ours.train()
    theirs.train()
    for norm in theirs.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
    parts = {} if name == "fcos" else {"rpn": theirs.rpn, "roi": theirs.roi_heads}
    for draw, part in parts.items():
        part.fg_bg_sampler = Sampler(part.fg_bg_sampler)
        part.fg_bg_sampler.begin(mix(DRAWS[draw], mix(0, STEP.number, images.index.numpy())))
    targets = [{"boxes": b, "labels": n} for b, n in zip(images.boxes, images.labels, strict=True)]
    if masks:
        for target, own in zip(targets, images.masks, strict=True):
            target["masks"] = own
    expected = theirs(list(images.pixels), targets)
    output = ours(images, STEP)
    assert output.metrics.keys() == expected.keys()
    for name, loss in expected.items():
        torch.testing.assert_close(output.metrics[name], loss.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.loss, sum(expected.values()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mask", "fcos"])
def test_detections_are_torchvisions(name):
    ours, theirs = pair(name)
    images = batch()
    one = BoxBatch(images.pixels[:1], images.sizes[:1], (), (), None, images.index[:1])
    ours.eval()
    theirs.eval()
    with torch.no_grad():
        found = ours(one, STEP).metrics
        (expected,) = theirs([images.pixels[0]])
    assert len(expected["boxes"])
    for part in ("boxes", "scores", "labels"):
        torch.testing.assert_close(found[part], expected[part], rtol=1e-4, atol=1e-4)
    if name == "fcos":
        return
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    pasted = paste_masks_in_image(found["masks"], found["boxes"], (HEIGHT, WIDTH))
    torch.testing.assert_close(pasted, expected["masks"], rtol=1e-4, atol=1e-4)


def small(**options) -> Detector:
    torch.manual_seed(0)
    masks = options.pop("masks", True)
    backbone = build(BackboneConfig("resnet18"))
    few = {"samples": 8, "proposals": 8, "width": 32}
    return Detector(levels_of(backbone, "ours"), 2, masks, config(**few, **options)).train()


@pytest.mark.parametrize("head", ["rcnn", "fcos"])
def test_a_batch_without_any_box_has_a_loss_and_gradients_everywhere(head):
    masks = head == "rcnn"
    detector = small(head=head, masks=masks)
    output = detector(batch(masks, none=True), STEP)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    trained = {name for name, p in detector.named_parameters() if p.requires_grad}
    assert {name for name, p in detector.named_parameters() if p.grad is not None} == trained


@pytest.mark.parametrize("up_to", [0, 2, 4, 5])
def test_frozen_stages_are_not_trained_and_their_statistics_stay(up_to):
    detector = small(freeze=up_to, batchnorm="sync")
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    detector(batch(), STEP).loss.backward()
    frozen = ["stem.", *(f"stages.{i}." for i in range(4))][: up_to and up_to]
    for name, parameter in detector.named_parameters():
        inner = name.removeprefix("backbone.network.")
        is_frozen = any(inner.startswith(stage) for stage in frozen)
        assert parameter.requires_grad != is_frozen, name
        assert (parameter.grad is None) == is_frozen, name
    for name, tensor in detector.state_dict().items():
        if name.endswith("running_mean"):
            inner = name.removeprefix("backbone.network.")
            is_frozen = any(inner.startswith(stage) for stage in frozen)
            assert torch.equal(tensor, before[name]) == is_frozen, name


def test_the_pyramid_is_normalised_where_the_backbone_is():
    kinds = [
        {type(module) for module in small(batchnorm=way, freeze=0).neck.modules()}
        for way in ("frozen", "sync")
    ]
    assert [nn.BatchNorm2d in kind for kind in kinds] == [False, True]


def test_options_reach_torchvisions_parts():
    heads = small(score_floor=0.3, most=7, anchor_scale=2.0).heads
    assert (heads.roi_heads.score_thresh, heads.roi_heads.detections_per_img) == (0.3, 7)
    assert heads.rpn.anchor_generator.sizes == ((8,), (16,), (32,), (64,), (128,))
    assert heads.rpn._post_nms_top_n == {"training": 16, "testing": 8}
    (fcos,) = small(head="fcos", masks=False, score_floor=0.3, most=7).heads._model
    assert (fcos.score_thresh, fcos.detections_per_img) == (0.3, 7)


def test_maps_are_in_fp32_and_losses_that_are_told_have_no_gradient():
    detector = small(masks=False)
    with torch.autocast("cpu", torch.bfloat16):
        maps = detector.features(batch(masks=False))
    assert {level.dtype for level in maps.values()} == {torch.float32}
    told = detector(batch(masks=False), STEP).metrics
    assert not any(loss.requires_grad for loss in told.values())


def test_fcos_means_are_over_the_places_that_have_an_object():
    """Of which each loss is the sum over their number: twice the images, alike, are twice as many."""
    detector = small(head="fcos", masks=False).eval()
    images = batch(masks=False)
    maps = detector.features(images)
    detector.heads.train()
    sizes = ImageList(images.pixels, list(images.sizes))
    _, counted = detector.heads(sizes, maps, targets_of(images))
    outputs = detector.heads.head(list(maps.values()))
    anchors = detector.heads._model[0].anchor_generator(sizes, list(maps.values()))
    places = [level.shape[2] * level.shape[3] for level in maps.values()]
    (model,) = detector.heads._model
    matched: list[torch.Tensor] = []
    inner = model.head.compute_loss
    model.head.compute_loss = lambda *words: matched.extend(words[3]) or inner(*words)
    model.compute_loss(targets_of(images), outputs, anchors, places)
    del model.head.compute_loss
    count = sum(int((own >= 0).sum()) for own in matched)
    assert count > 2
    assert {each.samples for each in counted.values()} == {count}


def test_frozen_batchnorms_keep_factors_and_statistics():
    detector = small()
    before = {k: v.clone() for k, v in detector.state_dict().items() if "running" in k}
    detector(batch(), STEP).loss.backward()
    assert before
    for name, tensor in before.items():
        torch.testing.assert_close(detector.state_dict()[name], tensor)
    assert not detector.backbone.network.stem.bn.weight.requires_grad
    assert detector.backbone.network.stem.conv.weight.requires_grad


def test_c4_heads_are_the_last_stage_and_own_it_once():
    detector = small(neck="c4", masks=False)
    output = detector(batch(masks=False), STEP)
    output.loss.backward()
    names = [name for name, _ in detector.named_parameters()]
    assert not any("box_head" in name for name in names)
    grads = {name for name, p in detector.named_parameters() if p.grad is not None}
    assert "backbone.network.stages.3.0.conv1.weight" in grads
    assert detector.eval()(one_of(batch(masks=False)), STEP).metrics["boxes"].shape[1] == 4


def one_of(images: BoxBatch) -> BoxBatch:
    return images.chunk(2)[0]


def test_c4_needs_a_last_stage_that_is_known():
    network = torchvision.models.resnet18()
    network.fc = nn.Identity()
    levels = levels_of(Pooled(network, 512, "torchvision:resnet"), "torchvision:resnet18")
    with pytest.raises(InputError, match="neck=c4"):
        Detector(levels, 2, False, config(neck="c4"))


@pytest.mark.parametrize(("positive", "negative"), [(1, 20), (9, 20), (9, 2), (0, 3)])
def test_as_many_are_drawn_as_torchvision_draws(positive, negative):
    """Where positive ones are few, negative ones take their places."""
    theirs = BalancedPositiveNegativeSampler(8, 0.25)
    ours = Sampler(theirs)
    labels = torch.tensor([1.0] * positive + [0.0] * negative + [-1.0] * 4)
    ours.begin(np.array([5], np.uint64))
    drawn = [own[0].bool() for own in ours([labels])]
    for own, other in zip(drawn, theirs([labels]), strict=True):
        assert own.sum() == other[0].sum()
    assert (labels[drawn[0]] == 1).all()
    assert (labels[drawn[1]] == 0).all()
    assert (ours.positive, ours.taken) == (int(drawn[0].sum()), int(sum(map(torch.sum, drawn))))


def test_what_is_drawn_depends_on_the_image_alone():
    class Of:
        batch_size_per_image = 8
        positive_fraction = 0.5

    labels = [torch.randint(-1, 2, (100,)), torch.randint(-1, 2, (100,))]
    together = Sampler(Of)
    together.begin(mix(0, 1, torch.arange(2).numpy()))
    positive, negative = together(labels)
    assert (together.taken, together.positive) == (16, 8)
    for i in range(2):
        alone = Sampler(Of)
        alone.begin(mix(0, 1, torch.tensor([i]).numpy()))
        (own_positive,), (own_negative,) = alone(labels[i : i + 1])
        assert torch.equal(own_positive, positive[i])
        assert torch.equal(own_negative, negative[i])
        assert (labels[i][own_positive.bool()] == 1).all()
        assert (labels[i][own_negative.bool()] == 0).all()
        assert (own_positive.sum(), own_negative.sum()) == (4, 4)


def kept_batches() -> list[BoxBatch]:
    """A batch, the same again in another order, and one of which an image is another."""
    first = replace(batch(), digests=(b"a", b"b"))
    turned = replace(
        first,
        pixels=first.pixels.flip(0),
        boxes=first.boxes[::-1],
        labels=first.labels[::-1],
        masks=first.masks[::-1],
        digests=first.digests[::-1],
    )
    pixels = torch.cat([first.pixels[:1], -first.pixels[1:]])
    return [first, turned, replace(first, pixels=pixels, digests=(b"a", b"c"))]


def learned(options: dict, room: float) -> tuple[list[torch.Tensor], int]:
    """Losses and gradients of those batches, with so many GiB for features; how often the last frozen
    stage ran.
    """
    torch.manual_seed(0)
    levels = levels_of(build(BackboneConfig("regnety_002")), "regnety_002")
    few = {"width": 8, "samples": 16, "proposals": 16}
    masks = options.get("neck") != "c4"
    detector = Detector(levels, 2, masks, config(keep_features=room, **few, **options)).train()
    last = min(options["freeze"] - 2, 3 if masks else 2)
    calls: list[int] = []
    levels.network.stages[last].register_forward_hook(lambda *_: calls.append(1))
    trained = [p for p in detector.parameters() if p.requires_grad]
    values = []
    for images in kept_batches():
        loss = detector(images if masks else replace(images, masks=None), STEP).loss
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        values += [loss.detach(), *(g for g in gradients if g is not None)]
    return values, len(calls)


@pytest.mark.parametrize(
    "options",
    [
        {"freeze": 2},
        {"freeze": 4, "batchnorm": "sync"},
        {"freeze": 5, "neck": "c4"},
    ],
)
def test_frozen_stages_run_once_for_an_image_and_nothing_else_changes(options):
    """With room for all and for none: the same losses and gradients, bit by bit. Of six images of
    three batches there are three.
    """
    kept, times = learned(options, 1.0)
    again, every_time = learned(options, 1e-9)
    assert (times, every_time) == (3, 6)
    for ours, theirs in zip(kept, again, strict=True):
        assert torch.equal(ours, theirs)


def test_what_came_first_stays_while_there_is_room():
    maps = [torch.ones(1, 1, 16, 16)]
    kept = KeptFeatures(1.5 * maps[0].nbytes / GIB)
    images = kept_batches()[0]
    for _ in range(2):
        kept.of(images, lambda _: maps)
    assert kept.images == 1
    assert 0 <= kept.room < maps[0].nbytes


def test_kept_features_are_those_of_whole_batches():
    torch.manual_seed(0)
    levels = levels_of(build(BackboneConfig("regnety_002")), "regnety_002")
    detector = Detector(levels, 2, True, config(freeze=4, width=32, keep_features=1.0)).train()
    images = kept_batches()[0]
    kept = detector.levels(images)
    detector.kept = None
    for ours, theirs in zip(kept, detector.levels(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"freeze": 0}, "freeze=0 leaves no stage"), ({"freeze": 2}, "stages of this model")],
)
def test_features_are_kept_of_frozen_stages_that_are_known(options, message):
    network = torchvision.models.resnet18()
    network.fc = nn.Identity()
    known = options["freeze"] == 0
    model = (
        build(BackboneConfig("regnety_002"))
        if known
        else Pooled(network, 512, "torchvision:resnet")
    )
    with pytest.raises(InputError, match=message):
        Detector(levels_of(model, "model"), 2, False, config(keep_features=1.0, **options))


def test_maps_that_are_not_finite_are_not_tested():
    detector = small(masks=False).eval()
    next(detector.neck.parameters()).data[0] = float("nan")
    with pytest.raises(InputError, match="maps of a test image are NaN or infinite"):
        detector(batch(masks=False), STEP)
