"""The maps of a model at four strides."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter

from seer.backbones import BackboneConfig, build
from seer.errors import InputError
from seer.interop.foreign import Pooled
from seer.interop.levels import Levels, levels_of


def test_levels_of_ours():
    backbone = build(BackboneConfig("resnet18")).eval()
    levels = levels_of(backbone, "ours")
    x = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(levels(x), backbone.forward_features(x))
    assert levels.channels == (64, 128, 256, 512)
    assert levels.strides == (4, 8, 16, 32)
    prefixes = [
        ("network.stem", "network.stages.0."),
        *((f"network.stages.{i}.",) for i in (1, 2, 3)),
    ]
    for names, own in zip(levels.parts, prefixes, strict=True):
        assert set(names) == {n for n, _ in levels.named_parameters() if n.startswith(own)}


def test_a_fine_stem_has_smaller_strides():
    levels = levels_of(build(BackboneConfig("resnet18", stem_stride=1)), "ours")
    assert levels.strides == (1, 2, 4, 8)


def test_levels_of_torchvision_are_its_stages():
    """Those that its own detectors take, and with the same weights."""
    network = torchvision.models.resnet18(num_classes=2).eval()
    stages = {f"layer{i + 1}": str(i) for i in range(4)}
    expected = IntermediateLayerGetter(network, stages)
    network.fc = nn.Identity()
    levels = levels_of(Pooled(network, 512, "torchvision:resnet"), "torchvision:resnet18").eval()
    x = torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(levels(x), list(expected(x).values()))
    assert levels.channels == (64, 128, 256, 512)
    assert {id(p) for p in levels.parameters()} == {id(p) for p in network.parameters()}
    assert all(name.startswith("network.layer4.") for name in levels.parts[3])


def test_levels_of_timm_leave_out_what_is_beyond_them():
    timm = pytest.importorskip("timm")
    network = timm.create_model("mobilenetv2_050", num_classes=0).eval()
    expected = timm.create_model(
        "mobilenetv2_050", features_only=True, out_indices=(1, 2, 3, 4)
    ).eval()
    missing, unexpected = expected.load_state_dict(network.state_dict(), strict=False)
    assert not missing
    levels = levels_of(Pooled(network, 1280, "torchvision:resnet"), "timm:mobilenetv2_050")
    x = torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(levels(x), expected(x))
    assert levels.channels == tuple(expected.feature_info.channels())
    left = {name for name, p in levels.named_parameters() if not p.requires_grad}
    assert left == {
        f"network.{name}" for name in unexpected if "running" not in name and "num" not in name
    }


def trained(levels: Levels) -> set[str]:
    return {name for name, p in levels.named_parameters() if p.requires_grad}


def test_every_trained_parameter_is_of_one_level():
    levels = levels_of(
        Pooled(torchvision.models.mobilenet_v2(), 1280, "torchvision:x"), "torchvision:mobilenet_v2"
    )
    names = [name for names in levels.parts for name in names]
    assert len(names) == len(set(names))
    assert set(names) == trained(levels)


def test_a_network_without_levels_is_refused_in_one_line():
    network = torchvision.models.vit_b_32()
    network.heads = nn.Identity()
    with pytest.raises(InputError, match="torchvision:vit_b_32: four maps are needed"):
        levels_of(Pooled(network, 768, "torchvision:resnet"), "torchvision:vit_b_32")
    swin = torchvision.models.swin_t()
    swin.head = nn.Identity()
    with pytest.raises(InputError, match="no map of stride 8"):
        levels_of(Pooled(swin, 768, "torchvision:resnet"), "torchvision:swin_t")
