"""k-means against a loop in numpy, and over shares of the rows."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from seer.methods.kmeans import divided, nearest, spherical_kmeans


def directions(count: int, width: int, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, width, generator=draw, dtype=torch.float64), dim=1)


def by_hand(rows: np.ndarray, centroids: np.ndarray, iterations: int):
    centroids = centroids.copy()
    for _ in range(iterations):
        assigned = [int(np.argmax([row @ centroid for centroid in centroids])) for row in rows]
        for k in range(len(centroids)):
            members = [row for row, cluster in zip(rows, assigned, strict=True) if cluster == k]
            if members:
                mean = np.sum(members, axis=0)
                centroids[k] = mean / np.linalg.norm(mean)
    return centroids, [int(np.argmax(centroids @ row)) for row in rows]


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6), st.integers(1, 4))
def test_it_is_the_plain_loop(seed, count, clusters, iterations):
    rows = directions(count, 3, seed)
    begin = directions(clusters, 3, seed + 1)
    found = spherical_kmeans(rows, begin, iterations)
    centroids, assigned = by_hand(rows.numpy(), begin.numpy(), iterations)
    np.testing.assert_allclose(found.centroids, centroids, rtol=1e-10, atol=1e-12)
    assert found.assignments.tolist() == assigned
    assert found.empty == clusters - len(set(assigned))


def test_well_apart_clusters_are_found():
    truth = torch.arange(60) % 3
    rows = F.normalize(torch.eye(3)[truth] + 0.05 * torch.randn(60, 3), dim=1)
    found = spherical_kmeans(rows, rows[:3], 5)
    assert torch.equal(found.assignments, truth)


def test_an_empty_cluster_keeps_its_centroid_or_has_half_of_the_largest():
    rows = torch.cat([directions(10, 4, 0).abs(), torch.tensor([[0.0, 0, 0, -1]]).double()])
    begin = torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, -1], [-1, -1, -1, 0]]).double()
    begin = F.normalize(begin, dim=1)
    kept = spherical_kmeans(rows, begin, 4)
    assert kept.empty == 1
    assert torch.equal(kept.centroids[2], begin[2])
    filled = spherical_kmeans(rows, begin, 4, refill=True)
    assert filled.empty == 0
    assert set(filled.assignments.tolist()) == {0, 1, 2}
    assert filled.assignments[-1] == 1


def test_a_cluster_of_one_image_is_not_divided():
    centroids = directions(3, 4, 0)
    assert torch.equal(divided(centroids, torch.tensor([1.0, 1, 0])), centroids)


def test_the_largest_clusters_are_put_apart_by_hand():
    centroids = F.normalize(torch.tensor([[1.0, 2, 2], [0, 1, 0], [5, 0, 1], [0, 3, 4]]), dim=1)
    apart = divided(centroids, torch.tensor([2.0, 1, 0, 0]))  # only the first has two rows
    up = centroids[0] + 1e-4 * torch.tensor([1.0, -1, 1])
    down = centroids[0] - 1e-4 * torch.tensor([1.0, -1, 1])
    expected = torch.stack([down / down.norm(), centroids[1], up / up.norm(), centroids[3]])
    torch.testing.assert_close(apart, expected, rtol=0, atol=1e-7)
    larger = divided(centroids, torch.tensor([2.0, 0, 3, 9]))
    assert (larger != centroids).any(1).tolist() == [False, True, False, True]


def test_no_rows_here():
    assert nearest(torch.zeros(0, 4), directions(3, 4, 0).float()).shape == (0,)


def test_blocks_change_nothing(monkeypatch):
    rows = directions(50, 4, 0)
    whole = nearest(rows, directions(7, 4, 1))
    monkeypatch.setattr("seer.methods.kmeans.BLOCK", 20)
    assert torch.equal(nearest(rows, directions(7, 4, 1)), whole)


@pytest.mark.parametrize("refill", [False, True])
def test_equal_rows_cannot_fill_two_clusters(refill):
    rows = torch.tensor([[1.0, 0]]).double().expand(5, 2)
    found = spherical_kmeans(rows, directions(2, 2, 3), 3, refill)
    assert found.centroids.isfinite().all()
    assert found.empty == 1
