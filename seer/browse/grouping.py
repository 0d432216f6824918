"""Images in groups: classes, what each prototype collects, k-means clusters, near-duplicates."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import MiniBatchKMeans

PER_CLUSTER = 20  # images on average
MOST_CLUSTERS = 100


@dataclass(frozen=True)
class Grouping:
    """Which group each image is in.

    Attributes:
        title: what one of them is called.
        members: `(N,)` int64, -1 for none.
        nearness: `(N,)`, by which the images of a group are sorted, the highest first.
        count: groups, those without images included.
        names: of the groups; empty where they have numbers alone.
    """

    title: str
    members: np.ndarray
    nearness: np.ndarray
    count: int
    names: tuple[str, ...] = ()

    @cached_property
    def sizes(self) -> np.ndarray:
        """`(count,)`: images of each group."""
        return np.bincount(self.members[self.members >= 0], minlength=self.count)

    @cached_property
    def by_size(self) -> np.ndarray:
        """The groups that have images, the largest first."""
        order = np.argsort(-self.sizes, kind="stable")
        return order[self.sizes[order] > 0]

    @property
    def empty(self) -> int:
        return int((self.sizes == 0).sum())

    def rows(self, group: int) -> np.ndarray:
        """The images of a group, the nearest first."""
        first = self._begins[group]
        return self._sorted[first : first + self.sizes[group]]

    def name(self, group: int) -> str:
        return self.names[group] if self.names else f"{self.title} {group}"

    @cached_property
    def _sorted(self) -> np.ndarray:
        order = np.lexsort((-self.nearness, self.members))
        return order[self.members[order] >= 0]

    @cached_property
    def _begins(self) -> np.ndarray:
        return np.cumsum(self.sizes) - self.sizes


def clusters(heads: np.ndarray) -> Grouping:
    """k-means (MacQueen 1967) of directions `(N, R)` of about length 1, by mini-batches (Sculley
    2010); nearness is minus the distance to the centre.
    """
    count = max(1, min(MOST_CLUSTERS, len(heads) // PER_CLUSTER))
    fitted = MiniBatchKMeans(count, batch_size=2048, n_init=3, random_state=0).fit(heads)
    centres = fitted.cluster_centers_[fitted.labels_]
    distances = np.linalg.norm(heads - centres, axis=1)
    return Grouping("cluster", fitted.labels_.astype(np.int64), -distances, count)


def majority(labels: np.ndarray) -> tuple[int, float] | None:
    """The most frequent of labels, -1 being none, and its share; None where there are none."""
    labelled = labels[labels >= 0]
    if not len(labelled):
        return None
    counts = np.bincount(labelled)
    return int(counts.argmax()), float(counts.max() / len(labels))


def alike(near: np.ndarray, places: np.ndarray, least: float) -> Grouping:
    """Sets of images that are nearly the same: those that are joined, directly or through others, by
    cosines of `least` or more; nearness is an image's highest.

    Args:
        near, places: `(N, k)`, cosines and rows of each row's nearest others.
    """
    rows, columns = np.nonzero(near >= least)
    count = len(near)
    joined = coo_array((np.ones(len(rows)), (rows, places[rows, columns])), shape=(count, count))
    _, components = connected_components(joined, directed=False)
    alone = np.bincount(components)[components] < 2
    members = np.full(count, -1)
    names, members[~alone] = np.unique(components[~alone], return_inverse=True)
    nearness = near.max(1, initial=-1.0)
    return Grouping("set", members, nearness, len(names))
