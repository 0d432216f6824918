import json
import shlex
from unittest import mock

import pytest
import torch
from safetensors import safe_open

from seer.backbones import BackboneConfig, build
from seer.errors import InputError
from seer.interop import export as module
from seer.interop import timm, torchvision
from seer.interop.export import export
from seer.interop.layouts import layout
from seer.interop.models import load_model, save_backbone
from tests.backbones.parity import assert_features_agree, on_meta, settle

NAMES = ["regnety_002", "regnety_008_tv", "regnetx_002", "resnet18"]
# also two that timm does not build by their names
FINE = [*NAMES, "regnetx_004_tv", "regnetx_tiny"]
MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]


def write(path, name, **options):
    config = BackboneConfig(name, **options)
    backbone = settle(build(config))
    save_backbone(
        path, backbone.state_dict(), config, 64, MEAN, STD, {"label": "mine", "config_hash": "abc"}
    )
    return backbone


@pytest.mark.parametrize("to", ["safetensors", "torchvision", "timm"])
@pytest.mark.parametrize("name", NAMES)
def test_the_printed_instructions_give_the_same_features(name, to, tmp_path):
    ours = write(tmp_path / "in.safetensors", name)
    out = tmp_path / "new folder" / "it's.safetensors"
    summary = export(str(tmp_path / "in.safetensors"), to, out)

    scope: dict = {}
    exec(summary["how_to_load"], scope)
    images = torch.randn(2, 3, 64, 64)
    theirs = scope["model"].eval()
    assert_features_agree(theirs(images), ours(images))
    assert type(theirs).__module__.startswith({"safetensors": "seer."}.get(to, f"{to}."))

    assert summary["max_abs_diff"] <= 1e-4 * max(1.0, ours(images).abs().max().item())
    assert (summary["out"], summary["to"], summary["architecture"]) == (str(out), to, name)
    assert summary["parameters"] == sum(parameter.numel() for parameter in ours.parameters())
    with safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["seer"])["how_to_load"] == summary["how_to_load"]
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("to", ["torchvision", "timm"])
@pytest.mark.parametrize("name", ["resnet18", "regnety_002"])
def test_the_printed_instructions_give_a_network_to_finetune(name, to, tmp_path):
    """A classifier is on the features, and its gradient reaches the first layer."""
    ours = write(tmp_path / "in.safetensors", name)
    summary = export(str(tmp_path / "in.safetensors"), to, tmp_path / "out.safetensors")
    scope: dict = {"CLASSES": 7}
    exec(f"{summary['how_to_load']}; {summary['how_to_finetune']}", scope)
    model = scope["model"].eval()
    images = torch.randn(2, 3, 64, 64)
    outputs = model(images)
    classifier = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    torch.testing.assert_close(outputs, classifier(ours(images)), rtol=1e-3, atol=1e-3)
    outputs.sum().backward()
    first = next(model.parameters())
    assert outputs.shape == (2, 7)
    assert first.grad is not None
    assert first.grad.abs().sum() > 0


def test_what_is_ours_is_finetuned_by_the_verb(tmp_path):
    write(tmp_path / "in.safetensors", "regnety_002")
    out = tmp_path / "it's.safetensors"
    summary = export(str(tmp_path / "in.safetensors"), "safetensors", out)
    assert shlex.split(summary["how_to_finetune"])[:5] == [
        *["seer", "eval", "finetune", "--model"],
        str(out),
    ]
    assert summary["input"].startswith("64 px, RGB from 0 to 1, less ")


@pytest.mark.parametrize("to", ["safetensors", "torchvision", "timm"])
def test_what_was_exported_is_still_a_model_of_ours(to, tmp_path):
    ours = write(tmp_path / "in.safetensors", "regnety_002")
    export(str(tmp_path / "in.safetensors"), to, tmp_path / "out.safetensors")
    model = load_model(str(tmp_path / "out.safetensors"))
    images = torch.randn(2, 3, 64, 64)
    assert_features_agree(model.backbone(images), ours(images))
    assert (model.label, model.config_hash, model.size, model.mean) == ("mine", "abc", 64, MEAN)


def test_what_was_exported_is_a_model_of_the_other_library(tmp_path):
    ours = write(tmp_path / "in.safetensors", "regnety_002")
    out = tmp_path / "out.safetensors"
    export(str(tmp_path / "in.safetensors"), "timm", out)
    images = torch.randn(2, 3, 64, 64)
    assert_features_agree(load_model(f"timm:regnety_002:{out}").backbone(images), ours(images))


def test_an_untrained_network_can_be_exported(tmp_path):
    assert (
        export("resnet50:random", "torchvision", tmp_path / "r.safetensors")["architecture"]
        == "resnet50"
    )


@pytest.mark.parametrize(
    "name", ["regnety_10b", "regnety_2560", "regnety_080", "regnetx_320", "resnet200"]
)
@pytest.mark.parametrize("library", [timm, torchvision], ids=["timm", "torchvision"])
def test_large_networks_are_built_there_too(name, library):
    """On meta, with reading the file and loading by path replaced by our tensors' names and shapes."""
    ours = on_meta(name)
    to = library.__name__.rpartition(".")[2]
    theirs = layout(to, ours).to_theirs(ours.state_dict())

    def load(model, path):
        model.load_state_dict(theirs, strict=True)

    scope: dict = {}
    with (
        mock.patch("safetensors.torch.load_file", return_value=theirs),
        mock.patch("timm.models._factory.load_checkpoint", load),
        torch.device("meta"),
    ):
        exec(library.how_to_load(ours).replace("PATH", "'x'"), scope)
    assert sum(p.numel() for p in scope["model"].parameters()) == sum(
        p.numel() for p in ours.parameters()
    )


@pytest.mark.parametrize("to", ["torchvision", "timm"])
@pytest.mark.parametrize("name", FINE)
def test_a_stem_of_stride_1_is_built_there_too(name, to, tmp_path):
    """As `swav_small` trains it."""
    ours = write(tmp_path / "in.safetensors", name, stem_stride=1)
    out = tmp_path / "out.safetensors"
    summary = export(str(tmp_path / "in.safetensors"), to, out)
    scope: dict = {}
    exec(summary["how_to_load"], scope)
    images = torch.randn(2, 3, 32, 32)
    assert_features_agree(scope["model"].eval()(images), ours(images))
    assert type(scope["model"]).__module__.startswith(f"{to}.")
    assert_features_agree(load_model(str(out)).backbone(images), ours(images))


@pytest.mark.parametrize("to", ["torchvision", "timm"])
def test_what_the_other_library_cannot_build_is_refused(to, tmp_path):
    with pytest.raises(InputError, match="every layer 2x wide; export --to safetensors"):
        export("resnet18w2:random", to, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_bad_requests_are_refused(tmp_path):
    with pytest.raises(InputError, match="did you mean 'timm'"):
        export("regnety_002:random", "tim", tmp_path / "out.safetensors")
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        export("regnety_002:random", "timm", tmp_path / "out.pth")
    with pytest.raises(InputError, match="already"):
        export("timm:resnet18:random", "torchvision", tmp_path / "out.safetensors")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        export("regnety_002:random", "timm", tmp_path / "file" / "out.safetensors")


def test_a_difference_is_fatal_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_run", lambda recipe: settle(build("regnety_002")))
    with pytest.raises(RuntimeError, match="computes other features"):
        export("regnety_002:random", "timm", tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == []
