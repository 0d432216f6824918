"""An image as a graph of superpixels, on which saliency is estimated."""

import warnings
from dataclasses import dataclass

import cv2
import numpy as np
from skimage.segmentation import slic

COUNT = 200  # superpixels, as in Zhu et al. 2014
COMPACTNESS = 20.0  # of places beside colours in Lab


@dataclass(frozen=True)
class Regions:
    """N superpixels of an image.

    Attributes:
        labels: `(H, W)` int64, of each pixel.
        colours: `(N, 3)`, mean Lab: L from 0 to 100. places: `(N, 2)`, mean row and column, from 0 to 1.
        border: `(N,)` bool, which touch the image's border.
        adjacent: `(N, N)` bool, which touch each other; symmetric, and no region touches itself.
    """

    labels: np.ndarray
    colours: np.ndarray
    places: np.ndarray
    border: np.ndarray
    adjacent: np.ndarray

    def spread(self, values: np.ndarray) -> np.ndarray:
        """`(N,)` values as a map, `(H, W)`."""
        return values[self.labels]

    @property
    def unlike(self) -> np.ndarray:
        """`(N, N)` distances of the colours."""
        return distances(self.colours)


def regions_of(lab: np.ndarray, count: int = COUNT) -> Regions:
    """Superpixels of an `(H, W, 3)` float image in Lab (SLIC, Achanta et al. 2012, of scikit-image)."""
    extent = max(float(lab.max() - lab.min()), 1e-6)  # which scikit-image makes 1
    with warnings.catch_warnings(action="ignore"):
        labels = slic(
            lab,
            n_segments=count,
            compactness=COMPACTNESS / extent,
            convert2lab=False,
            start_label=0,
            enforce_connectivity=True,
            channel_axis=-1,
        )
    _, labels = np.unique(labels, return_inverse=True)
    labels = labels.reshape(lab.shape[:2])
    height, width = lab.shape[:2]
    rows, columns = np.mgrid[0:height, 0:width]
    means = [_means(labels, channel) for channel in np.moveaxis(lab, 2, 0)]
    places = [_means(labels, rows / height), _means(labels, columns / width)]
    edges = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    border = np.zeros(len(means[0]), bool)
    border[edges] = True
    return Regions(
        labels, np.stack(means, 1), np.stack(places, 1), border, _adjacency(labels, len(border))
    )


def to_lab(image: np.ndarray) -> np.ndarray:
    """`(H, W, 3)` uint8 RGB to float32 Lab, L from 0 to 100."""
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def distances(points: np.ndarray) -> np.ndarray:
    """`(N, N)` Euclidean distances of `(N, D)` points."""
    return np.linalg.norm(points[:, None] - points[None], axis=2)


def normalised(values: np.ndarray) -> np.ndarray:
    """From 0 to 1; zeros where all values are alike."""
    low = values.min()
    extent = values.max() - low
    return (values - low) / extent if extent > 1e-12 else np.zeros_like(values)


def _means(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    flat = labels.ravel()
    return np.bincount(flat, values.ravel()) / np.bincount(flat)


def _adjacency(labels: np.ndarray, count: int) -> np.ndarray:
    adjacent = np.zeros((count, count), bool)
    for one, next_one in ((labels[:-1], labels[1:]), (labels[:, :-1], labels[:, 1:])):
        adjacent[one, next_one] = True
    adjacent |= adjacent.T
    np.fill_diagonal(adjacent, False)
    return adjacent
