import os
import resource
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from seer.checks.audit import ids_of
from seer.data.labelled import load_labelled
from seer.data.storage.index import Manifest
from seer.errors import InputError
from seer.eval import pixels
from seer.eval.embed import embed
from seer.eval.pile import open_pile
from seer.eval.probes.features import FeatureConfig, extract
from shards.takedown import remove
from tests.eval.conftest import small_model
from tests.kit.fuzzing import within_time
from tests.kit.pictures import encoded, write_images
from tests.kit.shards import write_shards


@pytest.fixture(autouse=True)
def net(monkeypatch):
    monkeypatch.setattr(pixels, "load_model", lambda spec: small_model())


def test_parquet_holds_key_label_and_the_evaluations_features(data, tmp_path):
    out = tmp_path / "new" / "features.parquet"
    summary = embed("net", data / "test", out)
    counts = {"samples": 60, "dimensions": 12, "damaged": 0, "unread_folders": 0}
    assert summary == {"out": str(out), "model": "net", **counts}
    table = pq.read_table(out)
    test = load_labelled(data, "test")
    assert table["key"].to_pylist() == test.source.paths
    assert table["source"] == table["key"]
    assert table["label"].to_pylist() == [test.classes[i] for i in test.labels]
    features = torch.from_numpy(np.stack(table["features"].to_numpy()))
    assert torch.equal(features, extract(small_model(), test, FeatureConfig()))
    assert [p.name for p in out.parent.iterdir()] == ["features.parquet"]


def test_npz_of_unlabelled_images_leaves_damaged_ones_out(tmp_path, caplog):
    folder = write_images(tmp_path / "images", 2, seed=0)
    Image.new("L", (30, 20), 7).save(folder / "alone.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    (folder / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    summary = embed("net", folder, tmp_path / "features.npz", FeatureConfig(batch_size=1))
    assert (summary["samples"], summary["damaged"]) == (7, 2)
    assert "broken.jpg" in caplog.text
    assert "empty.png" in caplog.text
    arrays = np.load(tmp_path / "features.npz", allow_pickle=False)
    assert arrays["features"].shape == (7, 12)
    assert dict(zip(arrays["keys"], arrays["labels"], strict=True))["alone.jpg"] == ""
    assert arrays["keys"].tolist() == sorted(arrays["keys"])


def test_shards_labelled_and_not(data, tmp_path):
    test = load_labelled(data, "test")
    write_shards(
        tmp_path / "labelled", [40, 20], test.bytes, lambda i: int(test.labels[i]), test.classes
    )
    write_shards(tmp_path / "plain", [60], test.bytes)
    embed("net", tmp_path / "labelled", tmp_path / "a.parquet")
    embed("net", tmp_path / "plain", tmp_path / "b.parquet")
    embed("net", data / "test", tmp_path / "c.parquet")
    a, b, c = (pq.read_table(tmp_path / f"{name}.parquet") for name in "abc")
    assert a["features"].equals(b["features"])
    assert a["features"].equals(c["features"])
    assert a["label"].equals(c["label"])
    assert set(b["label"].to_pylist()) == {""}
    assert a["key"].to_pylist()[0] == "000000000"
    assert a["source"].to_pylist()[0] == "000000000.jpg"


def test_what_is_no_image_is_left_out_and_counted(tmp_path, caplog, monkeypatch):
    folder = write_images(tmp_path / "images", 2, seed=0)
    (folder / "link.jpg").symlink_to("nowhere")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "all").symlink_to(folder)
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    for i in range(4):
        (folder / f"empty{i}.jpg").touch()
    scandir = os.scandir

    def deny(path):
        if str(path).endswith("/moss"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    for spec in ("net", "pixels"):
        caplog.clear()
        with within_time(60):
            summary = embed(spec, folder, tmp_path / "f.npz")
        assert (summary["samples"], summary["damaged"], summary["unread_folders"]) == (4, 8, 1)
        assert r"moss: Permission denied" in caplog.text
        assert "left out 8 images in all" in caplog.text
        assert caplog.text.count("left out") == 1 + 5 + 1


def test_names_that_are_not_utf8_stay_distinct(data, tmp_path):
    folder = tmp_path / os.fsdecode(b"donn\xe9es")
    names = [b"\xe9.png", b"\xe8.png", b"\\xe9.png", b"\xc3\xa9.png"]
    for i, name in enumerate(names):
        (folder / os.fsdecode(b"\xe0")).mkdir(parents=True, exist_ok=True)
        shutil.copy(data / "test/moss" / f"00{i}.png", folder / os.fsdecode(b"\xe0/" + name))
    embed("net", folder, folder / "a.npz")
    embed("net", folder, folder / "a.parquet")
    arrays = np.load(folder / "a.npz")
    table = pq.read_table(pa.BufferReader((folder / "a.parquet").read_bytes()))
    keys = [r"\xe0/" + name for name in (r"\xe8.png", r"\xe9.png", r"\\xe9.png", "é.png")]
    assert sorted(arrays["keys"].tolist()) == sorted(keys)
    assert table["key"].to_pylist() == arrays["keys"].tolist()
    assert set(table["label"].to_pylist()) == {r"\xe0"}


def test_keys_are_what_shards_remove_and_audit_take(folder, shards, tmp_path):
    """The whole way: features, a list of keys out of them, where the audit finds those, and the
    images gone.
    """
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    embed("net", copy, tmp_path / "f.parquet")
    keys = pq.read_table(tmp_path / "f.parquet")["key"].to_pylist()
    assert len(set(keys)) == 40
    # Of a run on these shards.
    history = SimpleNamespace(manifest=Manifest.load(copy), is_replaced=lambda shard: False)
    assert ids_of(history, keys) == {key: i for i, key in enumerate(keys)}
    (tmp_path / "keys.txt").write_text("\n".join(keys[:3]))
    report = remove(copy, tmp_path / "keys.txt", "keys", workers=1)
    assert (report.removed, report.unknown) == (3, 0)

    embed("net", folder / "train", tmp_path / "g.parquet")
    paths = pq.read_table(tmp_path / "g.parquet")["key"].to_pylist()
    embed("net", copy, tmp_path / "f.parquet")
    table = pq.read_table(tmp_path / "f.parquet")
    assert table["key"].to_pylist() == keys[3:]
    left = table["source"].to_pylist()
    assert set(left) < set(paths)
    (tmp_path / "paths.txt").write_text("\n".join(left[:2]))
    report = remove(copy, tmp_path / "paths.txt", "urls", workers=1)
    assert (report.removed, report.unknown) == (2, 0)


@pytest.mark.parametrize(
    "place", ["file/f.npz", "folder.npz", "/proc/none/f.parquet", "x" * 300 + ".npz"]
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    data, tmp_path, monkeypatch, place
):
    (tmp_path / "file").touch()
    (tmp_path / "folder.npz").mkdir()
    monkeypatch.setattr(pixels, "load_model", lambda spec: pytest.fail("the model was loaded"))
    with pytest.raises(InputError, match=r"--out .* cannot be written"):
        embed("net", data, tmp_path / place)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_disk_that_fills_meanwhile_is_one_line_and_no_half_file(data, tmp_path, suffix):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(InputError, match="File too large") as error:
            embed("net", data, tmp_path / f"f{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_wrong_input_is_named(data, tmp_path):
    with pytest.raises(InputError, match=r"\.parquet or \.npz"):
        embed("net", data, tmp_path / "features.csv")
    for name in ("missing", "x" * 300):
        with pytest.raises(InputError, match="no such folder"):
            embed("net", tmp_path / name, tmp_path / "f.npz")
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        embed("net", tmp_path / "bare", tmp_path / "f.npz")
    (tmp_path / "bare" / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="can be decoded"):
        embed("net", tmp_path / "bare", tmp_path / "f.npz")
    assert not (tmp_path / "f.npz").exists()


def test_photographs_that_are_not_read_are_told_of(tmp_path, caplog):
    (tmp_path / "a.jpg").write_bytes(encoded(0))
    (tmp_path / "b.HEIC").write_bytes(b"\0\0\0\x24ftypheic")
    assert open_pile(tmp_path).keys == ["a.jpg"]
    told = "left out 1 image of kinds that are not read, as b.HEIC; convert to JPEG"
    assert told in caplog.text
