import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from seer.data.labelled import load_labelled
from seer.errors import InputError
from seer.eval import models
from seer.eval.embed import embed
from seer.eval.features import FeatureConfig, extract
from tests.data.conftest import write_shards
from tests.eval.conftest import small_model, write_images


@pytest.fixture(autouse=True)
def net(monkeypatch):
    monkeypatch.setattr(models, "load_model", lambda spec: small_model())


def test_parquet_holds_key_label_and_the_evaluations_features(data, tmp_path):
    out = tmp_path / "new" / "features.parquet"
    summary = embed("net", data / "test", out)
    assert summary == {"out": str(out), "samples": 60, "dimensions": 12, "damaged": 0, "model": "net"}
    table = pq.read_table(out)
    test = load_labelled(data, "test")
    assert table["key"].to_pylist() == test.source.paths
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
    write_shards(tmp_path / "labelled", [40, 20], test.bytes, lambda i: int(test.labels[i]), test.classes)
    write_shards(tmp_path / "plain", [60], test.bytes)
    embed("net", tmp_path / "labelled", tmp_path / "a.parquet")
    embed("net", tmp_path / "plain", tmp_path / "b.parquet")
    embed("net", data / "test", tmp_path / "c.parquet")
    a, b, c = (pq.read_table(tmp_path / f"{name}.parquet") for name in "abc")
    assert a["features"].equals(b["features"])
    assert a["features"].equals(c["features"])
    assert a["label"].equals(c["label"])
    assert set(b["label"].to_pylist()) == {""}
    assert a["key"].to_pylist()[0] == "000000000.jpg"


def test_wrong_input_is_named(data, tmp_path):
    with pytest.raises(InputError, match=r"\.parquet or \.npz"):
        embed("net", data, tmp_path / "features.csv")
    with pytest.raises(InputError, match="no such folder"):
        embed("net", tmp_path / "missing", tmp_path / "f.npz")
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        embed("net", tmp_path / "bare", tmp_path / "f.npz")
    (tmp_path / "bare" / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="can be decoded"):
        embed("net", tmp_path / "bare", tmp_path / "f.npz")
    assert not (tmp_path / "f.npz").exists()
