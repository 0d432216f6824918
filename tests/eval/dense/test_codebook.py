"""Clusters of normals against scikit-learn's, and by hand."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin

from seer.eval.dense.codebook import assigned, clusters, expected, sample


def normals(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, 3)) * [1, 0.5, 1]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_clusters_are_as_close_as_those_of_scikit_learn():
    points = normals(3000)
    centres = clusters(points, 40, 0)
    assert np.linalg.norm(centres, axis=1) == pytest.approx(1)
    ours = np.square(points[:, None] - centres).sum(-1).min(1).sum()
    means = KMeans(40, n_init=1, random_state=0).fit(points).cluster_centers_
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    theirs = np.square(points[:, None] - means).sum(-1).min(1).sum()
    assert ours < 1.05 * theirs
    assert np.array_equal(centres, clusters(points, 40, 0))
    assert not np.array_equal(centres, clusters(points, 40, 1))


def test_rounds_end_where_scikit_learn_would_move_nothing():
    """From our centres before they go back to the sphere, its own rounds assign all points alike."""
    points = normals(500)
    centres = clusters(points, 7, 0)
    nearest = pairwise_distances_argmin(points, centres)
    means = np.stack([points[nearest == k].mean(0) for k in range(7)])
    fitted = KMeans(7, init=means, n_init=1, max_iter=50).fit(points)
    assert (fitted.labels_ == nearest).mean() > 0.97


def test_too_many_clusters_are_told():
    with pytest.raises(ValueError, match="2 different normals, and 3 clusters"):
        clusters(np.array([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]]), 3, 0)
    with pytest.raises(ValueError, match="0 different normals, and 2 clusters"):
        clusters(np.empty((0, 3)), 2, 0)


def test_each_normal_is_of_the_nearest_cluster():
    centres = clusters(normals(2000), 40, 0)
    points = normals(600, 1)
    maps = torch.tensor(points).reshape(2, 15, 20, 3).permute(0, 3, 1, 2)
    maps[1, :, 3, 4] = torch.nan
    maps[0, 1, 0, 0] = torch.inf
    classes = assigned(maps, torch.tensor(centres))
    wanted = pairwise_distances_argmin(points, centres).reshape(2, 15, 20)
    wanted[1, 3, 4] = wanted[0, 0, 0] = -1
    assert np.array_equal(classes.numpy(), wanted)


def test_the_normal_is_the_mean_by_probabilities():
    centres = normals(5)
    logits = np.random.default_rng(2).normal(size=(1, 5, 2, 3))
    means = expected(torch.tensor(logits), torch.tensor(centres))
    shares = np.exp(logits[0, :, 1, 2])
    wanted = sum(share * centre for share, centre in zip(shares, centres, strict=True))
    assert means[0, :, 1, 2].numpy() == pytest.approx(wanted / shares.sum())
    sure = torch.full((1, 5, 1, 1), -1e4, dtype=torch.float64)
    sure[0, 3] = 0
    assert expected(sure, torch.tensor(centres))[0, :, 0, 0].numpy() == pytest.approx(centres[3])


def test_a_mirrored_scene_has_mirrored_clusters():
    """The first component of a normal changes its sign, and so does that of its centre."""
    points = torch.tensor(normals(64)).reshape(1, 8, 8, 3).permute(0, 3, 1, 2)
    centres = torch.tensor(normals(9, 3))
    sign = torch.tensor([-1.0, 1, 1], dtype=torch.float64)
    mirrored = points.flip(3) * sign[:, None, None]
    assert torch.equal(assigned(mirrored, centres * sign), assigned(points, centres).flip(2))


def test_a_sample_is_spread_evenly_over_maps_and_leaves_holes_out():
    maps = [normals(400, seed).reshape(20, 20, 3) for seed in range(4)]
    maps[2][:, :10] = np.nan
    points = sample(maps, 100)
    assert 95 <= len(points) <= 105
    assert np.isfinite(points).all()
    assert len(sample(maps, 10**6)) == 4 * 400 - 200
    assert sample([np.full((2, 2, 3), np.nan)], 5).shape == (0, 3)
