"""Networks of timm and torchvision as backbones that are trained."""

import pytest
import torch
from torch import nn

from seer.backbones import build
from seer.backbones.base import materialize
from seer.errors import InputError
from seer.interop.export import export
from seer.interop.foreign import Pooled
from seer.interop.initial import load_initial
from seer.interop.models import load_model
from seer.interop.native import save_backbone
from tests.interop.conftest import MEAN, STD

NAME = "torchvision:shufflenet_v2_x0_5"
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [NAME, "timm:resnet10t", "timm:mobilenetv3_small_050"])
def test_it_is_the_librarys_network_without_its_classifier(name):
    backbone = build(name)
    start = load_initial(backbone, f"{name}:random")
    theirs = load_model(f"{name}:random").backbone
    assert start.summary.endswith("→ backbone")
    with torch.no_grad():
        features = backbone.eval()(IMAGES)
        assert features.shape == (2, backbone.out_dim)
        torch.testing.assert_close(features, theirs(IMAGES))


def test_it_is_built_without_memory_and_initialised_by_itself():
    with torch.device("meta"):
        backbone = build(NAME)
    torch.manual_seed(1)
    materialize(backbone, "cpu")
    assert all(p.isfinite().all() for p in backbone.parameters())
    assert backbone.eval()(IMAGES).std() > 0


def test_what_was_trained_is_measured_as_any_of_its_library_and_trained_further(tmp_path):
    trained = build(NAME)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.01
    path = tmp_path / "backbone.safetensors"
    save_backbone(path, trained.state_dict(), trained.config, 32, MEAN, STD)
    model = load_model(str(path))
    assert isinstance(model.backbone, Pooled)
    assert model.backbone.name == NAME
    with pytest.raises(InputError, match=f"its network is another library's \\({NAME}\\)"):
        export(str(path), "timm", tmp_path / "out.safetensors")
    again = build(NAME)
    load_initial(again, str(path))
    with torch.no_grad():
        expected = trained.eval()(IMAGES)
        # Weights that lie elsewhere in memory are added up in another order on some processors.
        torch.testing.assert_close(again.eval()(IMAGES), expected)
        torch.testing.assert_close(model.backbone(IMAGES), expected)


def refused(source: object, name: str, **options) -> str:
    with pytest.raises(InputError) as caught:
        load_initial(build(name, **options), str(source))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_fit_is_told_with_what_would(tmp_path):
    fitting = f"set backbone.name={NAME}"
    assert refused(
        f"{NAME}:random", "torchvision:squeezenet1_1".replace("squeezenet1_1", "mnasnet0_5")
    ).endswith(fitting)
    assert refused(f"{NAME}:random", "resnet18").endswith(fitting)
    assert refused("resnet18:random", NAME).endswith("set backbone.name=resnet18")
    path = tmp_path / "weights.pth"
    torch.save(nn.Linear(1, 1).state_dict(), path)
    assert refused(path, NAME).endswith(f"give init={NAME}:FILE")
    with pytest.raises(InputError, match="no such classifier"):
        build("torchvision:resnet19")
    with pytest.raises(InputError, match=r"leave backbone\.stem_stride"):
        build(NAME, stem_stride=1)
