"""Networks that other libraries and training programs have written, read back: the same random one
by each of them.
"""

import json
from functools import cache

import numpy as np
import pytest
import torch
from pycls.core.config import cfg
from pycls.models.regnet import RegNet as PyclsRegNet
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seer.backbones import build
from seer.backbones.designs import REGNETS
from seer.errors import InputError
from seer.interop.export import export
from seer.interop.importing import import_backbone
from seer.interop.initial import load_initial
from seer.interop.models import load_model
from seer.methods.heads import MLP, Prototypes
from tests.backbones.parity import assert_features_agree, settle
from tests.backbones.test_regnet import pycls_configured
from tests.interop import peers
from tests.kit import networks

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TINY = "regnety_tiny"
assert TINY in networks.BACKBONES


def settled(network: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    return settle(network)


@cache
def trunk() -> peers.Trunk:
    """The network that VISSL trains, with weights of its own. Not to be changed."""
    return settled(peers.Trunk(peers.classy_regnet(TINY)))


@cache
def expected() -> Tensor:
    with torch.no_grad():
        return trunk()(IMAGES)


def features_of(source: object) -> Tensor:
    """By the weights as a MODEL, after they have also filled a backbone that a training starts from."""
    model = load_model(str(source))
    features = model.backbone(IMAGES)
    backbone = build(model.backbone.config)
    load_initial(backbone, str(source))
    assert_features_agree(backbone.eval()(IMAGES), features)
    return features


def refused(source: object, load=load_model) -> str:
    with pytest.raises(InputError) as caught:
        load(str(source))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("what", ["itself", "tensor", "numbers"])
def test_heads_that_are_none(tmp_path, what):
    heads: dict = {"0": {}}
    heads["0"]["0"] = heads
    odd = {"itself": heads, "tensor": torch.ones(3), "numbers": [1, 2]}[what]
    path = tmp_path / "model.torch"
    torch.save(peers.vissl_checkpoint(trunk().state_dict(), odd), path)
    if what == "tensor":
        assert_features_agree(features_of(path), expected())
    else:
        assert "does not hold a state dict" in refused(path)


def head(batchnorm: bool = False) -> nn.ModuleList:
    return nn.ModuleList([peers.SwAVHead([64, 16, 16, 8], batchnorm, 20)])


# VISSL


def test_a_checkpoint_of_vissl_with_all_that_stands_in_it(tmp_path):
    """Its configuration is an object of a class that is not here, its losses are numpy's numbers."""
    path = tmp_path / "model_final_checkpoint_phase0.torch"
    with peers.vissl_installed() as attr_dict:
        config = attr_dict(MODEL=attr_dict(TRUNK={"NAME": "regnet"}), SEED_VALUE=0)
        content = peers.vissl_checkpoint(
            trunk().state_dict(), head().state_dict(), config=config, loss=np.float64(7.2)
        )
        torch.save(content, path)
    assert_features_agree(features_of(path), expected())
    model = load_model(str(path))
    assert model.backbone.config.name == TINY
    assert (model.size, model.label) == (224, path.name)


@pytest.mark.parametrize("wrap", ["DistributedDataParallel", "evaluation", "FSDP", "groups"])
def test_names_within_vissls_containers(tmp_path, wrap):
    state = trunk().state_dict()
    if wrap == "DistributedDataParallel":
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    elif wrap == "evaluation":
        state = {f"base_model.{name}": tensor for name, tensor in state.items()}
    elif wrap == "FSDP":
        inner = "_fsdp_wrapped_module._fpw_module."
        state = {name.replace("block1-0.", f"block1-0.{inner}"): t for name, t in state.items()}
    else:
        grouped = peers.Trunk(peers.classy_regnet(TINY), {"block3": [1], "block1": [1]})
        assert any("block3-part1.block3-1" in name for name in grouped.state_dict())
        values = list(state.values())
        state = dict(zip(grouped.state_dict(), values, strict=True))
    path = tmp_path / "weights.torch"
    torch.save(peers.vissl_checkpoint(state, {}), path)
    assert_features_agree(features_of(path), expected())


def test_classy_visions_own_names(tmp_path):
    network = settled(peers.classy_regnet(TINY))
    torch.save({"model": network.state_dict()}, tmp_path / "weights.pth")
    with torch.no_grad():
        maps = network(IMAGES)
    assert_features_agree(features_of(tmp_path / "weights.pth"), maps.mean((2, 3)))


def test_a_resnet_of_vissl(tmp_path):
    import torchvision

    network = settled(torchvision.models.resnet18())
    names = [name for name in network.state_dict() if not name.startswith("fc.")]
    state = {f"_feature_blocks.{name}": network.state_dict()[name] for name in names}
    torch.save(peers.vissl_checkpoint(state, {}), tmp_path / "weights.torch")
    network.fc = nn.Identity()
    with torch.no_grad():
        assert_features_agree(features_of(tmp_path / "weights.torch"), network(IMAGES))


# pycls and transformers


def test_a_network_of_pycls_zoo(tmp_path):
    """As its trainer saves it, beside the optimizer and the configuration in YAML."""
    name = "regnety_002"
    with pycls_configured(name):
        network = settled(PyclsRegNet())
        content = {
            "epoch": 99,
            "test_err": 29.6,
            "ema_err": 29.7,
            "model_state": network.state_dict(),
            "ema_state": network.state_dict(),
            "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.1}]},
            "cfg": cfg.dump(),
        }
    torch.save(content, tmp_path / "weights.pyth")
    network.head.fc = nn.Identity()
    with torch.no_grad():
        assert_features_agree(features_of(tmp_path / "weights.pyth"), network(IMAGES))
    assert REGNETS[name].depth == 13


@pytest.mark.parametrize("name", [TINY, "regnetx_002", "resnet18"])
def test_a_folder_of_transformers(tmp_path, name):
    network = settled_transformers(name)
    network.save_pretrained(tmp_path / "model")
    preprocessor = {
        "size": {"shortest_edge": 384},
        "image_mean": [0.1, 0.2, 0.3],
        "do_resize": True,
    }
    (tmp_path / "model/preprocessor_config.json").write_text(json.dumps(preprocessor))
    assert_features_agree(features_of(tmp_path / "model"), transformers_features(network))
    model = load_model(str(tmp_path / "model"))
    assert (model.size, model.mean) == (384, [0.1, 0.2, 0.3])
    assert model.std == [0.229, 0.224, 0.225]


def settled_transformers(name: str) -> nn.Module:
    return settled(peers.transformers_model(name))


@torch.no_grad()
def transformers_features(network: nn.Module) -> Tensor:
    return network(IMAGES).pooler_output.flatten(1)


def test_other_ways_in_which_transformers_lays_weights_out(tmp_path):
    """`.bin`, several files with an index, and a classifier around it."""
    network = settled_transformers(TINY)
    state = {f"regnet.{name}": tensor for name, tensor in network.state_dict().items()}
    state["classifier.1.weight"] = torch.ones(3, 64)
    folder = tmp_path / "model"
    folder.mkdir()
    network.config.save_pretrained(folder)
    torch.save(state, folder / "pytorch_model.bin")
    assert_features_agree(features_of(folder), transformers_features(network))
    (folder / "pytorch_model.bin").unlink()

    names = list(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for part, held in parts.items():
        save_file({name: state[name] for name in held}, folder / part)
    weight_map = {name: part for part, held in parts.items() for name in held}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert_features_agree(features_of(folder), transformers_features(network))
    (folder / "a.safetensors").unlink()
    assert "1 of 2 files of weights are missing (a.safetensors)" in refused(folder)
    weight_map[names[0]] = "../../a.safetensors"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert "the plain name of a file" in refused(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"downsample_in_first_stage": False}, "downsample_in_first_stage is False"),
        ({"hidden_act": "silu"}, "hidden_act is silu"),
        ({"model_type": "vit"}, "is a vit; seer reads"),
    ],
)
def test_a_network_that_computes_something_else_is_refused(tmp_path, change, words):
    peers.transformers_model(TINY).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    assert words in refused(tmp_path)


# Heads


class Method(nn.Module):
    """SwAV, as far as it is filled."""

    def __init__(self, widths: list[int], batchnorm: bool, prototypes: int):
        super().__init__()
        self.head = MLP(64, widths, batchnorm)
        self.prototypes = Prototypes(widths[-1], prototypes)

    @property
    def beside(self) -> dict[str, nn.Module]:
        return {"head": self.head, "prototypes": self.prototypes}


@torch.no_grad()
def scores(projection: nn.Module, prototypes: nn.Module) -> Tensor:
    return prototypes(nn.functional.normalize(projection.eval()(expected())))


@pytest.mark.parametrize("batchnorm", [False, True], ids=["seer", "swav"])
@pytest.mark.parametrize("imported", [False, True], ids=["published", "imported"])
def test_heads_and_prototypes_come_along(tmp_path, batchnorm, imported):
    theirs = head(batchnorm)
    if batchnorm:
        theirs[0].projection_head(expected())  # which gives it statistics
    path = tmp_path / "model.torch"
    torch.save(peers.vissl_checkpoint(trunk().state_dict(), theirs.state_dict()), path)
    if imported:
        summary = import_backbone(path, "vissl", tmp_path / "mine.safetensors")
        assert summary["heads"] == (
            f"method.head=[16,16,8] method.head_bn={str(batchnorm).lower()} "
            "method.head_bn_out=false method.prototypes=20"
        )
        path = tmp_path / "mine.safetensors"
    method = Method([16, 16, 8], batchnorm, 20)
    start = load_initial(build(TINY), str(path), method.beside)
    assert start.taken == {"head", "prototypes"}
    assert start.advice == ""
    assert start.summary.endswith(
        f"{len(theirs[0].projection_head.state_dict())} → head, 1 → prototypes"
    )
    ours = scores(method.head, method.prototypes)
    assert_features_agree(ours, scores(theirs[0].projection_head, theirs[0].prototypes0))


@pytest.mark.parametrize(
    ("widths", "batchnorm", "prototypes", "taken"),
    [
        ([16, 16, 8], False, 30, {"head"}),
        ([16, 8], False, 20, set()),
        ([16, 16, 8], True, 20, set()),
    ],
)
def test_heads_that_do_not_fit_are_told(tmp_path, widths, batchnorm, prototypes, taken):
    """Prototypes of another head's space are not taken; the options that take all are named."""
    path = tmp_path / "model.torch"
    torch.save(peers.vissl_checkpoint(trunk().state_dict(), head().state_dict()), path)
    method = Method(widths, batchnorm, prototypes)
    start = load_initial(build(TINY), str(path), method.beside)
    assert start.taken == taken
    assert start.summary.endswith("left aside")
    options = dict(word.removeprefix("method.").split("=") for word in start.advice.split())
    fitting = Method(
        json.loads(options["head"]), json.loads(options["head_bn"]), int(options["prototypes"])
    )
    assert load_initial(build(TINY), str(path), fitting.beside).taken == {"head", "prototypes"}


def test_heads_of_swav_itself_and_several_sets_of_prototypes(tmp_path):
    state = dict(trunk().state_dict())
    state |= {
        f"projection_head.{name}": tensor
        for name, tensor in head(True)[0].projection_head.state_dict().items()
    }
    path = tmp_path / "swav.pth.tar"
    torch.save({"state_dict": {**state, "prototypes.weight": torch.ones(20, 8)}}, path)
    method = Method([16, 16, 8], True, 20)
    assert load_initial(build(TINY), str(path), method.beside).taken == {"head", "prototypes"}
    assert method.prototypes.weight.eq(1).all()
    sets = {f"prototypes.prototypes{i}.weight": torch.ones(20, 8) for i in range(2)}
    torch.save({"state_dict": {**state, **sets}}, path)
    start = load_initial(build(TINY), str(path), method.beside)
    assert start.taken == {"head"}
    assert "prototypes left aside" in start.summary


# Imported


@pytest.mark.parametrize("library", ["vissl", "fairscale"])
def test_an_imported_file_is_a_model_and_says_what_it_is(tmp_path, library):
    path = tmp_path / "model.torch"
    torch.save(peers.vissl_checkpoint(trunk().state_dict(), {"0.clf.weight": torch.ones(2)}), path)
    out = tmp_path / "new" / "mine.safetensors"
    summary = import_backbone(path, library, out)
    assert (summary["architecture"], summary["library"]) == (TINY, "vissl")
    assert summary["left aside"] == "heads"
    assert summary["tensors"] == len(build(TINY).state_dict())
    assert [file.name for file in out.parent.iterdir()] == [out.name]
    assert_features_agree(features_of(out), expected())
    assert load_model(str(out)).label == "model.torch"


def test_what_was_exported_for_a_library_is_imported_again(tmp_path):
    path = tmp_path / "model.torch"
    torch.save(trunk().state_dict(), path)
    for to in ("torchvision", "timm"):
        out = tmp_path / f"{to}.safetensors"
        export(str(path), to, out)
        stripped = tmp_path / f"{to}.pth"
        torch.save(load_file(out), stripped)  # without what seer noted in it
        import_backbone(stripped, to, tmp_path / "back.safetensors")
        assert_features_agree(features_of(tmp_path / "back.safetensors"), expected())


def test_requests_that_cannot_be_met(tmp_path):
    path = tmp_path / "model.torch"
    out = tmp_path / "out.safetensors"
    torch.save(trunk().state_dict(), path)

    def refusal(*arguments, **options) -> str:
        return refused(arguments, lambda _: import_backbone(*arguments, **options))

    assert "did you mean 'vissl'" in refusal(path, "vissel", out)
    assert "go by vissl's names; give --from vissl" in refusal(path, "timm", out)
    assert "ends in .safetensors" in refusal(path, "vissl", tmp_path / "out.pth")
    assert "no such file" in refusal(tmp_path / "nowhere", "vissl", out)
    import_backbone(path, "vissl", out)
    assert "seer's already" in refusal(out, "vissl", tmp_path / "again.safetensors")
    damaged = dict(trunk().state_dict())
    damaged["_feature_blocks.res5.block4-0.bn.bias"] = torch.full((64,), torch.inf)
    torch.save(damaged, path)
    assert "NaN or infinite" in refusal(path, "vissl", tmp_path / "bad.safetensors")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.torch", out.name]


# In part


def test_keys_that_match_only_in_part(tmp_path):
    state = dict(trunk().state_dict())
    lost = [name for name in state if "res5" in name and "f.a" in name]
    for name in lost:
        del state[name]
    state["_feature_blocks.conv1.stem.0.weight"] = torch.zeros(32, 1, 3, 3)
    state["another.weight"] = torch.zeros(3)
    path = tmp_path / "model.torch"
    torch.save(state, path)
    message = refused(path)
    assert f"than {TINY}: {len(lost)} tensors missing (stages.3.0.conv1.weight" in message
    assert "1 unexpected (another.weight)" in message
    assert "stem.conv.weight is (32, 1, 3, 3) instead of (32, 3, 3, 3)" in message

    backbone = build(TINY)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    start = load_initial(backbone, str(path), partial=True)
    count = len(before)
    assert start.summary.startswith(f"{count - len(lost) - 1} of {count} tensors of {path}")
    assert "7 (stem.conv.weight, stages.3.0.conv1.weight, " in start.summary
    assert "(stem.conv.weight, another.weight) left aside" in start.summary
    after = backbone.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert "stem.conv.weight" not in changed
    assert not any(name.startswith("stages.3.0.conv1") for name in changed)
    assert "stages.0.0.conv1.weight" in changed
    assert len(changed) > 50

    out = tmp_path / "part.safetensors"
    summary = import_backbone(path, "vissl", out, partial=TINY)
    assert "start new" in summary["partial"]
    stem = state["_feature_blocks.res2.block1-0.proj.weight"]
    assert torch.equal(load_model(str(out)).backbone.stages[0][0].shortcut.conv.weight, stem)


def test_another_network_fits_not_even_in_part(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    assert "fits no backbone of seer" in refused(path)
    assert "no tensor of it fits" in refused(
        path, lambda source: load_initial(build(TINY), source, partial=True)
    )


def test_counters_that_old_files_leave_out(tmp_path):
    """pycls' first files had none; they count batches, and change no feature."""
    state = {n: t for n, t in trunk().state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.torch")
    assert_features_agree(features_of(tmp_path / "old.torch"), expected())


# Code


class Intruder:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from a weight file ran')",))


def test_code_beside_the_weights_is_left_out_on_demand_and_never_runs(tmp_path):
    path = tmp_path / "model.torch"
    out = tmp_path / "out.safetensors"
    torch.save({"state_dict": trunk().state_dict(), "note": Intruder()}, path)
    for load in (load_model, lambda source: import_backbone(source, "vissl", out)):
        message = refused(path, load)
        assert "holds code (exec): not loaded" in message
        assert "--ignore-code" in message
    import_backbone(path, "vissl", out, ignore_code=True)
    assert_features_agree(features_of(out), expected())
    torch.save({"state_dict": {**trunk().state_dict(), "another": Intruder()}}, path)
    message = refused(path, lambda source: import_backbone(source, "vissl", out, ignore_code=True))
    assert "does not hold a state dict" in message
