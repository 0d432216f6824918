"""ResNets against timm, torchvision and the sizes that SwAV published."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from seer.backbones import build
from seer.backbones.designs import RESNETS
from seer.interop.layouts import layout
from tests.backbones.parity import assert_same_function, on_meta, settle, shapes

NARROW = [name for name, spec in RESNETS.items() if spec.width == 1]


def test_every_size_and_width_is_there():
    assert [f"resnet{layers}" for layers in (18, 34, 50, 101, 152, 200)] == NARROW
    assert all(f"{name}w{width}" in RESNETS for name in NARROW for width in (2, 4))


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet50", 23.5), ("resnet50w2", 93.9), ("resnet50w4", 375.4)]
)
def test_swav_networks(name, millions):
    """SwAV quotes 24M, 94M and 375M (table 5): all widths, the stem's included, are multiplied."""
    backbone = on_meta(name)
    assert sum(parameter.numel() for parameter in backbone.parameters()) / 1e6 == pytest.approx(
        millions, abs=0.05
    )
    assert backbone.out_dim == 2048 * RESNETS[name].width


class WideTorchvision(torchvision.models.ResNet):
    """torchvision's network with every width, the stem's too, multiplied."""

    def __init__(self, bottleneck: bool, depths: tuple[int, ...], width: float):
        self.width = width
        resnet = torchvision.models.resnet
        super().__init__(resnet.Bottleneck if bottleneck else resnet.BasicBlock, list(depths))
        self.fc = nn.Identity()

    def _make_layer(self, block, planes, *args, **kwargs):
        if planes == 64:  # the first stage: what stands before it is still narrow
            self.inplanes = int(self.inplanes * self.width)
            self.conv1 = nn.Conv2d(3, self.inplanes, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(self.inplanes)
        return super()._make_layer(block, int(planes * self.width), *args, **kwargs)


@pytest.mark.parametrize(
    "name", ["resnet18w4", "resnet34", "resnet50w2", "resnet50w4", "resnet152", "resnet200w2"]
)
def test_every_tensor_has_torchvisions_name_and_shape(name):
    spec = RESNETS[name]
    with torch.device("meta"):
        ours, theirs = on_meta(name), WideTorchvision(spec.bottleneck, spec.depths, spec.width)
    assert shapes(layout("torchvision", ours).to_theirs(ours.state_dict())) == shapes(
        theirs.state_dict()
    )


@pytest.mark.parametrize("name", ["resnet18", "resnet101", "resnet200"])
def test_every_tensor_has_timms_name_and_shape(name):
    with torch.device("meta"):
        ours, theirs = on_meta(name), timm.create_model(name, num_classes=0)
    assert shapes(layout("timm", ours).to_theirs(ours.state_dict())) == shapes(theirs.state_dict())


@pytest.mark.parametrize(
    ("name", "depths", "width"),
    [("resnet18w2", (2, 2, 2, 2), 2), ("resnet10_half", (1, 1, 1, 1), 0.5)],
)
def test_it_computes_what_torchvisions_of_that_width_computes(name, depths, width):
    ours = settle(build(name))
    theirs = WideTorchvision(bottleneck=False, depths=depths, width=width).eval()
    theirs.load_state_dict(layout("torchvision", ours).to_theirs(ours.state_dict()))
    assert_same_function(ours, theirs)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_computes_what_torchvision_computes(name):
    ours = settle(build(name))
    theirs = getattr(torchvision.models, name)().eval()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(layout("torchvision", ours).to_theirs(ours.state_dict()))
    assert_same_function(ours, theirs)


@pytest.mark.parametrize("name", ["resnet18"])
def test_computes_what_timm_computes(name):
    ours = settle(build(name))
    theirs = timm.create_model(name, num_classes=0).eval()
    theirs.load_state_dict(layout("timm", ours).to_theirs(ours.state_dict()))
    assert_same_function(ours, theirs)


def test_small_image_stem_is_the_usual_change_to_torchvisions():
    ours = settle(build("resnet18", stem_stride=1))
    theirs = torchvision.models.resnet18().eval()
    theirs.fc, theirs.maxpool = nn.Identity(), nn.Identity()
    theirs.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    theirs.load_state_dict(layout("torchvision", ours).to_theirs(ours.state_dict()))
    assert_same_function(ours, theirs)
