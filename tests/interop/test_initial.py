"""Weights that a training starts from; every advice of a refusal is followed."""

import re
from dataclasses import replace
from functools import cache

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from seer.backbones import BackboneConfig, build
from seer.backbones.base import Backbone
from seer.errors import InputError
from seer.interop.export import export
from seer.interop.initial import load_initial
from seer.interop.models import load_model
from seer.interop.native import save_backbone
from tests.backbones.parity import assert_features_agree, settle
from tests.interop.conftest import MEAN, STD, trained

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
# The name in the library, and ours.
PUBLISHED = [
    ("torchvision", "resnet18", "resnet18"),
    ("torchvision", "regnet_x_400mf", "regnetx_004_tv"),
    ("timm", "resnet18", "resnet18"),
    ("timm", "regnety_002", "regnety_002"),
]
CREATE = {"torchvision": torchvision.models.get_model, "timm": timm.create_model}


@cache
def published(library: str, name: str) -> nn.Module:
    """Another library's network with weights of its own, its classifier included. Not to be changed."""
    torch.manual_seed(2)
    return settle(CREATE[library](name))


@cache
def features(library: str, name: str) -> torch.Tensor:
    """What its classifier sees of `IMAGES`."""
    seen = []
    network = published(library, name)
    classifier = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    hook = classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(IMAGES)
    hook.remove()
    return seen[0]


def initialised(source: object, name: str, **options) -> tuple[Backbone, str]:
    """A backbone of ours that begins with some weights, and what was said of them."""
    backbone = build(name, **options)
    summary = load_initial(backbone, str(source)).summary
    assert "\n" not in summary
    return backbone.eval(), summary


def refused(source: object, name: str, **options) -> str:
    with pytest.raises(InputError) as caught:
        initialised(source, name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def followed(message: str, config: BackboneConfig) -> BackboneConfig:
    """The backbone's options as the message says to set them."""
    (advice,) = re.findall(r"; set ((?:backbone\.\w+=\w+ ?)+)$", message)
    given = dict(word.removeprefix("backbone.").split("=") for word in advice.split())
    if "stem_stride" in given:
        given["stem_stride"] = int(given["stem_stride"])
    return replace(config, **given)


@pytest.mark.parametrize(("library", "theirs", "ours"), PUBLISHED)
@pytest.mark.parametrize("form", ["library:NAME:FILE", "FILE", "FILE.safetensors"])
def test_published_weights(library, theirs, ours, form, tmp_path):
    path = tmp_path / "weights.pth"
    state = published(library, theirs).state_dict()
    torch.save(state, path)
    if form == "FILE.safetensors":
        path = path.with_suffix(".safetensors")
        save_file(state, path)
    source = f"{library}:{theirs}:{path}" if form.startswith("library") else str(path)
    backbone, summary = initialised(source, ours)
    assert_features_agree(backbone(IMAGES), features(library, theirs))
    assert summary.startswith(f"{len(backbone.state_dict()):,} tensors of {source}")
    assert "left aside" in summary


def test_an_untrained_network_of_another_library():
    backbone, _ = initialised("torchvision:resnet18:random", "resnet18")
    theirs = load_model("torchvision:resnet18:random").backbone
    assert_features_agree(backbone(IMAGES), theirs(IMAGES))


def test_weights_that_swav_published(tmp_path):
    """Within a `state_dict`, below `module.`, with its heads and prototypes beside the backbone."""
    trunk = {
        key: tensor
        for key, tensor in published("torchvision", "resnet18").state_dict().items()
        if not key.startswith("fc.")
    }
    heads = {"projection_head.0.weight": torch.ones(4, 4), "prototypes.weight": torch.ones(3, 4)}
    state = {f"module.{key}": tensor for key, tensor in (trunk | heads).items()}
    path = tmp_path / "swav.pth.tar"
    torch.save({"epoch": 3, "state_dict": state}, path)
    backbone, summary = initialised(path, "resnet18")
    assert_features_agree(backbone(IMAGES), features("torchvision", "resnet18"))
    assert summary.endswith("its head and prototypes left aside")


def test_our_own_names_runs_and_exported_files(run, tmp_path):
    path = tmp_path / "ours.pt"
    torch.save(trained(100).state_dict(), path)
    backbone, summary = initialised(path, "regnety_002")
    assert_features_agree(backbone(IMAGES), trained(100)(IMAGES))
    assert "seer's names" in summary
    backbone, summary = initialised(f"{run}:step-100", "regnety_002")
    assert_features_agree(backbone(IMAGES), trained(100)(IMAGES))
    assert summary == f"316 tensors of {run}:step-100 (my_run step-000000100) → backbone"
    backbone, _ = initialised(run, "regnety_200mf")
    assert_features_agree(backbone(IMAGES), trained(1200)(IMAGES))
    for to in ("safetensors", "timm"):
        export(str(run), to, tmp_path / "exported.safetensors")
        backbone, _ = initialised(tmp_path / "exported.safetensors", "regnety_002")
        assert_features_agree(backbone(IMAGES), trained(1200)(IMAGES))


def test_an_untrained_backbone_by_its_name():
    backbone, _ = initialised("resnet18:random", "resnet18")
    torch.testing.assert_close(backbone(IMAGES), load_model("resnet18:random").backbone(IMAGES))


def test_parameters_stay_those_of_the_optimizer(run):
    backbone = build("regnety_002")
    before = list(backbone.parameters())
    load_initial(backbone, str(run))
    assert all(a is b for a, b in zip(before, backbone.parameters(), strict=True))


@pytest.mark.parametrize(
    ("source", "name", "options", "advice"),
    [
        ("torchvision:resnet18:random", "resnet34", {}, "set backbone.name=resnet18"),
        ("timm:regnetx_002:random", "regnetx_002", {"stem_stride": 1}, "set backbone.stem_stride=2"),
        ("torchvision:resnet18:random", "resnet18", {"stem_stride": 1}, "set backbone.stem_stride=2"),
        (
            "torchvision:regnet_y_800mf:random",
            "regnetx_002",
            {"stem_stride": 1},
            "set backbone.name=regnety_008_tv backbone.stem_stride=2",
        ),
        ("resnet18:random", "regnety_002", {}, "set backbone.name=resnet18"),
        ("resnet18:random", "resnet18", {"stem_stride": 1}, "set backbone.stem_stride=2"),
    ],
)  # fmt: skip
def test_the_backbone_that_would_fit_is_named(source, name, options, advice):
    message = refused(source, name, **options)
    assert message.endswith(advice)
    fitting = followed(message, BackboneConfig(name, **options))
    load_initial(build(fitting), source)


def test_the_backbone_that_a_file_would_fit_is_named(tmp_path):
    path = tmp_path / "weights.bin"
    torch.save(build("resnet18", stem_stride=1).state_dict(), path)
    message = refused(path, "regnetx_002")
    assert message.endswith("set backbone.name=resnet18 backbone.stem_stride=1")
    load_initial(build(followed(message, BackboneConfig("regnetx_002"))), str(path))


def test_what_is_no_backbone_of_ours_is_refused(tmp_path):
    for source in ("timm:vit_tiny_patch16_224", "timm:resnet18d"):
        told = refused(f"{source}:random", "resnet18")
        assert told.endswith(f"set backbone.name={source}")
    state = published("timm", "resnet18").state_dict()
    state.popitem()
    del state["layer1.0.conv1.weight"]
    torch.save(state, tmp_path / "weights.pth")
    message = refused(tmp_path / "weights.pth", "resnet18")
    assert "1 tensors missing (stages.0.0.conv1.weight)" in message
    state["head_of_mine.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "weights.pth")
    assert "1 unexpected (head_of_mine.weight)" in refused(tmp_path / "weights.pth", "resnet18")


def test_no_part_of_what_does_not_fit_is_taken(tmp_path):
    backbone = build("resnet18")
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    state = dict(published("timm", "resnet18").state_dict())
    state["layer4.1.bn2.bias"] = torch.full_like(state["layer4.1.bn2.bias"], torch.nan)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="NaN or infinite"):
        load_initial(backbone, str(tmp_path / "weights.pth"))
    after = backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_file_that_says_nothing_of_its_stride_has_the_runs(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(published("timm", "regnety_002").state_dict(), path)
    backbone, summary = initialised(path, "regnety_002", stem_stride=1)
    assert summary.endswith("head left aside, taken as of stem_stride=1")
    reference = settle(build("regnety_002"))
    load_initial(reference, str(path))
    reference.stem.conv.stride = (1, 1)
    torch.testing.assert_close(backbone(IMAGES), reference(IMAGES))


class Intruder:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from a weight file ran')",))


def test_the_other_advice_works_too(run, tmp_path):
    """That of files with code in them, of runs without a checkpoint, of what is nothing at all."""
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {"weight": Intruder()}}, path)
    assert "save its state_dict alone as .safetensors" in refused(path, "regnety_002")
    save_file(trained(100).state_dict(), tmp_path / "alone.safetensors")
    initialised(tmp_path / "alone.safetensors", "regnety_002")

    for folder in (run / "checkpoints").iterdir():
        folder.rename(folder.with_suffix(".tmp"))
    message = refused(run, "regnety_002")
    assert message.endswith(f"use {run}:random")
    initialised(f"{run}:random", "regnety_002")

    message = refused("nowhere", "regnety_002")
    forms = message.partition("expected ")[2]
    assert forms == (
        "a run directory, a file or folder of weights, BACKBONE:random, "
        "timm:NAME[:WEIGHTS] or torchvision:NAME[:WEIGHTS], and @PIXELS behind it for images of another size"
    )


def test_what_a_library_would_give_another_stem_is_refused(tmp_path):
    """An exported file whose stem has stride 1, under the name of a network whose stem has 2."""
    config = BackboneConfig("regnety_002", stem_stride=1)
    state = trained(1).state_dict()
    save_backbone(tmp_path / "in.safetensors", state, config, 64, MEAN, STD)
    path = tmp_path / "out.safetensors"
    export(str(tmp_path / "in.safetensors"), "timm", path)
    with pytest.raises(InputError, match=r"another stride .* give the file alone"):
        load_model(f"timm:regnety_002:{path}")
    backbone, _ = initialised(path, "regnety_002", stem_stride=1)
    torch.testing.assert_close(load_model(str(path)).backbone(IMAGES), backbone(IMAGES))
