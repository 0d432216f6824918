"""Clusters of features against scikit-learn's, and the lists that they become."""

import io
import json
import os
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from seer.cli import app
from seer.errors import InputError
from seer.methods.kmeans import spherical_kmeans
from seer.pretrain.clusters import Features, cluster, read_features, write_lists


def blobs(count: int = 90, spread: float = 0.2) -> Features:
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(3, 8))
    rows = centres[np.arange(count) % 3] + spread * draw.normal(size=(count, 8))
    rows *= draw.uniform(0.1, 10, (count, 1))  # lengths mean nothing
    return Features([f"k{i}" for i in range(count)], torch.from_numpy(rows).float())


def test_clusters_are_those_of_scikit_learn():
    features = blobs()
    found, cosine = cluster(features, 3)
    rows = torch.nn.functional.normalize(features.values, dim=1).numpy()
    theirs = KMeans(3, n_init=5, random_state=0).fit(rows)
    assert adjusted_rand_score(theirs.labels_, found.assignments) == 1
    directions = theirs.cluster_centers_ / np.linalg.norm(theirs.cluster_centers_, axis=1)[:, None]
    nearness = directions @ found.centroids.numpy().T
    np.testing.assert_allclose(nearness.max(1), 1, atol=1e-5)
    assert cosine == pytest.approx((rows * directions[theirs.labels_]).sum(1).mean(), abs=1e-5)


def test_harder_ones_are_as_good():
    features = blobs(300, spread=1.5)
    rows = torch.nn.functional.normalize(features.values, dim=1).numpy()
    _, cosine = cluster(features, 5)
    theirs = KMeans(5, n_init=10, random_state=0).fit(rows)
    centres = theirs.cluster_centers_ / np.linalg.norm(theirs.cluster_centers_, axis=1)[:, None]
    assert cosine > (rows * centres[theirs.labels_]).sum(1).mean() - 0.01


def test_the_best_of_several_beginnings_is_kept(monkeypatch):
    features = blobs(300, spread=1.5)
    rows = torch.nn.functional.normalize(features.values, dim=1)
    cosines = []

    def watched(*args, **options):
        outcome = spherical_kmeans(*args, **options)
        cosines.append((rows * outcome.centroids[outcome.assignments]).sum(1).mean())
        return outcome

    monkeypatch.setattr("seer.pretrain.clusters.spherical_kmeans", watched)
    kept, cosine = cluster(features, 5)
    assert max(cosines) > min(cosines)
    assert cosine == pytest.approx(float(max(cosines)))
    assert (rows * kept.centroids[kept.assignments]).sum(1).mean() == pytest.approx(cosine)


@pytest.mark.parametrize("name", ["features.parquet", "features.npz"])
def test_lists_have_every_key_once(name, tmp_path):
    features = blobs()
    path = tmp_path / name
    values = features.values.numpy()
    if name.endswith("npz"):
        np.savez(path, keys=np.array(features.keys), features=values)
    else:
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        pq.write_table(pa.table({"key": features.keys, "features": column}), path)
    read = read_features(path)
    assert read.keys == features.keys
    assert torch.equal(read.values, features.values)
    found, cosine = cluster(read, 3)
    summary = write_lists(read, found, cosine, tmp_path / "lists")
    assert json.loads((tmp_path / "lists/clusters.json").read_text()) == summary
    lists = [(tmp_path / "lists" / file).read_text().split() for file in summary["lists"]]
    assert [len(keys) for keys in lists] == summary["sizes"]
    assert sorted(key for keys in lists for key in keys) == sorted(features.keys)
    assert {int(key[1:]) % 3 for key in lists[0]} in ({0}, {1}, {2})


def test_the_command_line(tmp_path, capsys):
    features = blobs(9)
    np.savez(tmp_path / "f.npz", keys=np.array(features.keys), features=features.values.numpy())
    words = [
        "cluster",
        str(tmp_path / "f.npz"),
        "--clusters",
        "3",
        "--out",
        str(tmp_path / "lists"),
    ]
    with pytest.raises(SystemExit) as ended:
        app([*words, "--json", "-"])
    assert ended.value.code == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["sizes"] == [3, 3, 3]
    assert sorted(path.name for path in (tmp_path / "lists").iterdir()) == [
        "0.txt",
        "1.txt",
        "2.txt",
        "clusters.json",
    ]


def test_wrong_features(tmp_path):
    features = blobs(4)
    with pytest.raises(InputError, match="clusters=5: more than the 4 images; give fewer"):
        cluster(features, 5)
    (tmp_path / "bad.parquet").write_text("x")
    with pytest.raises(InputError, match=r"bad\.parquet: holds no features"):
        read_features(tmp_path / "bad.parquet")
    values = features.values.numpy().copy()
    values[0, 0] = np.nan
    np.savez(tmp_path / "nan.npz", keys=np.array(features.keys), features=values)
    with pytest.raises(InputError, match="features are NaN or infinite"):
        read_features(tmp_path / "nan.npz")


def packed(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def saved(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


KEYS = np.array(["a", "b", "c", "d"])
ROWS = np.ones((4, 2), np.float32)
HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 1000000000000), }\n"
HEADER = b"\x93NUMPY\1\0" + len(HUGE).to_bytes(2, "little") + HUGE.encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        saved(keys=KEYS, features=ROWS)[:-200],
        saved(keys=KEYS, features=ROWS).replace(b"a\0\0\0b", b"z\0\0\0z"),
        saved(keys=KEYS, features=np.full((4, 2), "a")),
        saved(keys=KEYS, features=ROWS + 1j),
        saved(keys=np.arange(4), features=ROWS),
        saved(keys=np.array([KEYS, KEYS]).T, features=ROWS),
        saved(keys=np.array(["a", "b\nc", "d", "e"]), features=ROWS),
        saved(keys=np.array(["a", "a", "d", "e"]), features=ROWS),
        saved(keys=KEYS[:0], features=ROWS[:0]),
        packed(keys=HEADER, features=HEADER),
        packed(keys=b"\x93NUMPY\1\0\3\0(((", features=b""),
    ],
)
def test_a_strangers_npz_is_one_line(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.npz: ") as error:
        read_features(tmp_path / "a.npz")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("keys", "features"),
    [
        (["a", "b"], [[1.0], [1.0, 2.0, 3.0]]),  # as many numbers as two rows of two
        (["a", "b"], [[1.0, 2.0, 3.0, 4.0], None]),
        (["a", None], [[1.0], [2.0]]),
        ([1, 2], [[1.0], [2.0]]),
        (["a", "b"], [1.0, 2.0]),
        (["a", "b"], [{"x": 1}, {"x": 2}]),
        (["a", "a"], [[1.0], [2.0]]),
    ],
)
def test_a_strangers_table_is_one_line(tmp_path, keys, features):
    pq.write_table(pa.table({"key": keys, "features": features}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: "):
        read_features(tmp_path / "a.parquet")


def test_a_pipe_is_not_waited_for(tmp_path):
    for name in ("a.npz", "a.parquet"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match="not a regular file"):
            read_features(tmp_path / name)
