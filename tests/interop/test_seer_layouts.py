"""SEER's published networks, without their values: names and shapes as they were recorded."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.serialization import skip_data

from seer.interop import swav_heads
from seer.interop.identify import contents
from seer.interop.models import identified
from seer.interop.opening import open_published
from seer.interop.published import Published, of_tensors
from seer.interop.weights import check_forms
from seer.methods.heads import MLP, Prototypes
from tests.interop import record_layouts
from tests.interop.test_published import refused
from tests.kit import fuzzing

RECORDED = record_layouts.read()
MILLIONS = {"320": 141.3, "640": 276.5, "1280": 637.4, "2560": 1272.2, "10b": 9323.9}


def published(name: str) -> Published:
    with torch.device("meta"):
        tensors = {
            key: torch.empty(shape, dtype=None if shape else torch.int64)
            for key, shape in RECORDED[name].items()
        }
    return of_tensors(tensors, Path(name))


def test_the_record_is_what_the_definitions_give():
    assert {name: record_layouts.define(name) for name in record_layouts.NETWORKS} == RECORDED


@pytest.mark.parametrize("name", record_layouts.NETWORKS)
def test_a_published_network_is_known_by_its_tensors_and_loads_strictly(name):
    source = published(name)
    backbone, fitted = identified(source, Path(name))
    assert backbone.config.name == name
    assert fitted.library == "vissl"
    backbone.load_state_dict(fitted.tensors(), strict=True, assign=True)
    count = sum(parameter.numel() for parameter in backbone.parameters())
    assert count / 1e6 == pytest.approx(MILLIONS[name.removeprefix("regnety_")], abs=0.051)


@pytest.mark.parametrize("name", ["regnety_1280", "regnety_2560"])
def test_the_published_heads_are_those_of_a_method_of_ours(name):
    source = published(name)
    heads = contents(source.forms).heads
    forms = {ours: source.forms[theirs] for ours, theirs in heads.items()}
    about = swav_heads.about(forms)
    assert about == {
        "head": [8192, 8192, 256],
        "head_bn": False,
        "head_bn_out": False,
        "prototypes": 16000,
    }
    width = record_layouts.NETWORKS[name][1]
    with torch.device("meta"):
        head = MLP(width, about["head"], about["head_bn"])
        prototypes = Prototypes(256, about["prototypes"])
    ours = {f"head.{key}": tensor.shape for key, tensor in head.state_dict().items()}
    ours["prototypes.weight"] = prototypes.weight.shape
    assert ours == {key: form.shape for key, form in forms.items()}


def test_classy_visions_network_of_that_name_is_another_than_seers():
    """Its `regnet_y_256gf` has a slope of 124.47, a multiplier of 2.04 and groups of 848."""
    from classy_vision.models.regnet import RegNet, RegNetParams

    with torch.device("meta"):
        network = RegNet(RegNetParams(27, 640, 124.47, 2.04, 848))
    source = of_tensors(network.state_dict(), Path("other"))
    with pytest.raises(ValueError, match="other: fits no backbone of seer"):
        identified(source, Path("other"))


def test_ten_billion_parameters_in_slices(tmp_path, monkeypatch):
    """All of its 37 GB claim to be there, in files that are holes; none of it comes into memory."""
    name = record_layouts.GROUPED
    index = tmp_path / "regnet10B.torch"
    folder = tmp_path / "regnet10B_layers"
    folder.mkdir()
    layers = {}
    for key, shape in RECORDED[name].items():
        sliced = key.removeprefix("trunk.")
        file = folder / f"{hashlib.sha1(sliced.encode()).hexdigest()}.torch"
        save_hole(torch.empty(shape, dtype=None if shape else torch.int64), file)
        layers[sliced] = str(Path("/checkpoint/seer") / folder.name / file.name)
    torch.save({"type": "slice_list", "layers": layers}, index)
    assert sum(file.stat().st_size for file in folder.iterdir()) > 37e9
    assert sum(file.stat().st_blocks * 512 for file in folder.iterdir()) < 2**27

    monkeypatch.setattr(fuzzing, "ADDRESSES", 2**40)  # files are mapped, and not read
    with fuzzing.within_memory(2**28):
        source = open_published(index)
        backbone, fitted = identified(source, index)
        check_forms(backbone, fitted.forms, index)
    assert backbone.config.name == name
    last = list(layers)[-1]
    (folder / Path(layers[last]).name).unlink()
    assert f"1 of {len(layers)} slices are missing ({last} in " in refused(index)


def save_hole(tensor: Tensor, file: Path) -> None:
    with skip_data():
        torch.save({"type": "slice", "weight": tensor}, file)
