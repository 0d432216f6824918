"""Checkpoints of many files: VISSL's slices, and the shards of fairscale's FSDP."""

import hashlib
import weakref
from pathlib import Path

import pytest
import torch
from fairscale.nn.data_parallel import FullyShardedDataParallel
from torch import Tensor

from seer.interop import shards, slices
from seer.interop.importing import import_backbone
from seer.interop.models import load_model
from seer.interop.opening import open_published
from tests.backbones.parity import assert_features_agree
from tests.interop import peers
from tests.interop.test_published import TINY, expected, features_of, head, refused, trunk

# Slices


def slice_up(state: dict[str, Tensor], index: Path) -> None:
    """As `SlicedCheckpointLoader.save_slice` does it, on a machine where the folder was elsewhere."""
    folder = index.with_name(f"{index.stem}_layers")
    folder.mkdir()
    layers = {}
    for name, tensor in state.items():
        file = f"{hashlib.sha1(name.encode()).hexdigest()}.torch"
        torch.save({"type": "slice", "weight": tensor}, folder / file)
        layers[name] = f"/checkpoint/somebody/{folder.name}/{file}"
    torch.save({"type": "slice_list", "layers": layers}, index)


def test_a_sliced_checkpoint_is_read_with_one_slice_in_memory(tmp_path, monkeypatch):
    """By the names of FSDP's groups of blocks; parameters stay parameters, as they were saved."""
    network = peers.Trunk(peers.classy_regnet(TINY), {"block3": [1], "block1": [1]})
    state = dict(zip(network.state_dict(), trunk().state_dict().values(), strict=True))
    name = next(iter(state))
    state[name] = torch.nn.Parameter(state[name])
    index = tmp_path / "sliced.torch"
    slice_up(state, index)
    assert_features_agree(features_of(index), expected())

    alive: list[weakref.ref] = []
    read = slices._weight

    def watched(path: Path, mapped: bool = False) -> Tensor:
        tensor = read(path, mapped)
        if not mapped:
            assert not any(reference() is not None for reference in alive)
            alive.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(slices, "_weight", watched)
    import_backbone(index, "vissl", tmp_path / "mine.safetensors")
    assert len(alive) == len(state)
    assert_features_agree(features_of(tmp_path / "mine.safetensors"), expected())


def test_slices_may_lie_beside_their_index(tmp_path):
    slice_up(trunk().state_dict(), tmp_path / "sliced.torch")
    for file in (tmp_path / "sliced_layers").iterdir():
        file.rename(tmp_path / file.name)
    assert_features_agree(features_of(tmp_path / "sliced.torch"), expected())


def test_slices_that_are_missing_or_none(tmp_path):
    index = tmp_path / "sliced.torch"
    slice_up(trunk().state_dict(), index)
    files = sorted((tmp_path / "sliced_layers").iterdir())
    torch.save({"type": "slice", "other": torch.zeros(2)}, files[3])
    assert f"{files[3]}: is no slice of a checkpoint" in refused(index)
    for file in files[:5]:
        file.unlink()
    message = refused(index)
    assert f"5 of {len(files)} slices are missing (" in message
    assert ".torch and 2 more); copy them into" in message
    torch.save({"type": "slice_list", "layers": {"a": 3}}, index)
    assert "does not list them" in refused(index)
    torch.save({"type": "slice_list", "layers": {"a": "../../../etc/passwd"}}, index)
    assert "1 of 1 slices are missing (a in passwd)" in refused(index)
    torch.save({"type": "slice_list", "layers": {"a": "/"}}, index)
    assert "slices are missing" in refused(index)


# Shards


def groups(flat: bool) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """The parameters of the trunk by the FSDPs that own them, as VISSL wraps it, and the buffers."""
    state = trunk().state_dict()
    parameters = dict(trunk().named_parameters())
    buffers = {name: tensor for name, tensor in state.items() if name not in parameters}
    owned: dict[str, dict[str, Tensor]] = {}
    for name, tensor in parameters.items():
        owner = ".".join(name.split(".")[:3]) if ".block" in name else ""
        inner = name.removeprefix(f"{owner}.")
        owned.setdefault(f"{owner}*" if flat else owner, {})[inner] = tensor.detach()
    return owned, buffers


def vissl_shards(folder: Path, flat: bool = False, ranks: int = 3) -> Path:
    """VISSL's list of shards and the shards beside it."""
    names = [f"model_phase0_shard{rank}.torch" for rank in range(ranks)]
    parts = peers.fairscale_shards(*groups(flat), ranks)
    for name, (weights, metadata) in zip(names, parts, strict=True):
        content = peers.vissl_checkpoint(weights, [head().state_dict()], type="shard")
        content["classy_state_dict"]["base_model"]["meta"]["trunk"] = metadata
        torch.save(content, folder / name)
    torch.save({"type": "shard_list", "shards": names}, folder / "model_phase0.torch")
    return folder / "model_phase0.torch"


@pytest.mark.parametrize("flat", [False, True], ids=["as they are", "flattened"])
def test_shards_are_put_together_as_fairscale_does(tmp_path, flat):
    index = vissl_shards(tmp_path, flat)
    parts = peers.fairscale_shards(*groups(flat), 3)
    theirs = FullyShardedDataParallel.consolidate_shard_weights(
        [weights for weights, _ in parts], [metadata for _, metadata in parts]
    )
    published = open_published(index)
    assert published.forms.keys() == theirs.keys() == trunk().state_dict().keys()
    for name, tensor in theirs.items():
        assert torch.equal(published.read(name), tensor)
        assert published.forms[name].shape == tensor.shape
    assert_features_agree(features_of(index), expected())
    summary = import_backbone(index, "fairscale", tmp_path / "mine.safetensors")
    assert summary["library"] == "vissl"


@pytest.mark.parametrize("keys", [("model", "shard_metadata"), ("weights", "meta")])
def test_a_folder_of_shards_that_somebody_else_saved(tmp_path, keys):
    """Twelve of them, whose names do not sort as their numbers do; `keys` are the program's own."""
    for rank, shard in enumerate(peers.fairscale_shards(*groups(True), 12)):
        torch.save(dict(zip(keys, shard, strict=True)), tmp_path / f"run7-rank{rank}.pt")
    assert_features_agree(features_of(tmp_path), expected())
    (tmp_path / "run7-rank3.pt").rename(tmp_path / "run7-rank12.pt")
    assert "shard 3 is missing" in refused(tmp_path)
    (tmp_path / "run7-rank12.pt").rename(tmp_path / "run7-rank3.pt")
    (tmp_path / "run7-rank11.pt").unlink()
    assert "the last ones are missing" in refused(tmp_path)


def test_one_shard_is_in_memory_at_a_time(tmp_path, monkeypatch):
    index = vissl_shards(tmp_path)
    alive: list[weakref.ref] = []
    read = shards._read

    def watched(path: Path, ignore_code: bool) -> shards.Shard:
        assert not any(reference() is not None for reference in alive)
        shard = read(path, ignore_code)
        alive.append(weakref.ref(shard))
        return shard

    monkeypatch.setattr(shards, "_read", watched)
    load_model(str(index))
    assert len(alive) == 4  # the first is also looked at by itself


def test_shards_that_are_missing_damaged_or_of_different_runs(tmp_path):
    index = vissl_shards(tmp_path)
    lone = tmp_path / "model_phase0_shard1.torch"
    assert "is one shard of several" in refused(lone)
    content = torch.load(lone, weights_only=True)
    weights = content["classy_state_dict"]["base_model"]["model"]["trunk"]
    entries = content["classy_state_dict"]["base_model"]["meta"]["trunk"]["param_metadata"]

    def changed(**about) -> str:
        """What is said of a shard whose metadata have other values, of its last parameter."""
        params = entries[-1]["params"]
        key = next(iter(params))
        before = params[key]
        params[key] = before | about
        torch.save(content, lone)
        params[key] = before
        return refused(index)

    assert "its metadata are not fairscale's" in changed(padding=-1)
    assert "its metadata are not fairscale's" in changed(shapes=[(-1, 2)])
    assert "its metadata are not fairscale's" in changed(names=["a", "b"])
    name = list(weights)[-1]
    whole = weights[name]
    weights[name] = torch.zeros(10**6)
    torch.save(content, lone)
    assert "shard 1 is of another network than shard 0" in refused(index)
    weights[name] = whole[:1]
    torch.save(content, lone)
    assert "the last ones are missing" in refused(index)
    del content["classy_state_dict"]["base_model"]["meta"]
    torch.save(content, lone)
    assert "has no metadata of fairscale's" in refused(index)
    lone.unlink()
    assert "1 of 3 shards are missing (model_phase0_shard1.torch); copy them" in refused(index)
    torch.save({"type": "shard_list", "shards": ["../../secret"]}, index)
    assert "(secret)" in refused(index)


def test_a_folder_of_neither_kind(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "last.pt")
    assert "neither a model of Hugging Face's (config.json) nor shards" in refused(tmp_path)
