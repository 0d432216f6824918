"""Backbones written for transformers and ONNX, and read again."""

import json

import pytest
import torch

from seer.backbones import BackboneConfig, build
from seer.errors import InputError
from seer.interop import onnx
from seer.interop.export import export
from seer.interop.importing import import_backbone
from seer.interop.models import load_model, save_backbone
from tests.backbones.parity import assert_features_agree, settle
from tests.kit.networks import BACKBONES

TINY = "regnety_tiny"
assert TINY in BACKBONES
MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
IMAGES = torch.randn(3, 3, 64, 80, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def written(tmp_path):
    """Writes a settled backbone to `in.safetensors`."""

    def write(name: str, **options):
        config = BackboneConfig(name, **options)
        torch.manual_seed(1)
        backbone = settle(build(config))
        about = {"label": "mine", "config_hash": "abc"}
        save_backbone(
            tmp_path / "in.safetensors", backbone.state_dict(), config, 64, MEAN, STD, about
        )
        return backbone

    return write


def loaded(recipe: str):
    scope: dict = {}
    exec(recipe, scope)
    return scope["model"]


@pytest.mark.parametrize("name", [TINY, "regnetx_002", "resnet18w2"])
def test_a_folder_for_transformers(tmp_path, written, name):
    ours = written(name)
    out = tmp_path / "new" / "it's"
    summary = export(str(tmp_path / "in.safetensors"), "transformers", out)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    theirs = loaded(summary["how_to_load"]).eval()
    assert type(theirs).__module__.startswith("transformers.")
    with torch.no_grad():
        assert_features_agree(theirs(IMAGES).pooler_output.flatten(1), ours(IMAGES))
    images = json.loads((out / "preprocessor_config.json").read_text())
    assert (images["size"], images["image_mean"]) == ({"shortest_edge": 64}, MEAN)

    model = load_model(str(out))  # what seer noted in it
    assert (model.label, model.size, model.mean) == ("mine", 64, MEAN)
    assert_features_agree(model.backbone(IMAGES), ours(IMAGES))
    theirs.save_pretrained(tmp_path / "theirs")  # and without that
    import_backbone(tmp_path / "theirs", "transformers", tmp_path / "back.safetensors")
    model = load_model(str(tmp_path / "back.safetensors"))
    assert_features_agree(model.backbone(IMAGES), ours(IMAGES))


def test_stems_of_stride_1_for_transformers(tmp_path, written):
    ours = written(TINY, stem_stride=1)
    summary = export(str(tmp_path / "in.safetensors"), "transformers", tmp_path / "out")
    with torch.no_grad():
        features = loaded(summary["how_to_load"]).eval()(IMAGES).pooler_output.flatten(1)
    assert_features_agree(features, ours(IMAGES))
    written("resnet18", stem_stride=1)
    with pytest.raises(InputError, match="have no stem of stride 1; export --to safetensors"):
        export(str(tmp_path / "in.safetensors"), "transformers", tmp_path / "other")
    with pytest.raises(InputError, match="is there already; give a new folder"):
        export(str(tmp_path / "in.safetensors"), "transformers", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors", "out"]


@pytest.mark.slow
@pytest.mark.parametrize("split", [False, True], ids=["one file", "weights beside it"])
def test_a_graph_of_onnx_takes_images_of_any_number_and_size(tmp_path, written, split, monkeypatch):
    if split:
        monkeypatch.setattr(onnx, "LARGEST", 1000)
    ours = written(TINY)
    out = tmp_path / "new" / "graph.onnx"
    summary = export(str(tmp_path / "in.safetensors"), "onnx", out)
    assert (
        sorted(path.name for path in out.parent.iterdir())
        == ["graph.onnx", "graph.onnx.data"][: 1 + split]
    )
    (features,) = loaded(summary["how_to_load"]).run(None, {"images": IMAGES.numpy()})
    assert_features_agree(torch.from_numpy(features), ours(IMAGES))

    import onnx as library

    properties = library.load(out, load_external_data=False).metadata_props
    about = json.loads({entry.key: entry.value for entry in properties}["seer"])
    assert (about["label"], about["mean"], about["size"]) == ("mine", MEAN, 64)


def test_a_library_that_is_not_there_is_named(tmp_path, written, monkeypatch):
    written(TINY)
    source = str(tmp_path / "in.safetensors")
    for to, module, extra in (
        ("onnx", "onnxscript", "onnx"),
        ("transformers", "transformers", "interop"),
    ):
        monkeypatch.setitem(__import__("sys").modules, module, None)
        out = tmp_path / ("a.onnx" if to == "onnx" else "a")
        with pytest.raises(InputError, match=rf"{module} is not installed; .*\[{extra}\]"):
            export(source, to, out)
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]
