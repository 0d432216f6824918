"""RegNets against the published tables, timm, torchvision and pycls."""

from contextlib import contextmanager
from unittest import mock

import pytest
import timm
import torch
import torchvision
from pycls.core.config import cfg, reset_cfg
from pycls.models.regnet import RegNet as PyclsRegNet
from torch import nn

from seer.backbones import build
from seer.backbones.designs import REGNETS
from seer.interop.layouts import layout
from tests.backbones.parity import assert_same_function, on_meta, settle, shapes

# SEER's networks: depths, widths, millions of parameters of the trunk (vissl's configs; timm's
# model cards).
SEER = {
    "regnety_080": ([2, 4, 10, 1], [168, 448, 896, 2016], 37.2),
    "regnety_160": ([2, 4, 11, 1], [224, 448, 1232, 3024], 80.6),
    "regnety_320": ([2, 5, 12, 1], [232, 696, 1392, 3712], 141.3),
    "regnety_640": ([2, 5, 12, 1], [328, 984, 1968, 4920], 276.5),
    "regnety_1280": ([2, 7, 17, 1], [528, 1056, 2904, 7392], 637.4),
    "regnety_2560": ([2, 7, 17, 1], [746, 1492, 4103, 10444], 1272.2),
    "regnety_10b": ([2, 7, 17, 1], [2020, 4040, 11110, 28280], 9323.9),
}
TORCHVISION = {
    "regnetx_004_tv": "regnet_x_400mf",
    "regnetx_008": "regnet_x_800mf",
    "regnetx_016": "regnet_x_1_6gf",
    "regnetx_032": "regnet_x_3_2gf",
    "regnetx_080": "regnet_x_8gf",
    "regnetx_160": "regnet_x_16gf",
    "regnetx_320": "regnet_x_32gf",
    "regnety_004": "regnet_y_400mf",
    "regnety_008_tv": "regnet_y_800mf",
    "regnety_016": "regnet_y_1_6gf",
    "regnety_032": "regnet_y_3_2gf",
    "regnety_080_tv": "regnet_y_8gf",
    "regnety_160": "regnet_y_16gf",
    "regnety_320": "regnet_y_32gf",
    "regnety_1280": "regnet_y_128gf",
}


@contextmanager
def pycls_configured(name: str):
    """pycls keeps its one configuration in a global."""
    spec = REGNETS[name]
    cfg.REGNET.DEPTH, cfg.REGNET.W0, cfg.REGNET.WA, cfg.REGNET.WM = (
        spec.depth,
        spec.w_0,
        spec.w_a,
        spec.w_m,
    )
    cfg.REGNET.GROUP_W, cfg.REGNET.SE_ON = spec.group_width, spec.se
    yield
    reset_cfg()


@pytest.mark.parametrize("name", SEER)
def test_seer_networks(name):
    depths, widths, millions = SEER[name]
    backbone = on_meta(name)
    assert [len(stage) for stage in backbone.stages] == depths
    assert list(backbone.channels) == widths
    assert sum(parameter.numel() for parameter in backbone.parameters()) / 1e6 == pytest.approx(
        millions, abs=0.051
    )


def test_the_tiny_network_has_a_block_in_each_stage():
    backbone = on_meta("regnetx_tiny")
    assert [len(stage) for stage in backbone.stages] == [1, 1, 1, 1]
    assert list(backbone.channels) == [32, 64, 128, 256]


def test_torchvision_and_classyvision_differ_at_8gf():
    assert on_meta("regnety_080").channels[0] == 168
    assert on_meta("regnety_080_tv").channels[0] == 224


OURS = ("regnety_10b", "regnetx_tiny")  # which timm does not have


@pytest.mark.parametrize("name", [name for name in REGNETS if name not in OURS])
def test_every_tensor_has_timms_name_and_shape(name):
    ours = on_meta(name)
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=0)
    assert shapes(layout("timm", ours).to_theirs(ours.state_dict())) == shapes(theirs.state_dict())


@pytest.mark.parametrize("name", TORCHVISION)
def test_stages_are_torchvisions(name):
    with mock.patch("torchvision.models.regnet.RegNet") as network:
        getattr(torchvision.models, TORCHVISION[name])()
    theirs = network.call_args.args[0]
    stages = REGNETS[name].stages
    assert [stage.width for stage in stages] == theirs.widths
    assert [stage.depth for stage in stages] == theirs.depths
    assert [stage.group_width for stage in stages] == theirs.group_widths


@pytest.mark.parametrize("name", [name for name, spec in REGNETS.items() if not spec.round_up])
def test_stages_are_pycls(name):
    with pycls_configured(name):
        theirs = PyclsRegNet.get_args()
    stages = REGNETS[name].stages
    assert [stage.width for stage in stages] == theirs["ws"]
    assert [stage.depth for stage in stages] == theirs["ds"]
    assert [stage.group_width for stage in stages] == theirs["gws"]


@pytest.mark.parametrize("name", ["regnety_002", "regnetx_002", "regnety_008_tv"])
def test_computes_what_timm_computes(name):
    ours = settle(build(name))
    theirs = timm.create_model(name, num_classes=0).eval()
    theirs.load_state_dict(layout("timm", ours).to_theirs(ours.state_dict()))
    assert_same_function(ours, theirs)


@pytest.mark.parametrize("name", ["regnety_004", "regnety_008_tv", "regnetx_004_tv"])
def test_computes_what_torchvision_computes(name):
    ours = settle(build(name))
    theirs = getattr(torchvision.models, TORCHVISION[name])().eval()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(layout("torchvision", ours).to_theirs(ours.state_dict()))
    assert_same_function(ours, theirs)


@pytest.mark.parametrize("name", ["regnety_002", "regnetx_002", "regnetx_tiny"])
def test_computes_what_pycls_computes(name):
    ours = settle(build(name))
    with pycls_configured(name):
        theirs = PyclsRegNet().eval()
    theirs.head.fc = nn.Identity()
    theirs.load_state_dict(layout("pycls", ours).to_theirs(ours.state_dict()))
    assert_same_function(ours, theirs)
