from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from urllib.error import HTTPError

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants as hub
from safetensors.torch import save_file

from seer import config as configuration
from seer.backbones import BackboneConfig, build
from seer.errors import InputError
from seer.eval.baselines import baselines
from seer.interop import foreign
from seer.interop import torchvision as foreign_torchvision
from seer.interop.models import load_backbone, load_model, save_backbone
from seer.interop.spec import check_model, run_of, without_size
from tests.interop.conftest import MEAN, STD, trained, write_config

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )


@pytest.fixture
def refused():
    """The one line that a spec is refused with."""

    def message(spec, load=load_model) -> str:
        with pytest.raises(InputError) as caught:
            load(str(spec))
        text = str(caught.value)
        assert "\n" not in text
        return text

    return message


# A run directory


def test_a_run_is_its_newest_checkpoint(run):
    model = load_model(str(run))
    assert model.label == "my_run step-000001200"
    assert (model.size, model.mean, model.std, model.run_dir) == (64, MEAN, STD, run)
    assert not model.backbone.training
    assert same_weights(model.backbone, trained(1200))
    torch.testing.assert_close(model.backbone(IMAGES), trained(1200)(IMAGES))


def test_images_of_another_size(run, tmp_path, refused):
    own = load_model(str(run))
    for spec in (f"{run}@24", f"{run}:random@24"):
        check_model(spec)
        model = load_model(spec)
        assert model.size == 24 != own.size
        assert model.label.endswith("@24")
        assert run_of(spec) == run == model.run_dir
    assert load_model("torchvision:mobilenet_v2:random@64").size == 64
    assert without_size(f"{run}@x") == (f"{run}@x", 0)
    (tmp_path / "there@24").mkdir()
    assert without_size(str(tmp_path / "there@24")) == (str(tmp_path / "there@24"), 0)
    assert "takes no images of that size" in refused("timm:vit_tiny_patch16_224:random@65")
    assert baselines(f"{run}@24") == [f"{run}:random@24", "pixels"]


@pytest.mark.parametrize("step", ["step-100", "step-000100", "step-000000100"])
def test_a_runs_other_checkpoint(run, step):
    assert same_weights(load_model(f"{run}:{step}").backbone, trained(100))


def test_a_run_untrained_is_what_its_seed_gives(run):
    before = torch.get_rng_state()
    model = load_model(f"{run}:random")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    assert same_weights(model.backbone, build("regnety_002"))
    assert (model.label, model.size, model.run_dir) == ("my_run untrained", 64, run)


@pytest.mark.parametrize("stride", [1, 2])
def test_what_a_run_began_with(run, tmp_path, stride):
    """From another run, and from a file that does not tell the stride of its stem."""
    path = tmp_path / "published.pth"
    torch.save(trained(100).state_dict(), path)
    for source in [str(path)] + [f"{run}:step-100"] * (stride == 2):
        later = tmp_path / f"later {Path(source).suffix}"
        write_config(later, init=source, backbone={"name": "regnety_002", "stem_stride": stride})
        model = load_model(f"{later}:init")
        assert same_weights(model.backbone, trained(100))
        assert model.backbone.config.stem_stride == stride
        assert (model.label, model.size, model.mean) == (f"{later.name} init", 64, MEAN)


def test_a_run_that_began_with_nothing_or_with_a_part_has_no_beginning(run, tmp_path, refused):
    assert f"compare it with {run}:random" in refused(f"{run}:init")
    write_config(tmp_path / "later", init=str(run), init_partial=True)
    assert "took a part of" in refused(f"{tmp_path / 'later'}:init")
    write_config(tmp_path / "lost", init=str(tmp_path / "gone.pth"))
    assert "gone.pth" in refused(f"{tmp_path / 'lost'}:init")


def test_a_runs_hash_is_its_configurations(run):
    one, same, other = run.with_name("one"), run.with_name("same"), run.with_name("other")
    for path, seed in ((one, 7), (same, 7), (other, 8)):
        write_config(path, seed=seed)
    assert load_model(f"{one}:random").config_hash == load_model(f"{same}:random").config_hash
    assert load_model(f"{one}:random").config_hash != load_model(f"{other}:random").config_hash


def test_a_runs_hash_is_the_one_it_was_saved_with(tmp_path):
    @dataclass
    class Config:
        seed: int = 3
        lr: float = 1e-6
        mean: list[float] = field(default_factory=lambda: MEAN)
        std: list[float] = field(default_factory=lambda: STD)
        views: dict = field(
            default_factory=lambda: {"large": {"size": 64, "count": 2, "scale": [0.14, 1.0]}}
        )
        backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig("regnety_002"))

    configuration.save(Config(), tmp_path / "config.yaml")
    assert load_model(f"{tmp_path}:random").config_hash == configuration.config_hash(
        configuration.to_dict(Config())
    )


def test_an_unfinished_checkpoint_is_not_there(run):
    (run / "checkpoints/step-000001200").rename(run / "checkpoints/step-000001200.tmp")
    assert load_model(str(run)).label == "my_run step-000000100"


def test_a_path_may_have_a_colon(run):
    moved = run.rename(run.with_name("12:30"))
    assert load_model(str(moved)).label == "12:30 step-000001200"
    assert load_model(f"{moved}:step-100").label == "12:30 step-000000100"


def test_bad_runs_are_refused(run, tmp_path, refused):
    assert "no such model" in refused(tmp_path / "nowhere")
    assert "no config.yaml" in refused(tmp_path)
    assert "there are step-100, step-1200" in refused(f"{run}:step-300")
    assert "no such checkpoint" in refused(f"{run}:newest")
    empty = tmp_path / "fresh"
    write_config(empty)
    assert "no finished checkpoint" in refused(empty)
    (empty / "config.yaml").write_text("backbone: {name: [")
    assert "not readable as YAML" in refused(empty)
    (empty / "config.yaml").write_text("seed: 1")
    assert "not all there: 'backbone'" in refused(empty)
    write_config(empty, backbone={"name": "regnety_002", "stems": 1})
    assert "stems" in refused(f"{empty}:random")
    (empty / "config.yaml").write_text("backbone: {name: regnety_002}\nviews: {}\n")
    assert "not all there" in refused(f"{empty}:random")


def test_a_checkpoint_of_another_architecture_is_refused(run, refused):
    write_config(run, backbone={"name": "regnety_004"})
    message = refused(run)
    assert "holds regnety_002 with stem_stride=2" in message
    assert "regnety_004 with stem_stride=2 is wanted" in message


# A file


def test_a_file_comes_back_as_it_was_saved(tmp_path):
    config = BackboneConfig("regnety_200mf", stem_stride=1)
    backbone = build(config).to(memory_format=torch.channels_last).eval()
    path = tmp_path / "b.safetensors"
    save_backbone(
        path,
        backbone.state_dict(),
        config,
        32,
        MEAN,
        STD,
        {"label": "mine", "config_hash": "0123456789ab"},
    )
    (tmp_path / "ordinary").touch()
    assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    model = load_model(str(path))
    assert same_weights(model.backbone, backbone)
    assert model.backbone.config == BackboneConfig("regnety_002", stem_stride=1)
    assert (model.label, model.config_hash, model.size, model.mean) == (
        "mine",
        "0123456789ab",
        32,
        MEAN,
    )


def rewrite(run, path, change):
    """Copy a checkpoint's file with its tensors changed."""
    backbone, about = load_backbone(run)
    state = change(backbone.state_dict())
    save_backbone(path, state, BackboneConfig(**about["backbone"]), 64, MEAN, STD)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: dict(list(state.items())[1:]), "1 tensors missing (stem.conv.weight)"),
        (lambda state: {**state, "head.weight": torch.zeros(1)}, "1 unexpected (head.weight)"),
        (
            lambda state: {**state, "stem.bn.bias": torch.zeros(5)},
            "stem.bn.bias is (5,) instead of (32,)",
        ),
        (
            lambda state: {f"trunk.{key}": state[key] for key in state},
            "316 unexpected (trunk.",
        ),
    ],
)
def test_half_fitting_files_are_refused(run, tmp_path, refused, change, complaint):
    path = tmp_path / "changed.safetensors"
    rewrite(run, path, change)
    assert complaint in refused(path)


def test_damaged_and_foreign_files_are_refused(run, tmp_path, refused):
    path = tmp_path / "file.safetensors"
    whole = (run / "checkpoints/step-000000100/backbone.safetensors").read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], b"\x89PNG" + whole):
        path.write_bytes(damaged)
        assert "not readable as safetensors" in refused(path)
    save_file({"weight": torch.zeros(2)}, path)
    assert f"timm:NAME:{path}" in refused(path)
    save_file({"weight": torch.zeros(2)}, path, {"seer": '{"format": "seer-backbone/1"}'})
    assert "metadata are damaged or of another version" in refused(path)
    save_file(
        {"weight": torch.zeros(2)}, path, {"seer": '{"format": "seer-backbone/2", "backbone": {}}'}
    )
    assert "this version of seer reads seer-backbone/1" in refused(path)


# Untrained, timm and torchvision


def test_untrained_is_reproducible():
    first, second = load_model("resnet18:random"), load_model("resnet18:random")
    assert same_weights(first.backbone, second.backbone)
    assert (first.label, first.size) == ("resnet18 untrained", 224)
    assert first.config_hash == second.config_hash != load_model("regnety_002:random").config_hash


def test_unknown_names_are_refused(refused):
    assert "resnet18" in refused("resnet_18:random")
    assert "no such model" in refused("resnet18")
    assert "timm has no such model (did you mean 'resnet18'?)" in refused("timm:resnet_18:random")
    assert "no such classifier (did you mean 'resnet18'?)" in refused(
        "torchvision:resnet_18:random"
    )
    assert "neither 'pretrained', 'random', nor a file" in refused("timm:resnet18:/nowhere.pth")
    assert "neither 'pretrained', 'random', nor a file" in refused(
        "torchvision:resnet18:IMAGENET1K_V9"
    )


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_timm_gives_pooled_features_and_its_own_images(name, tmp_path):
    torch.manual_seed(1)
    theirs = timm.create_model(name).eval()
    path = tmp_path / "weights.safetensors"
    save_file(theirs.state_dict(), path)
    model = load_model(f"timm:{name}:{path}")
    images = torch.randn(2, 3, 224, 224)
    expected = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
    torch.testing.assert_close(model.backbone(images), expected)
    assert model.backbone.out_dim == expected.shape[1]
    assert model.size == theirs.pretrained_cfg["input_size"][1]
    assert model.mean == list(theirs.pretrained_cfg["mean"])
    assert model.std == list(theirs.pretrained_cfg["std"])


def test_torchvision_gives_what_its_classifier_sees(tmp_path):
    theirs = torchvision.models.resnet18().eval()
    path = tmp_path / "weights.pth"
    torch.save(
        {"state_dict": {f"module.{key}": tensor for key, tensor in theirs.state_dict().items()}},
        path,
    )
    model = load_model(f"torchvision:resnet18:{path}")
    torch.testing.assert_close(theirs.fc(model.backbone(IMAGES)), theirs(IMAGES))
    assert (model.backbone.out_dim, model.size, model.mean) == (512, 224, [0.485, 0.456, 0.406])


def test_torchvision_without_a_linear_classifier_is_refused(refused):
    assert "no linear classifier" in refused("torchvision:squeezenet1_1:random")


def test_random_foreign_networks_are_reproducible():
    before = torch.get_rng_state()
    for library in ("timm", "torchvision"):
        first, second = (load_model(f"{library}:resnet18:random") for _ in range(2))
        assert same_weights(first.backbone, second.backbone)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("library", "create"), [("timm", "create_model"), ("torchvision", "models.get_model")]
)
def test_pretrained_weights_out_of_reach_are_the_users_to_mend(
    library, create, monkeypatch, refused
):
    def offline(*args, **kwargs):
        raise OSError("Name or service not known\nretry later")

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(foreign_torchvision, "silence_of", lambda request: "")
    monkeypatch.setattr(f"{library}.{create}", offline)
    for spec in (f"{library}:resnet18", f"{library}:resnet18:pretrained"):
        message = refused(spec)
        assert "Name or service not known" in message
        assert f"{library}:resnet18:PATH" in message


class Intruder:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from a weight file ran')",))


def test_weight_files_never_run_code(tmp_path, refused):
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": Intruder()}, path)
    assert "holds code (exec): not loaded" in refused(f"timm:resnet18:{path}")
    path.write_bytes(b"not weights")
    assert "not readable as tensors only" in refused(f"timm:resnet18:{path}")
    torch.save({"epoch": 3}, path)
    assert "does not hold a state dict" in refused(f"timm:resnet18:{path}")
    save_file({"fc.weight": torch.zeros(1)}, tmp_path / "few.safetensors")
    assert "tensors missing (conv1.weight, ...)" in refused(
        f"timm:resnet18:{tmp_path / 'few.safetensors'}"
    )


# Out of reach


class Hub:
    """The hub's session, as far as it is asked whether the hub is there."""

    def __init__(self, error: Exception | None = None):
        self.error = error
        self.asked = 0

    def __call__(self) -> "Hub":
        return self

    def head(self, url: str, timeout: float) -> None:
        assert (url, timeout) == (hub.ENDPOINT, foreign.PATIENCE)
        self.asked += 1
        if self.error:
            raise self.error


@pytest.mark.parametrize("there", [True, False])
def test_a_hub_out_of_reach_is_asked_once(there, monkeypatch, refused):
    """Its client would ask for 45 s."""
    session = Hub(None if there else ConnectionError("Name or service not known"))
    monkeypatch.setattr("huggingface_hub.utils.get_session", session)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    offline = []

    def create(*args, **kwargs):
        offline.append(hub.HF_HUB_OFFLINE)
        raise OSError("not in the cache")

    monkeypatch.setattr("timm.create_model", create)
    message = refused("timm:resnet18")
    assert ("Name or service not known" in message) is not there
    assert ("not in the cache" in message) is there
    assert (offline, session.asked, hub.HF_HUB_OFFLINE) == ([not there], 1, False)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    assert "not in the cache" in refused("timm:resnet18")
    assert session.asked == 1  # who says that he is offline is not asked


def test_what_is_in_the_caches_loads_without_a_network(tmp_path, monkeypatch):
    torch.manual_seed(3)
    theirs = timm.create_model("resnet18").eval()
    snapshot = tmp_path / "hub/models--timm--resnet18.a1_in1k/snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file(theirs.state_dict(), snapshot / "model.safetensors")
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.utils.get_session", Hub(ConnectionError("no route")))
    torch.testing.assert_close(
        load_model("timm:resnet18").backbone(IMAGES),
        theirs.forward_head(theirs.forward_features(IMAGES), pre_logits=True),
    )

    def no_network(*args, **kwargs):
        raise AssertionError("asked the network")

    monkeypatch.setattr(foreign_torchvision, "urlopen", no_network)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))
    published = torchvision.models.ResNet18_Weights.DEFAULT.url
    file = tmp_path / "torch/checkpoints" / published.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(theirs.state_dict(), file)
    model = load_model("torchvision:resnet18")
    assert same_weights(model.backbone.network.layer4, theirs.layer4)


def test_a_server_that_says_anything_is_there(monkeypatch):
    waiting = Event()
    monkeypatch.setattr(foreign, "PATIENCE", 0.01)
    assert foreign.silence_of(waiting.wait) == "no answer within 0.01 s"
    waiting.set()
    monkeypatch.setattr(foreign, "PATIENCE", 60.0)
    assert foreign.silence_of(waiting.wait) == ""

    def refuses(request, timeout):
        raise HTTPError(request.full_url, 403, "Forbidden", {}, None)

    monkeypatch.setattr(foreign_torchvision, "urlopen", refuses)
    assert foreign.silence_of(lambda: foreign_torchvision._ask("https://there")) == ""
