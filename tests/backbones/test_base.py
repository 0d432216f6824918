from copy import deepcopy
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from seer.backbones import ALIASES, BACKBONES, BackboneConfig, build, canonical
from seer.backbones.base import materialize
from seer.backbones.regnet import RegNet, RegNetSpec
from seer.config import parse_overrides, resolve
from seer.errors import InputError
from tests.backbones.parity import on_meta

SMALL = ["regnety_002", "regnety_004", "regnetx_002", "resnet18", "resnet50"]


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_builds_on_meta(name):
    backbone = on_meta(name)
    assert all(tensor.is_meta for tensor in backbone.state_dict().values())
    assert len(backbone.stages) == 4
    assert backbone.out_dim == backbone.channels[-1]
    assert backbone.config.name == name


@pytest.mark.parametrize("name", SMALL)
def test_materialize_initialises_everything(name):
    backbone = materialize(deepcopy(on_meta(name)), "cpu")
    for key, tensor in backbone.state_dict().items():
        assert torch.isfinite(tensor).all(), key
    assert backbone(torch.randn(2, 3, 32, 32)).isfinite().all()


def test_materialize_shows_what_reset_parameters_misses():
    class Forgetful(nn.Module):
        def __init__(self):
            super().__init__()
            self.kept = nn.Parameter(torch.empty(3))
            self.forgotten = nn.Parameter(torch.empty(3))
            self.register_buffer("counter", torch.empty((), dtype=torch.int64))

        def reset_parameters(self):
            nn.init.zeros_(self.kept)
            self.counter.zero_()

    with torch.device("meta"):
        module = Forgetful()
    materialize(module, "cpu")
    assert module.kept.eq(0).all()
    assert module.forgotten.isnan().all()


def test_materialize_depends_on_the_seed_alone():
    torch.manual_seed(3)
    first = materialize(deepcopy(on_meta("regnety_002")), "cpu").state_dict()
    torch.manual_seed(3)
    second = materialize(deepcopy(on_meta("regnety_002")), "cpu").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_initialisation_is_the_papers():
    backbone = build("regnety_004")
    wide = backbone.stages[3][1]
    for conv in (wide.conv1, wide.conv2, wide.conv3):
        fan_out = conv.out_channels * conv.kernel_size[0] ** 2
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        assert conv.weight.mean().item() == pytest.approx(0, abs=0.002)
    assert wide.se.reduce.bias.eq(0).all()
    assert wide.bn3.weight.eq(1).all()
    assert wide.bn3.bias.eq(0).all()
    assert (wide.bn1.eps, wide.bn1.momentum) == (1e-5, 0.1)


@pytest.mark.parametrize("name", ["regnety_002", "resnet18", "resnet50"])
def test_zero_init_residual_starts_every_branch_at_zero(name):
    block = build(name, zero_init_residual=True).stages[-1][1]
    x = torch.randn(2, block.conv1.in_channels, 4, 4)
    assert torch.equal(block(x), x.relu())
    assert not torch.equal(build(name).stages[-1][1](x), x.relu())


@pytest.mark.parametrize(
    ("name", "stem_stride", "strides"),
    [
        ("regnety_002", 2, [4, 8, 16, 32]),
        ("regnety_002", 1, [2, 4, 8, 16]),
        ("resnet18", 2, [4, 8, 16, 32]),
        ("resnet18", 1, [1, 2, 4, 8]),
    ],
)
def test_feature_maps(name, stem_stride, strides):
    backbone = build(name, stem_stride=stem_stride).eval()
    images = torch.randn(2, 3, 64, 96)
    features = backbone.forward_features(images)
    expected = [
        (2, width, 64 // s, 96 // s) for width, s in zip(backbone.channels, strides, strict=True)
    ]
    assert [tuple(feature.shape) for feature in features] == expected
    torch.testing.assert_close(backbone(images), features[-1].flatten(2).mean(2))


@pytest.mark.parametrize("name", ["regnety_002", "resnet18"])
def test_in_place_layers_leave_the_returned_features_alone(name):
    """C2..C5 as returned are what each stage computes on its own, and gradients flow to all of
    them.
    """
    backbone = build(name).eval()
    images = torch.randn(2, 3, 64, 64, requires_grad=True)
    features = backbone.forward_features(images)
    x = backbone.stem(images)
    for stage, feature in zip(backbone.stages, features, strict=True):
        x = stage(x.clone())
        assert torch.equal(feature, x)
    sum(feature.sum() for feature in features).backward()
    assert images.grad.isfinite().all()


@pytest.mark.parametrize("name", ["regnety_002", "resnet18"])
def test_channels_last_stays_channels_last(name):
    backbone = build(name).to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    for feature in backbone.forward_features(images)[:3]:
        assert feature.is_contiguous(memory_format=torch.channels_last)


def test_compiles_into_one_graph():
    spec = RegNetSpec(depth=4, w_0=24, w_a=36.44, w_m=2.49, group_width=8, se=True)
    backbone = RegNet(spec, BackboneConfig()).eval()
    images = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), backbone(images))


def test_aliases_mean_published_names_and_hide_none():
    assert canonical("regnety_8gf") == "regnety_080"
    assert canonical("regnety_800mf") == "regnety_008"
    assert canonical("regnety_1.6gf") == "regnety_016"
    assert canonical("regnety_128gf") == "regnety_1280"
    assert canonical("regnety_8gf_tv") == "regnety_080_tv"
    assert not ALIASES.keys() & BACKBONES.keys()
    assert build("regnety_200mf").config.name == "regnety_002"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("regnety_128", "regnety_128"),
        ("resnet50_w2", "resnet50w2"),
        ("regnet_y_004", "regnety_004"),
    ],
)
def test_unknown_name_names_the_nearest(name, hint):
    with pytest.raises(InputError, match=f"unknown backbone '{name}'.*{hint}"):
        build(name)


def test_bad_stem_stride():
    with pytest.raises(InputError, match=r"backbone\.stem_stride: 4 is not one of: 1, 2"):
        build("resnet18", stem_stride=4)


def test_config_is_mergeable():
    @dataclass
    class Run:
        backbone: BackboneConfig = field(default_factory=BackboneConfig)

    config = resolve(
        Run, [parse_overrides(["backbone.name=resnet18", "backbone.stem_stride=1"])]
    ).backbone
    assert config == BackboneConfig("resnet18", stem_stride=1)
    assert build(config).config == config
