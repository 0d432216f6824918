import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from seer.browse.landscape import main_axes, scaled, umap_of


def clouds() -> tuple[np.ndarray, np.ndarray]:
    """Directions around three centres, and which of them."""
    random = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 40)
    points = np.eye(8)[truth] + random.normal(0, 0.1, (120, 8))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32), truth


def test_main_axes_are_those_of_pca():
    heads, _ = clouds()
    expected = scaled(PCA(2).fit_transform(heads))
    np.testing.assert_allclose(np.abs(main_axes(heads)), np.abs(expected), atol=1e-3)
    assert main_axes(np.ones((1, 1), np.float32)).tolist() == [[0, 0]]


def test_what_is_not_finite_is_in_the_middle():
    points = scaled(np.array([[0.0, 0.0], [np.inf, 1.0], [2.0, 0.0], [1.0, -4.0]]))
    assert np.isfinite(points).all()
    assert np.abs(points).max() == 1


@pytest.mark.slow
def test_umap_keeps_clouds_apart():
    pytest.importorskip("umap", reason="needs umap-learn")
    heads, truth = clouds()
    distances, places = NearestNeighbors(n_neighbors=16).fit(heads).kneighbors(heads)
    layout = umap_of(heads, 1 - distances[:, 1:] ** 2 / 2, places[:, 1:])
    nearest = NearestNeighbors(n_neighbors=6).fit(layout).kneighbors(return_distance=False)
    assert (truth[nearest] == truth[:, None]).mean() > 0.99
