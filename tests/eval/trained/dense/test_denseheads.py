"""UPerNet and PSPNet, against transformers' with the same weights, which are those of mmsegmentation's."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from seer.eval.trained.dense.denseheads import Auxiliary, Head, PSPNet, UPerNet

published = pytest.importorskip("transformers.models.upernet.modeling_upernet")

WIDTHS = (8, 16, 24, 32)
WIDTH = 12
CLASSES = 5


def maps() -> list[torch.Tensor]:
    torch.manual_seed(0)
    sides = [(24, 36), (12, 18), (6, 9), (3, 5)]
    return [torch.randn(2, w, *side) for w, side in zip(WIDTHS, sides, strict=True)]


def theirs() -> nn.Module:
    """With statistics that are not the initial ones."""
    torch.manual_seed(1)
    options = SimpleNamespace(pool_scales=[1, 2, 3, 6], hidden_size=WIDTH, num_labels=CLASSES)
    head = published.UperNetHead(options, list(WIDTHS))
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return head


def copied(ours: nn.Sequential, module: nn.Module) -> None:
    """Convolution and BatchNorm of one of their blocks into one of ours."""
    convolution, norm = (m for m in ours if isinstance(m, nn.Conv2d | nn.BatchNorm2d))
    convolution.load_state_dict(module.conv.state_dict())
    norm.load_state_dict(module.batch_norm.state_dict())


def copy_pooling(ours: nn.Module, head: nn.Module) -> None:
    for own, module in zip(ours.pooled, head.psp_modules.blocks, strict=True):
        (block,) = [m for m in module.modules() if isinstance(m, published.UperNetConvModule)]
        copied(own, block)
    copied(ours.joined, head.bottleneck)


def equal(ours: Head, expected, inputs) -> None:
    for training in (False, True):
        ours.train(training)
        torch.testing.assert_close(ours(inputs), expected(training), atol=1e-4, rtol=1e-4)


def test_upernet_is_the_published_one():
    head = theirs()
    ours = UPerNet(WIDTHS, WIDTH, CLASSES)
    copy_pooling(ours.pooling, head)
    for own, module in zip(ours.lateral, head.lateral_convs, strict=True):
        copied(own, module)
    for own, module in zip(ours.smooth, head.fpn_convs, strict=True):
        copied(own, module)
    copied(ours.fused, head.fpn_bottleneck)
    ours.last.load_state_dict(head.classifier.state_dict())
    inputs = maps()
    equal(ours, lambda training: head.train(training)(inputs), inputs)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in head.parameters())


def test_pspnet_is_the_published_pooling_and_a_classifier():
    head = theirs()
    ours = PSPNet(WIDTHS, WIDTH, CLASSES)
    copy_pooling(ours.pooling, head)
    ours.last.load_state_dict(head.classifier.state_dict())
    inputs = maps()

    def expected(training):
        head.train(training)
        return head.classifier(head.psp_forward(inputs))

    equal(ours, expected, inputs)


def test_the_auxiliary_head_is_the_published_one():
    options = SimpleNamespace(
        auxiliary_in_channels=None,
        auxiliary_channels=WIDTH,
        auxiliary_num_convs=1,
        auxiliary_concat_input=False,
        num_labels=CLASSES,
    )
    head = published.UperNetFCNHead(options, list(WIDTHS))
    ours = Auxiliary(WIDTHS, WIDTH, CLASSES)
    copied(ours.block, head.convs[0])
    ours.last.load_state_dict(head.classifier.state_dict())
    inputs = maps()
    equal(ours, lambda training: head.train(training)(inputs), inputs)


def test_dropped_channels_are_not_seen():
    ours = PSPNet(WIDTHS, WIDTH, CLASSES).eval()
    inputs = maps()
    kept = torch.ones(2, WIDTH)
    kept[0, 3] = 0
    with torch.no_grad():
        before = ours(inputs)
        after = ours(inputs, kept)
        ours.last.weight[:, 3] = 0
        without = ours(inputs)
    torch.testing.assert_close(after[0], without[0])
    torch.testing.assert_close(after[1], before[1])
