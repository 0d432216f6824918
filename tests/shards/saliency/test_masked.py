"""Shards with masks beside shards without: the same images under the same ids, whatever interrupts."""

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from scipy.special import expit
from torch import nn
from typer.testing import CliRunner

from seer.data.decoding.decode import decode
from seer.data.storage.index import Manifest
from seer.data.storage.reader import Reader
from seer.errors import InputError
from shards.build import BuildOptions, build
from shards.cli import app
from shards.indexing import index
from shards.options import SaliencyOptions
from shards.saliency import masked
from shards.saliency.mask_sheet import sheet
from shards.saliency.masked import add_masks
from shards.saliency.networks import Network
from shards.takedown import remove
from shards.verify import verify
from tests.kit.pictures import encoded, jpeg, photograph

HERE = SaliencyOptions(workers=1)
SAME = ("key", "source", "size", "width", "height", "format", "sha256", "phash", "label")


class Bright(nn.Module):
    """Calls what is brighter than the mean an object; in logits, and with something else behind it."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        grey = images.mean(1, keepdim=True)
        return 20 * grey, grey


class Ramp(nn.Module):
    """From one number to another, whatever it sees."""

    def __init__(self, low: float, high: float):
        super().__init__()
        self.register_buffer("levels", torch.linspace(low, high, 32 * 32).reshape(1, 1, 32, 32))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.levels + 0 * images[:, :1]


class Half(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :1, ::2, ::2]


class Broken(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :1] / 0 * 0


def torchscript(network: nn.Module, path):
    torch.jit.trace(network, torch.rand(1, 3, 32, 32)).save(str(path))
    return str(path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Photographs of two classes in three shards, one of which was taken out later."""
    root = tmp_path_factory.mktemp("plain")
    for i in range(12):
        folder = root / "images" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:02}.v2.jpg").write_bytes(jpeg(photograph(i, 50, 60)))
    (root / "images" / "cat" / "bad.jpg").write_bytes(b"nothing")
    build([root / "images"], root / "shards", BuildOptions(labels=True, workers=1, shard_size=5))
    (root / "gone").write_text(Manifest.load(root / "shards").index(0, ["key"])["key"][0].as_py())
    remove(root / "shards", root / "gone", "keys", workers=1)
    return root / "shards"


def contents(folder) -> list[dict]:
    manifest = Manifest.load(folder)
    return [row for n in range(len(manifest.shards)) for row in manifest.index(n).to_pylist()]


@pytest.fixture(scope="module")
def with_masks(plain, tmp_path_factory):
    out = tmp_path_factory.mktemp("masked") / "out"
    return out, add_masks(plain, out, HERE)


def test_ids_keys_and_images_stay(plain, with_masks):
    out, report = with_masks
    before, after = Manifest.load(plain), Manifest.load(out)
    assert after.shards == before.shards
    assert after.sizes.tolist() == before.sizes.tolist()
    assert after.classes == before.classes
    assert after.build["quarantined"] == before.build["quarantined"]
    for ours, theirs in zip(contents(out), contents(plain), strict=True):
        assert [ours[name] for name in SAME] == [theirs[name] for name in SAME]
    ids = np.arange(before.samples)
    assert Reader(after).read(ids) == Reader(before).read(ids)
    assert (report.samples, report.shards) == (before.samples, 3)
    assert verify(out, workers=1).ok
    for name in ("quarantine.jsonl", "removed.jsonl"):
        assert (out / name).read_text() == (plain / name).read_text()


def test_each_mask_is_its_images(with_masks):
    out, report = with_masks
    manifest = Manifest.load(out)
    shares = []
    for sample in Reader(manifest).read_samples(np.arange(manifest.samples), ("mask.png",)):
        (data,) = sample.extras
        mask = np.asarray(Image.open(io.BytesIO(data)))
        image = decode(sample.image)
        assert mask.dtype == bool
        assert np.array_equal(mask, masked.mask_of(image, HERE))
        assert np.array_equal(decode(data)[..., 0], 255 * mask)
        shares.append(mask.mean())
    assert report.object_share == pytest.approx(np.mean(shares))
    assert report.empty == np.count_nonzero(np.array(shares) == 0)


def test_others_read_them(with_masks):
    out, _ = with_masks
    tars = sorted(map(str, out.glob("*.tar")))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    rows = contents(out)
    assert len(samples) == len(rows)
    for sample, row in zip(samples, rows, strict=True):
        assert sample["__key__"] == row["key"]
        assert {"jpg", "cls", "mask.png"} <= sample.keys()


def test_what_was_interrupted_goes_on_to_the_same_bytes(plain, with_masks, tmp_path, monkeypatch):
    out = tmp_path / "out"
    made = []

    def fails(task, tick):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(task.shard)
        return write(task, tick)

    write = masked.write_masked
    monkeypatch.setattr(masked, "write_masked", fails)
    with pytest.raises(KeyboardInterrupt):
        add_masks(plain, out, HERE)
    with pytest.raises(InputError, match=r"holds tars without a manifest"):
        Manifest.load(out)
    monkeypatch.setattr(masked, "write_masked", write)
    with pytest.raises(InputError, match=r"holds another build: threshold was 0.0, now 0.3"):
        add_masks(plain, out, SaliencyOptions(workers=1, threshold=0.3))
    report = add_masks(plain, out, HERE)
    assert report.continued == 1
    for path in sorted(with_masks[0].iterdir()):
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    assert add_masks(plain, out, HERE).already_complete


@pytest.fixture
def tar(tmp_path):
    """One by somebody else: companions, an image that is cut short, and one in pieces of a name."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as file:
        for name, data in {
            "x/1.jpg": encoded(1), "x/1.txt": b"one", "2021.05.01 12.00.png": encoded(2, "PNG"),
            "3.jpg": encoded(3)[:-100], "1.jpg": encoded(4), "1.mask.png": encoded(5, "PNG"),
        }.items():  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    index([folder], workers=1, check=False)
    return folder


def test_masks_that_are_there_stay_unless_they_are_to_be_replaced(tar, tmp_path):
    before = (tar / "a.tar").read_bytes()
    with pytest.raises(
        InputError, match=r"1 samples have a mask.png already, 1 for one; --replace"
    ):
        add_masks(tar, tmp_path / "out", HERE)
    report = add_masks(tar, tmp_path / "out", SaliencyOptions(workers=1, replace=True))
    assert (report.samples, report.unreadable) == (4, 1)
    assert "1 images cannot be decoded and have no mask" in report.lines()[-2]
    rows = contents(tmp_path / "out")
    members = {row["key"]: sorted(e["suffix"] for e in row["extras"] or []) for row in rows}
    assert members == {
        "x/1": ["mask.png", "txt"], "2021_05_01 12_00": ["mask.png"], "3": [], "1": ["mask.png"],
    }  # fmt: skip
    assert verify(tmp_path / "out", workers=1).ok
    assert (tar / "a.tar").read_bytes() == before


@pytest.mark.parametrize("kind", ["pt", "onnx"])
def test_a_network_of_the_users(plain, tmp_path, kind):
    path = tmp_path / f"bright.{kind}"
    if kind == "pt":
        torchscript(Bright(), path)
    else:
        pytest.importorskip("onnxruntime")
        torch.onnx.export(
            Bright().eval(), (torch.rand(1, 3, 32, 32),), path, dynamo=True, verbose=False
        )
    options = SaliencyOptions(workers=1, model=str(path), size=32, threshold=0.5, min_area=0.0)
    image = photograph(3, 64, 64)
    small = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BOX)) / 255
    grey = ((small - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).mean(2)
    mask = masked.mask_of(image, options)
    assert np.array_equal(mask.shape, (64, 64))
    clear = np.abs(grey) > 0.2
    assert (mask[1::2, 1::2] == (grey > 0))[clear].mean() > 0.95
    report = add_masks(plain, tmp_path / "out", options)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert Manifest.load(tmp_path / "out").build["options"]["model"] == digest
    assert 0.1 < report.object_share < 0.9


@pytest.mark.parametrize(
    ("low", "high", "logits"),
    [(0.0, 1.0, False), (0.0, 4.0, True), (-4.0, 0.0, True), (-4.0, 4.0, True)],
)
def test_what_is_no_probability_is_a_logit(tmp_path, low, high, logits):
    path = Path(torchscript(Ramp(low, high), tmp_path / "ramp.pt"))
    levels = np.linspace(low, high, 32 * 32).reshape(32, 32)
    map = Network(path, 32)(photograph(0, 40, 50))
    np.testing.assert_allclose(map, expit(levels) if logits else levels, atol=1e-6)


@pytest.mark.parametrize(
    ("network", "size", "message"),
    [
        (Half(), 32, r"half.pt: gave 1x1x16x16 for an image of 32x32, and not a map of its size"),
        (Broken(), 32, r"broken.pt: gave values that are not finite"),
        (nn.Linear(32, 1), 48, r"linear.pt: cannot take an image of 48 px .*; give --size"),
    ],
)
def test_a_network_that_gives_something_else(plain, tmp_path, network, size, message):
    path = torchscript(network, tmp_path / f"{type(network).__name__.lower()}.pt")
    with pytest.raises(InputError, match=message):
        add_masks(plain, tmp_path / "out", SaliencyOptions(workers=1, model=path, size=size))
    assert not (tmp_path / "out").exists()


def test_wrong_input(plain, tmp_path):
    for name, message in {
        "none.onnx": "no such file",
        "net.bin": r"no .onnx or .pt .*export it as TorchScript or ONNX",
        "bad.pt": "no TorchScript",
        "bad.onnx": "no ONNX",
    }.items():
        if name.startswith("bad"):
            (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(InputError, match=message):
            add_masks(plain, tmp_path / "out", SaliencyOptions(model=str(tmp_path / name)))
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="is where the shards are; give another folder"):
        add_masks(plain, plain, HERE)
    with pytest.raises(InputError, match="--threshold: 2 is"):
        add_masks(plain, tmp_path / "out", SaliencyOptions(threshold=2))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(InputError, match="is not empty and holds no build"):
        add_masks(plain, tmp_path / "full", HERE)


@pytest.mark.parametrize("damaged", [0, 2])
def test_of_a_damaged_tar_nothing_is_left_but_what_is_finished(plain, tmp_path, damaged):
    shards = tmp_path / "shards"
    shutil.copytree(plain, shards)
    path = shards / Manifest.load(shards).shards[damaged]
    whole = path.read_bytes()
    path.write_bytes(whole[:-512] + b"?" * 512)
    with pytest.raises(InputError, match="is not as its manifest says; run: seer shards verify"):
        add_masks(shards, tmp_path / "out", HERE)
    assert (tmp_path / "out").exists() == (damaged > 0)
    path.write_bytes(whole)
    report = add_masks(shards, tmp_path / "out", HERE)
    assert report.continued == damaged
    assert verify(tmp_path / "out", 1).problems == []


def test_the_picture_shows_what_is_object(with_masks):
    """All else is grey."""
    out, report = with_masks
    page = np.asarray(sheet(Manifest.load(out), 11)).astype(int)
    shares = []
    for number in range(11):
        tile = page[number // 4 * 154 :, number % 4 * 312 :][:125, : 2 * 150 + 4]
        alone = tile[:, 154:]
        hidden = (np.abs(alone - 128) <= 1).all(2)
        shares.append(1 - hidden.mean())
        whole = cv2.erode((~hidden).astype(np.uint8), np.ones((7, 7))) > 0
        np.testing.assert_array_equal(alone[whole], tile[:, :150][whole])
    assert report.object_share < 0.4
    # More than are object by the edges, where enlarging blends.
    assert 0 < np.mean(shares) - report.object_share < 0.15


def test_the_verb_and_its_picture(plain, tmp_path):
    arguments = ["saliency", str(plain), "--out", str(tmp_path / "out"), "--workers", "1"]
    picture = tmp_path / "masks.png"
    told = CliRunner().invoke(app, [*arguments, "--sheet", str(picture), "--json", "-"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout[told.stdout.index("{") :])["samples"] == 11
    assert Image.open(picture).size == (4 * (2 * 150 + 12), 3 * 154)
    with pytest.raises(InputError, match="has no masks"):
        sheet(Manifest.load(plain), 4)
    wrong = CliRunner().invoke(app, [*arguments[:3], str(tmp_path / "b"), "--sheet", "a.gif"])
    assert isinstance(wrong.exception, InputError)
    assert not (tmp_path / "b").exists()
