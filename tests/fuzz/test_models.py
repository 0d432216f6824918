"""Weight files, runs as models, and kept features, damaged by bytes and by what their kinds
declare.
"""

import io
import json
import shutil
import zipfile
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from seer.backbones import BACKBONES, build
from seer.eval.probes import feature_cache
from seer.interop.layouts import layout
from seer.interop.models import NEEDED, SUMS, load_backbone, load_model
from seer.interop.native import ABOUT, backbone_metadata
from seer.interop.weights import read_weights
from seer.rundir.names import HEADER
from tests.interop import peers
from tests.interop.conftest import MEAN, STD, write_config
from tests.kit.fuzzing import World, damaged_bytes, fuzz, trial
from tests.kit.networks import TINY
from tests.kit.strategies import damaged, spoiled, values


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("fuzz") / "world")


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """A backbone of 80 kB by the name of resnet18, which every reader knows."""
    original = BACKBONES["resnet18"]
    BACKBONES["resnet18"] = TINY
    yield
    BACKBONES["resnet18"] = original


@pytest.fixture(scope="module")
def sound(tmp_path_factory, tiny) -> Path:
    """A sound file of the backbone."""
    path = tmp_path_factory.mktemp("whole") / "file.safetensors"
    backbone = build("resnet18")
    save_file(backbone.state_dict(), path, backbone_metadata(backbone.config, 32, MEAN, STD))
    return path


def score(spec: str) -> None:
    """Load a model and use it as an evaluation does."""
    model = load_model(spec)
    features = model.backbone(torch.zeros(1, 3, 32, 32))
    assert features.shape == (1, model.backbone.out_dim)
    assert all(
        torch.isfinite(t).all()
        for t in model.backbone.state_dict().values()
        if t.is_floating_point()
    )


@fuzz(25)
@given(data=st.data())
def test_damaged_bytes_of_a_weight_file(world, sound, data):
    whole = sound.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    # Its beginning, its header, all of it.
    place = data.draw(st.sampled_from([100, header, len(whole)]))
    path = world.folder / "file.safetensors"
    path.write_bytes(data.draw(damaged_bytes(whole[:place])) + whole[place:])
    for function in (score, load_backbone):
        trial(world, function, str(path))


@fuzz(25)
@given(data=st.data())
def test_metadata_that_nobody_writes(world, data):
    about = data.draw(damaged(ABOUT))
    if isinstance(about, dict) and data.draw(st.integers(0, 3)):
        about["format"] = "seer-backbone/1"
    path = world.folder / "file.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"seer": json.dumps(about)})
    assert trial(world, score, str(path))


@fuzz(25)
@given(data=st.data())
def test_tensors_that_nobody_writes(world, sound, data):
    whole = sound.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    name = data.draw(st.sampled_from(sorted(header)))
    key = data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
    number = st.sampled_from([-1, 0, 1, 3, 32, 2**31, 2**40, 2**63, 2**64])
    entry = header[name] if name != "__metadata__" else {}
    entry[key] = data.draw(
        st.lists(number, max_size=5) | st.sampled_from(["F16", "F8_E5M2", "I64", "BOOL", "C64", 7])
    )
    header[name] = entry
    text = json.dumps(header).encode()
    path = world.folder / "file.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    trial(world, score, str(path))


@cache
def pickled(new: bool) -> bytes:
    """A file of weights in torch's new or old format; the old one has addresses in it."""
    weights = {f"layer{i}.weight": torch.ones(2, i + 1) for i in range(3)}
    file = io.BytesIO()
    torch.save({"state_dict": weights, "epoch": 3}, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


@fuzz(25)
@given(data=st.data(), new=st.booleans(), within=st.booleans())
def test_damaged_bytes_of_a_pickle(world, data, new, within):
    path = world.folder / "weights.pth"
    path.write_bytes(pickled(new))
    if not new:
        path.write_bytes(data.draw(damaged_bytes(path.read_bytes())))
    elif within:  # a sound archive of a damaged pickle
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        name = data.draw(st.sampled_from(sorted(members)))
        members[name] = data.draw(damaged_bytes(members[name]))
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
    else:
        path.write_bytes(data.draw(damaged_bytes(path.read_bytes())))
    assert "weights_only" not in trial(world, read_weights, path)


def checkpoints() -> dict[str, dict]:
    """What other programs save of the backbone, by the name of the file that is opened."""
    backbone = build("resnet18")
    state = backbone.state_dict()
    theirs = {layout("vissl", backbone).rename(name): value for name, value in state.items()}
    parameters = {name for name, _ in backbone.named_parameters()}
    groups = {"": {name: value for name, value in state.items() if name in parameters}}
    buffers = {name: value for name, value in state.items() if name not in parameters}
    ((weights, metadata),) = peers.fairscale_shards(groups, buffers, 1)
    return {
        "vissl": peers.vissl_checkpoint(theirs, [{"prototypes0.weight": torch.ones(2, 3)}]),
        "shard": {"model": weights, "meta": metadata},
        "list": {"type": "shard_list", "shards": ["shard.torch"]},
        "slices": {"type": "slice_list", "layers": dict.fromkeys(state, "/elsewhere/slice.torch")},
        "slice": {"type": "slice", "weight": torch.ones(2)},
    }


@fuzz(25)
@given(data=st.data())
def test_checkpoints_that_nobody_saved(world, data):
    contents = checkpoints()
    spoilt = data.draw(st.sampled_from(sorted(contents)))
    contents[spoilt] = data.draw(spoiled(contents[spoilt]))
    for name, content in contents.items():
        torch.save(content, world.folder / f"{name}.torch")
    opened = {"shard": "list", "slice": "slices"}.get(spoilt, spoilt)
    trial(world, score, str(world.folder / f"{opened}.torch"))


@fuzz(25)
@given(data=st.data())
def test_folders_of_transformers_that_nobody_wrote(world, data):
    folder = world.folder / "model"
    folder.mkdir(exist_ok=True)
    weights = layout("transformers", build("resnet18")).to_theirs(build("resnet18").state_dict())
    save_file(weights, folder / "part.safetensors")
    files = {
        "config.json": {"model_type": "regnet", "hidden_act": "relu"},
        "model.safetensors.index.json": {"weight_map": {"x": "part.safetensors"}},
        "preprocessor_config.json": {"size": {"shortest_edge": 32}, "image_mean": MEAN},
    }
    spoilt = data.draw(st.sampled_from(sorted(files)))
    files[spoilt] = data.draw(spoiled(files[spoilt]))
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    trial(world, score, str(folder))


@fuzz(20)
@given(data=st.data())
def test_runs_that_nobody_trained(world, sound, data):
    run = world.folder / "run"
    folder = run / "checkpoints/step-000000100"
    folder.mkdir(parents=True, exist_ok=True)
    good = {"backbone": {"name": "resnet18"}, "views": {"large": {"size": 32, "count": 2}}}
    config = data.draw(damaged(NEEDED)) if data.draw(st.booleans()) else good
    write_config(run, **(good if not isinstance(config, dict) else {}))
    (run / "config.yaml").write_text(
        json.dumps(config) if config is not good else (run / "config.yaml").read_text()
    )
    shutil.copy(sound, folder / "backbone.safetensors")
    header = data.draw(st.just({}) | damaged(SUMS) | values(SUMS))
    note = header | {"format": "seer-checkpoint/1"} if isinstance(header, dict) else header
    (folder / HEADER).write_text(json.dumps(note))
    trial(world, score, str(run))


@fuzz(25)
@given(data=st.data())
def test_kept_features_are_used_only_as_they_were_written(world, data):
    features = torch.arange(30.0).view(6, 5)
    key = "ab" * 32
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEER_CACHE", str(world.folder / "cache"))
        feature_cache.store(key, features)
        path = feature_cache.path_of(key)
        if data.draw(st.booleans()):
            path.write_bytes(data.draw(damaged_bytes(path.read_bytes())))
        else:
            about = json.dumps(data.draw(damaged(feature_cache.ABOUT)))
            other = data.draw(
                st.sampled_from(
                    [features, features + 1, features[:, :3].contiguous(), features * 1e30]
                )
            )
            save_file({"features": other}, path, {"seer": about})

        def use() -> None:
            kept = feature_cache.load(key, 6)
            assert kept is None or torch.equal(kept, features)

        assert trial(world, use) == ""
