"""Model files that are damaged, foreign or hostile: each is refused in one line, soon and with
little memory.
"""

import json
import os
import pickle
import socket
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from seer.errors import InputError
from seer.interop import pickles
from seer.interop.models import load_backbone, load_model
from seer.interop.pickles import load_pickle
from seer.interop.weights import load_strictly, read_weights
from tests.interop.conftest import MEAN, STD, pack, tiny_file, write_checkpoint, write_config
from tests.kit.fuzzing import within_memory, within_time

ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
SOUND = {
    "format": "seer-backbone/1",
    "backbone": {"name": "resnet18"},
    "size": 32,
    "mean": MEAN,
    "std": STD,
}


def refusal(function, *arguments) -> str:
    """The one line with which something is refused, soon and with little memory."""
    with within_time(60), within_memory(2**27), pytest.raises(InputError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert message.isprintable()
    assert "weights_only" not in message
    return message


# The file's frame

WHOLE = object()
FRAMES = {
    "empty": (b"", "not readable as safetensors"),
    "a length and nothing else": (bytes(8), "not readable as safetensors"),
    "an endless header": ((2**63).to_bytes(8, "little") + b"{}", "no header of a usual length"),
    "a header of 100 MB": (
        (100_000_000).to_bytes(8, "little") + b"{}",
        "no header of a usual length",
    ),
    "a header longer than the file": (
        (5000).to_bytes(8, "little") + b"{}",
        "not readable as safetensors",
    ),
    "a header that is no JSON": (pack(b"{nothing}"), "not readable as safetensors"),
    "a header that is no UTF-8": (pack(b'{"\xff\xfe": 1}'), "not readable as safetensors"),
    "a header that is a list": (pack(b"[1, 2]"), "not readable as safetensors"),
    "a header nested deeply": (pack(b"[" * 100_000), "not readable as safetensors"),
    "a PNG": (b"\x89PNG\r\n\x1a\n" + bytes(1000), "not readable as safetensors"),
    "a text": (b"These are my weights.\n" * 10, "no header of a usual length"),
    "bytes missing": (pack({"x": ONE}, b"123"), "not readable as safetensors"),
    "bytes left over": (pack({"x": ONE}, b"12345678"), "not readable as safetensors"),
    "an unknown type": (
        pack({"x": ONE | {"dtype": "\x1b[2J"}}, b"1234"),
        "not readable as safetensors",
    ),
    "a shape of another length": (
        pack({"x": ONE | {"shape": [2**40]}}, b"1234"),
        "not readable as safetensors",
    ),
    "a shape that overflows": (
        pack({"x": ONE | {"shape": [2**62, 2**62]}}, b"1234"),
        "not readable as safetensors",
    ),
    "a negative shape": (
        pack({"x": ONE | {"shape": [-1]}}, b"1234"),
        "not readable as safetensors",
    ),
    "places beyond the file": (
        pack({"x": ONE | {"data_offsets": [0, 2**50]}}, b"1234"),
        "not readable as",
    ),
    "places that overlap": (pack({"x": ONE, "y": ONE}, b"1234"), "not readable as safetensors"),
    "metadata that are no texts": (
        pack({"__metadata__": {"seer": 3}, "x": ONE}, b"1234"),
        "not readable as",
    ),
    "metadata that are a list": (
        pack({"__metadata__": [], "x": ONE}, b"1234"),
        "not readable as safetensors",
    ),
    "no metadata": (
        pack({"x": ONE}, b"1234"),
        "fits no backbone of seer; if it is another network, name it: timm:NAME:",
    ),
    "metadata of others": (
        pack({"__metadata__": {"format": "pt"}, "x": ONE}, b"1234"),
        "fits no backbone of seer",
    ),
    "no tensors": (
        pack({"__metadata__": {"seer": json.dumps(SOUND)}}),
        "tensors missing (stem.conv.weight, ...)",
    ),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_damaged_frames(tmp_path, kind):
    content, words = FRAMES[kind]
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    assert words in refusal(load_model, str(path))
    with pytest.raises(InputError):
        load_model(f"timm:resnet10t:{path}")


# What the metadata say


def but(**changes) -> str:
    """Sound metadata, but for these."""
    return json.dumps(
        {key: value for key, value in {**SOUND, **changes}.items() if value is not WHOLE}
    )


CLAIMS = {
    "no JSON": ("{", "metadata are damaged"),
    "a list": ("[]", "metadata are damaged"),
    "a number": ("3", "metadata are damaged"),
    "nested deeply": ("[" * 100_000, "nested too deeply"),
    "huge": (json.dumps({"x": "y" * 2**21}), "characters"),
    "no format": (but(format=WHOLE), "'format' is missing"),
    "a format of the future": (
        but(format="seer-backbone/2"),
        "this version of seer reads seer-backbone/1",
    ),
    "a format for terminals": (but(format="\x1b[2J"), "metadata are damaged"),
    "no backbone": (but(backbone=WHOLE), "'backbone' is missing"),
    "a backbone that is a list": (but(backbone=["resnet18"]), "seer: backbone: a list of 1"),
    "an unknown backbone": (
        but(backbone={"name": "resnet_18"}),
        "file.safetensors: unknown backbone",
    ),
    "a name that is a list": (but(backbone={"name": ["resnet18"]}), "backbone.name"),
    "a name that is a number": (but(backbone={"name": 18}), "backbone.name"),
    "a name for terminals": (but(backbone={"name": "\x1b[2Jresnet18"}), "backbone.name"),
    "a depth of its own": (but(backbone={"name": "resnet18", "depth": 10**9}), "depth"),
    "an unknown stride": (but(backbone={"name": "resnet18", "stem_stride": 3}), "stem_stride"),
    "a stride in words": (but(backbone={"name": "resnet18", "stem_stride": "two"}), "stem_stride"),
    "a stride that is a list": (
        but(backbone={"name": "resnet18", "stem_stride": [1]}),
        "stem_stride",
    ),
    "no stride": (but(backbone={"name": "resnet18", "stem_stride": None}), "stem_stride"),
    "a flag that is none": (
        but(backbone={"name": "resnet18", "zero_init_residual": "yes"}),
        "zero_init_residual",
    ),
    "no size": (but(size=WHOLE), "'size' is missing"),
    "a size of 0": (but(size=0), "size: 0 is not"),
    "a negative size": (but(size=-32), "size: -32 is not"),
    "a huge size": (but(size=10**9), "size: 1000000000 is not"),
    "a fractional size": (but(size=0.5), "size: 0.5 is not"),
    "a size in words": (but(size="32"), "size: '32' is not"),
    "a flag for a size": (but(size=True), "size: True is not"),
    "one mean": (but(mean=[0.5]), "mean: a list of 1 is not"),
    "a mean that is a number": (but(mean=0.5), "mean: 0.5 is not"),
    "a NaN among the means": (but(mean=[0.5, float("nan"), 0.5]), "mean[1]: nan is not"),
    "a huge mean": (but(mean=[0.5, 1e300, 0.5]), "mean[1]: 1e+300 is not"),
    "a deviation of 0": (but(std=[0.5, 0.5, 0.0]), "std[2]: 0.0 is not"),
    "a negative deviation": (but(std=[0.5, 0.5, -1]), "std[2]: -1 is not"),
    "an unknown library": (but(library="os"), "library: 'os' is unknown"),
    "a library that is a list": (but(library=["timm"]), "library: a list of 1 is not"),
    "a label of two lines": (but(label="one\ntwo"), "label"),
    "a label that is a mapping": (but(label={}), "label"),
    "a hash that is a list": (but(config_hash=[1]), "config_hash"),
    "a network of ten billion": (
        but(backbone={"name": "regnety_10b"}),
        "tensors missing (stem.conv.weight, ...)",
    ),
}


@pytest.mark.parametrize("kind", CLAIMS)
def test_claims_that_are_not_true(tmp_path, kind):
    text, words = CLAIMS[kind]
    path = tmp_path / "file.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"seer": text})
    message = refusal(load_model, str(path))
    assert words in message
    assert str(path) in message


# What the tensors are

STEM, COUNT = "stem.conv.weight", "stem.bn.num_batches_tracked"
TENSORS = {
    "one missing": ({STEM: None}, "1 tensors missing (stem.conv.weight)"),
    "one too many": ({"head.weight": torch.zeros(1)}, "1 unexpected (head.weight)"),
    "one for terminals": ({"\x1b[2J": torch.zeros(1)}, "1 unexpected ('\\x1b[2J')"),
    "another shape": ({STEM: torch.zeros(32, 3, 3)}, "is (32, 3, 3) instead of (32, 3, 3, 3)"),
    "the same values in another shape": ({STEM: torch.zeros(3, 32, 3, 3)}, "is (3, 32, 3, 3) instead of"),
    "no values": ({STEM: torch.zeros(0)}, "is (0,) instead of"),
    "whole numbers": ({STEM: torch.zeros(32, 3, 3, 3, dtype=torch.int32)}, "has whole instead of floating values"),
    "flags": ({STEM: torch.zeros(32, 3, 3, 3, dtype=torch.bool)}, "has else instead of floating values"),
    "fractions for a count": ({COUNT: torch.tensor(0.5)}, "has floating instead of whole values"),
    "one NaN": ({STEM: torch.eye(32, 27).view(32, 3, 3, 3) / torch.eye(32, 27).view(32, 3, 3, 3)}, "NaN or infinite"),
    "an infinity": ({"stem.bn.bias": torch.full((32,), torch.inf)}, "32 of the 32 values of stem.bn.bias"),
    "a NaN among statistics": ({"stem.bn.running_var": torch.full((32,), torch.nan)}, "stem.bn.running_var"),
    "numbers that overflow": ({"stem.bn.bias": torch.full((32,), 1e300, dtype=torch.float64)}, "stem.bn.bias"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_are_not_the_networks(tmp_path, kind):
    changes, words = TENSORS[kind]
    path = tiny_file(tmp_path / "file.safetensors", **changes)
    for load in (load_model, load_backbone):
        assert words in refusal(load, str(path))


def test_tensors_under_two_names_each(tmp_path):
    path = tiny_file(tmp_path / "file.safetensors", {"library": "timm"})
    theirs = {
        "stem.conv.weight": torch.zeros(32, 3, 3, 3),
        "s1.b1.conv1.conv.weight": torch.zeros(8, 32, 1, 1),
    }
    path = tiny_file(path, {"library": "timm"}, **theirs)
    assert "under seer's names and timm's" in refusal(load_model, str(path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_taken(tmp_path, dtype):
    weight = torch.linspace(-1, 1, 32 * 27).view(32, 3, 3, 3).to(dtype)
    model = load_model(str(tiny_file(tmp_path / "file.safetensors", **{STEM: weight})))
    assert torch.equal(model.backbone.stem.conv.weight, weight.float())
    assert torch.isfinite(model.backbone(torch.randn(2, 3, 32, 32))).all()


# Pickles


def saved(path: Path, value: object, **options) -> None:
    torch.save(value, path, **options)


class Runs:
    """A pickle of it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def zipped(path: Path, compression: int = zipfile.ZIP_STORED, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(
                f"archive/{name.replace('_', '/', 1) if name.startswith('data_') else name}",
                content,
            )


def patched(path: Path, old: bytes, new: bytes) -> None:
    """A file of torch.save in whose pickle some bytes are replaced."""
    torch.save({"weight": torch.arange(4.0)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(
                name, content.replace(old, new) if name.endswith("data.pkl") else content
            )


def cut(path: Path, keep: float, **options) -> None:
    torch.save({"weight": torch.arange(1000.0)}, path, **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])


def legacy_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            (path.parent / name).write_bytes(pickle.dumps({}))
            archive.add(path.parent / name, name)


def itself(path: Path) -> None:
    state: dict = {}
    state["state_dict"] = state
    torch.save(state, path)


def scripted(path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)


STATE = "does not hold a state dict"
UNREADABLE = "not readable as tensors only"
PICKLES = {
    "empty": (lambda path: path.touch(), UNREADABLE),
    "a text": (lambda path: path.write_text("These are my weights."), UNREADABLE),
    "a PNG": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), UNREADABLE),
    "noise": (lambda path: path.write_bytes(bytes(range(256)) * 40), UNREADABLE),
    "a zip cut short": (lambda path: cut(path, 0.5), UNREADABLE),
    "a zip without its end": (lambda path: cut(path, 0.98), UNREADABLE),
    "the old format cut short": (lambda path: cut(path, 0.7, _use_new_zipfile_serialization=False), ""),
    "the old format's head": (lambda path: cut(path, 0.02, _use_new_zipfile_serialization=False), ""),
    "a zip of other members": (lambda path: zipped(path, readme=b"text"), UNREADABLE),
    "a zip of nothing": (lambda path: zipped(path), UNREADABLE),
    "a zip whose pickle is a text": (lambda path: zipped(path, **{"data.pkl": b"text", "version": b"3"}), ""),
    "a zip packed": (lambda path: zipped(path, zipfile.ZIP_DEFLATED, data_0=bytes(2**24)), "are packed"),
    "a tar": (legacy_tar, UNREADABLE),
    "a storage that is missing": (lambda path: patched(path, b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009"), UNREADABLE),
    "a huge storage": (lambda path: patched(path, b"K\x04t", b"J\xff\xff\xff\x7ft"), UNREADABLE),
    "a place beyond the storage": (lambda path: patched(path, b"QK\x00K\x04", b"QK\x09K\x04"), UNREADABLE),
    "os.system": (lambda path: saved(path, {"state_dict": Runs(os.system, "exit 1")}), "holds code (posix.system)"),
    "os.system in the old format": (
        lambda path: saved(path, Runs(os.system, "exit 1"), _use_new_zipfile_serialization=False),
        "holds code (posix.system)",
    ),
    "eval": (lambda path: saved(path, Runs(eval, "1 / 0")), "holds code (eval)"),
    "a plain pickle with code": (lambda path: path.write_bytes(pickle.dumps(Runs(os.system, "exit 1"))), ""),
    "a module": (lambda path: saved(path, nn.Linear(2, 2)), "holds code (torch.nn.modules.linear.Linear)"),
    "a module in a dict": (lambda path: saved(path, {"model": nn.Linear(2, 2)}), "holds code (torch.nn.modules"),
    "numpy": (lambda path: saved(path, {"weight": np.zeros(3)}), STATE),
    "a script": (scripted, UNREADABLE),
    "a list of tensors": (lambda path: saved(path, [torch.zeros(2)]), STATE),
    "a tensor": (lambda path: saved(path, torch.zeros(2)), STATE),
    "a number": (lambda path: saved(path, 3), STATE),
    "numbers": (lambda path: saved(path, {"epoch": 3}), STATE),
    "tensors and numbers": (lambda path: saved(path, {"weight": torch.zeros(2), "epoch": 3}), STATE),
    "names that are numbers": (lambda path: saved(path, {1: torch.zeros(2)}), STATE),
    "itself within itself": (itself, STATE),
    "a sparse tensor": (lambda path: saved(path, {"weight": torch.eye(3).to_sparse()}), STATE),
    "a tensor without values": (lambda path: saved(path, {"weight": torch.zeros(3, device="meta")}), STATE),
    "a quantised tensor": (
        lambda path: saved(path, {"weight": torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8)}),
        STATE,
    ),
    "names that become one": (
        lambda path: saved(path, {"module.weight": torch.zeros(2), "weight": torch.ones(2)}),
        "with and without 'module.'",
    ),
    "a folder": (lambda path: path.mkdir(), "not a regular file"),
    "a pipe": (os.mkfifo, "not a regular file"),
    "nothing": (lambda path: None, "cannot be read (No such file"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", PICKLES)
def test_damaged_and_hostile_pickles(tmp_path, kind):
    make, words = PICKLES[kind]
    path = tmp_path / "weights.pth"
    make(path)
    message = refusal(read_weights, path)
    assert message.startswith(str(path))
    assert words in message


@pytest.mark.parametrize("checksums", [True, False])
def test_a_flipped_bit_of_a_tensor(tmp_path, checksums):
    """It is noticed where torch was not told to write no checksums, and then any file is read."""
    path = tmp_path / "a.pth"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(checksums)
    try:
        torch.save({"weight": torch.arange(1000.0)}, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(load_pickle(path)["weight"], torch.arange(1000.0))
    content = bytearray(path.read_bytes())
    place = content.index(torch.arange(500.0, 510.0).numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    if checksums:
        with pytest.raises(InputError, match=r"damaged: a/data/0, Bad CRC-32.*get it again"):
            load_pickle(path)
    else:
        assert load_pickle(path)["weight"][500] != 500


@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_without_end_is_not_read_to_its_end(tmp_path, monkeypatch, new):
    path = tmp_path / "weights.pth"
    if new:
        zipped(path, **{"data.pkl": b"](" * (2**20 + 1)})
    else:
        monkeypatch.setattr(pickles, "LARGEST_PICKLE", 1000)
        path.write_bytes(b"\x80\x02" + b"](" * 2**20)
    assert "a pickle of more than" in refusal(read_weights, path).replace(
        "its pickle has", "a pickle of"
    )


def test_a_tensor_that_claims_more_places_than_it_has_values(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(1).expand(10**6, 10**6), "bias": torch.zeros(2)}, path)
    tensors = read_weights(path)
    assert "weight is (1000000, 1000000) instead of (2, 3)" in refusal(
        load_strictly, nn.Linear(3, 2), tensors, path
    )


def test_layouts_of_training_scripts_are_read(tmp_path):
    path = tmp_path / "weights.pth"
    state = OrderedDict({"module.weight": nn.Parameter(torch.ones(2))})
    for value in (
        state,
        {"state_dict": state},
        {"model": state, "epoch": 3},
        {"model": {"state_dict": state}},
    ):
        for new in (True, False):
            torch.save(value, path, _use_new_zipfile_serialization=new)
            (tensor,) = read_weights(path).values()
            assert tensor.tolist() == [1, 1]
            assert not tensor.requires_grad


# Paths, and runs


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "link.safetensors").symlink_to("nowhere")
    (tmp_path / "device.safetensors").symlink_to("/dev/zero")
    (tmp_path / "folder.safetensors").mkdir()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket.safetensors"))
    for name in ("pipe", "link", "device", "socket"):
        assert "no such model" in refusal(load_model, str(tmp_path / f"{name}.safetensors"))
        assert "neither 'pretrained'" in refusal(
            load_model, f"timm:resnet10t:{tmp_path}/{name}.safetensors"
        )
    listener.close()
    assert "not a run directory" in refusal(load_model, str(tmp_path / "folder.safetensors"))
    for load in (load_model, load_backbone):
        assert "no such" in refusal(load, str(tmp_path / ("x" * 300)))
    assert "nor a file that exists" in refusal(load_model, f"timm:resnet10t:{'x' * 300}")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "a.pth")
    assert f"timm:NAME:{tmp_path}/a.pth" in refusal(load_model, str(tmp_path / "a.pth"))
    odd = tiny_file(tmp_path / "file.safetensors").rename(
        tmp_path / os.fsdecode(b"caf\xe9.safetensors")
    )
    with pytest.raises(InputError, match="not valid UTF-8"):
        load_model(str(odd))


CONFIGS = {
    "no views": {"views": {}},
    "views that are a list": {"views": [1]},
    "a view of no size": {"views": {"large": {"count": 2}}},
    "a view of huge size": {"views": {"large": {"count": 2, "size": 10**9}}},
    "only views that are off": {"views": {"large": {"count": 0, "size": 32}}},
    "a mean in words": {"mean": "grey"},
    "a deviation of 0": {"std": [0, 0, 0]},
    "a seed beyond torch's": {"seed": 2**64},
    "a backbone in one word": {"backbone": "resnet18"},
    "a backbone of its own": {"backbone": {"name": "resnet18", "width": 10**9}},
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_runs_whose_configuration_is_not_one(tmp_path, kind):
    write_config(tmp_path / "run", **CONFIGS[kind])
    for part in ("", ":random"):
        assert "config.yaml" in refusal(load_model, f"{tmp_path}/run{part}")


def test_a_network_larger_than_the_machine_is_not_begun(tmp_path, monkeypatch):
    write_config(tmp_path / "run", backbone={"name": "regnety_10b"})
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**20}.__getitem__)
    assert "do not fit into this machine's" in refusal(load_model, f"{tmp_path}/run:random")


SUM = "0" * 64
HEADERS = {
    "no JSON": "{",
    "a list": "[]",
    "nested deeply": "[" * 100_000,
    "files that are a list": {"files": ["backbone.safetensors"]},
    "a file that is a number": {"files": {"backbone.safetensors": 3}},
    "a hash that is a number": {"files": {"backbone.safetensors": {"sha256": 3}}},
    "another hash": {"files": {"backbone.safetensors": {"sha256": SUM}}},
    "a format that is a list": {"format": []},
}


@pytest.mark.parametrize("kind", HEADERS)
def test_checkpoints_whose_header_is_damaged(tmp_path, kind):
    write_config(tmp_path / "run")
    write_checkpoint(tmp_path / "run", 100)
    header = HEADERS[kind]
    text = (
        header if isinstance(header, str) else json.dumps({"format": "seer-checkpoint/1", **header})
    )
    (tmp_path / "run/checkpoints/step-000000100/header.json").write_text(text)
    assert "step-000000100" in refusal(load_model, f"{tmp_path}/run")


def test_checkpoints_that_are_not_where_they_should_be(tmp_path):
    run = tmp_path / "run"
    write_config(run)
    folder = run / "checkpoints/step-000000100"
    folder.mkdir(parents=True)
    (folder / "backbone.safetensors").symlink_to("nowhere")
    assert "no finished checkpoint" in refusal(load_model, str(run))
    (folder / "backbone.safetensors").unlink()
    (folder / "backbone.safetensors").mkdir()
    assert "not a regular file" in refusal(load_model, str(run))
    os.mkfifo(folder / "header.json")
    assert "not a regular file" in refusal(load_model, str(run))
    folder.rename(folder.with_name("step-" + "9" * 200))
    assert "no finished checkpoint" in refusal(load_model, str(run))
    assert "no finished checkpoint" in refusal(load_model, f"{run}:step-{'9' * 5000}")
