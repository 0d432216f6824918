"""A map of features in two dimensions: UMAP where `umap-learn` is installed, else the two main axes."""

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

NEIGHBOURS = 15


def has_umap() -> bool:
    return importlib.util.find_spec("umap") is not None


def main_axes(heads: np.ndarray) -> np.ndarray:
    """`(N, 2)` in [-1, 1]: directions `(N, R)` on the two axes along which they vary most (PCA)."""
    centred = heads - heads.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    plane = centred @ axes[:, :-3:-1]
    if plane.shape[1] < 2:
        plane = np.hstack([plane, np.zeros((len(plane), 2 - plane.shape[1]), plane.dtype)])
    return scaled(plane)


def umap_of(heads: np.ndarray, near: np.ndarray, places: np.ndarray) -> np.ndarray:
    """`(N, 2)` in [-1, 1] by UMAP (McInnes et al. 2018, arXiv:1802.03426), from the main axes.

    Args:
        near, places: `(N, k)`, cosines and rows of each row's nearest others.
    """
    with warnings.catch_warnings(), same_threads():
        warnings.simplefilter("ignore")  # that what is seeded is not parallel, and of numba
        from umap import UMAP

        own = np.arange(len(heads))[:, None]
        indices = np.hstack([own, places]).astype(np.int32)
        distances = np.hstack([np.zeros_like(near[:, :1]), np.maximum(1 - near, 0)])
        layout = UMAP(
            n_neighbors=indices.shape[1],
            metric="cosine",
            init=main_axes(heads) * 10,
            random_state=0,
            n_jobs=1,
            precomputed_knn=(indices, distances.astype(np.float32), None),
        ).fit_transform(heads)
    return scaled(np.asarray(layout))


@contextmanager
def same_threads() -> Iterator[None]:
    """Numba, when it starts its own threads, has OpenMP take every core, PyTorch's sums as well."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def scaled(points: np.ndarray) -> np.ndarray:
    """Points `(N, 2)` as float32, the middle one at 0, the farthest out at 1; what is not finite is
    in the middle.
    """
    points = np.nan_to_num(points - np.median(points, axis=0), posinf=0, neginf=0)
    largest = float(np.abs(points).max())
    return (points / (largest or 1.0)).astype(np.float32)
