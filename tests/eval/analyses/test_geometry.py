"""Geometry against numpy, scikit-learn and cases worked out by hand."""

import logging
import math
import shutil

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from seer.data.labelled import splits
from seer.errors import InputError
from seer.eval.analyses.geometry import (
    alpha_req,
    classes_apart,
    classes_of,
    jackknife,
    neighbours,
    rankme,
    uniformities_without,
    uniformity,
)
from seer.eval.task import evaluate


def features(count: int = 70, width: int = 6, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=draw, dtype=torch.float64)


def test_rankme_is_the_entropy_of_numpys_singular_values():
    x = features()
    singular = np.linalg.svd(x.numpy(), compute_uv=False)
    shares = singular / singular.sum() + 1e-7
    assert rankme(x) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-9)
    assert rankme(torch.eye(5, dtype=torch.float64)) == pytest.approx(5, rel=1e-4)
    assert rankme(torch.ones(9, 5, dtype=torch.float64)) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_alpha_is_the_exponent_that_eigenvalues_fall_by(exponent):
    turn, _ = torch.linalg.qr(features(200, 60))
    turn = turn - turn.mean(0)
    turn, _ = torch.linalg.qr(turn)
    sizes = torch.arange(1, 61, dtype=torch.float64) ** (-exponent / 2)
    assert alpha_req(turn * sizes) == pytest.approx(exponent, abs=1e-6)
    assert math.isnan(alpha_req(features(50, 3)))


def test_uniformity_is_the_mean_over_pairs():
    x = features(9, 4)
    unit = x / x.norm(dim=1, keepdim=True)
    pairs = [
        math.exp(-2 * float((unit[i] - unit[j]).square().sum()))
        for i in range(9)
        for j in range(9)
        if i != j
    ]
    assert uniformity(x) == pytest.approx(math.log(np.mean(pairs)))
    assert uniformity(torch.ones(5, 3, dtype=torch.float64)) == pytest.approx(0)


def test_classes_apart_by_hand():
    x = torch.tensor([[0.0, 1], [0, -1], [6, 2], [6, -2]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 5, 5])
    assert classes_apart(x, labels) == pytest.approx(6 / 1.5)
    assert math.isnan(classes_apart(x, torch.zeros(4, dtype=torch.int64)))


def test_uniformity_without_parts_is_that_of_the_others():
    x = features(90, 5)
    order = np.random.default_rng(1).permutation(90)
    values = [uniformity(x[np.setdiff1d(order, part)]) for part in np.array_split(order, 20)]
    assert uniformities_without(x, order) == pytest.approx(values, rel=1e-10)


def test_features_that_are_all_0_have_collapsed():
    assert uniformity(torch.zeros(40, 3, dtype=torch.float64)) == 0
    half = torch.cat([torch.zeros(1, 3), torch.tensor([[0.0, 2, 0]])]).double()
    assert uniformity(half) == pytest.approx(-2)  # of a pair at distance 1


def test_a_value_that_hangs_on_one_image_has_no_interval():
    x = features(40, 4)
    labels = torch.zeros(40, dtype=torch.int64)
    labels[7] = 1
    value = classes_apart(x, labels)
    assert value > 0
    low, high = jackknife(classes_apart, x, labels, np.arange(40), value)
    assert math.isnan(low)
    assert math.isnan(high)


def test_classes_that_have_no_neighbours_are_refused(data):
    _, test = splits(data)
    with pytest.raises(InputError, match="'moss' alone has no neighbours; name two or more"):
        classes_of(test, ["moss"])
    test.classes.append("tile")
    assert classes_of(test, []) == [0, 1, 2]
    with pytest.raises(InputError, match="'tile' has no test image"):
        classes_of(test, ["moss", "tile"])


def test_a_class_with_one_image_leaves_no_row_without_an_interval(data, tmp_path, caplog):
    folder = tmp_path / "two"
    for split in ("train", "test"):
        for name in ("brick", "moss"):
            shutil.copytree(data / split / name, folder / split / name)
    for path in sorted((folder / "test/moss").iterdir())[1:]:
        path.unlink()
    for path in sorted((data / "test/slate").iterdir()):
        shutil.copy(path, folder / "test/brick" / f"more-{path.name}")
    with caplog.at_level(logging.WARNING):
        rows = evaluate("geometry", "pixels", folder, [], tmp_path / "results.jsonl")
    assert [row["metric"] for row in rows] == ["rankme", "alpha", "uniformity"]
    assert "no classes apart: not known once" in caplog.text


def test_neighbours_are_scikit_learns():
    x = features(60, 4)
    labels = torch.arange(60) % 4
    classes = [3, 1, 0]
    own = torch.isin(labels, torch.tensor(classes))
    tree = NearestNeighbors(n_neighbors=2, metric="cosine").fit(x[own].numpy())
    nearest = tree.kneighbors(x[own].numpy(), return_distance=False)[:, 1]
    kinds = labels[own].numpy()
    expected = [[float(np.mean(kinds[nearest[kinds == a]] == b)) for b in classes] for a in classes]
    np.testing.assert_allclose(neighbours(x, labels, classes), expected, atol=1e-4)


def test_the_task(data, tmp_path):
    rows = evaluate("geometry", "pixels", data, [], tmp_path / "results.jsonl")
    found = {row["metric"]: row for row in rows}
    assert list(found) == ["rankme", "alpha", "uniformity", "classes_apart"]
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    matrix = found["rankme"]["details"]["neighbours"]
    assert found["rankme"]["details"]["classes"] == ["brick", "moss", "slate"]
    np.testing.assert_allclose(np.sum(matrix, axis=1), 1, atol=1e-3)
    with pytest.raises(InputError, match=r"no class is called 'mos' \(did you mean 'moss'\?\)"):
        evaluate("geometry", "pixels", data, ["classes=[mos]"], tmp_path / "results.jsonl")
