"""What is found out about a collection: some at once, the rest in the background, one thing after the
other, while it is looked at already.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from seer.browse import grouping, landscape
from seer.browse.assignments import assign
from seer.browse.collection import Collection
from seer.browse.grouping import Grouping
from seer.browse.pruned_search import Index, neighbour_graph
from seer.errors import InputError
from seer.eval.probes import feature_cache
from seer.eval.probes.search import directions

logger = logging.getLogger("seer.browse")

REDUCED = 64  # first coordinates by which all images are compared with all
GRAPH = 15  # neighbours of each image in that comparison
ROWS = 2_000  # compared at a time, between two words of progress
OUTLIER = 10  # neighbours by which an image is alone or not
EXACT = 2**23  # values of features that are compared at a time
FEWEST_ON_A_MAP = 50  # images, below which UMAP has nothing to say
MOST_KEPT = 2**24  # rows whose numbers float32 can tell apart
VERSION = 1  # of what is kept; another one when it is computed in another way


class PendingError(Exception):
    """What was asked for is not there yet; says what is being done."""


class Study:
    """A collection and what is known of it.

    Attributes:
        index: to search it.
        points: `(N, 2)` float32 in [-1, 1], the map; on the main axes until there is a better one.
        map_note: what the map is.
        no_prototypes: why there are none; "" if there are.
        doing: what is being found out; "" at the end.
    """

    def __init__(self, collection: Collection, spec: str):
        self.collection = collection
        self.index = Index.of(collection.features)
        self.points = landscape.main_axes(self.index.heads.numpy())
        self.map_note = "main axes (PCA)"
        self.no_prototypes = ""
        self.doing = "beginning"
        self._graph: tuple[np.ndarray, np.ndarray] | None = None
        self._groupings: dict[str, Grouping] = {}
        if collection.classes:
            self._groupings["classes"] = _classes(collection)
        try:
            self._groupings["prototypes"] = _prototypes(spec, collection.features)
        except InputError as error:
            self.no_prototypes = str(error)

    def begin(self) -> None:
        """Find out the rest in a thread that gives way to questions, and ends with the process."""

        def behind() -> None:
            with suppress(OSError, AttributeError):  # of this thread alone, and those it starts
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
            self.run()

        threading.Thread(target=behind, daemon=True).start()

    def run(self) -> None:
        """Find out the rest. What fails is told, and the page goes on without it."""
        try:
            self._run()
            self.doing = ""
        except Exception as error:
            logger.exception("not everything could be found out")
            self.doing = f"stopped ({type(error).__name__})"

    def grouping(self, kind: str, least: float = 1.0) -> Grouping:
        """The grouping of this kind; of `duplicates` by cosines of `least` or more. Raises
        `PendingError`, or `KeyError` where there is none.
        """
        if kind == "duplicates":
            key = f"{kind} {least:g}"
            if key not in self._groupings:
                self._groupings[key] = grouping.alike(*self.graph, least)
            return self._groupings[key]
        if kind == "clusters" and kind not in self._groupings:
            raise PendingError(self.doing)
        return self._groupings[kind]

    @property
    def kinds(self) -> list[str]:
        """The groupings that there are by now, but for near-duplicates."""
        return [kind for kind in ("classes", "prototypes", "clusters") if kind in self._groupings]

    @property
    def graph(self) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and rows `(N, k)` of each row's nearest others, nearest first. Raises `PendingError`."""
        if self._graph is None:
            raise PendingError(self.doing)
        return self._graph

    @property
    def loneliness(self) -> np.ndarray:
        """`(N,)`: 1 minus the mean cosine of an image and its nearest (Angiulli & Pizzuti 2002)."""
        near, _ = self.graph
        return 1 - near[:, :OUTLIER].mean(1) if near.shape[1] else np.zeros(len(near))

    def _run(self) -> None:
        reduced = directions(self.index.heads[:, :REDUCED])
        self.doing = "finding clusters"
        self._groupings["clusters"] = grouping.clusters(reduced.numpy())
        kept = self._kept("graph", lambda: self._compared(reduced))
        near, places = np.split(kept, 2, axis=1)
        self._graph = near, places.astype(np.int64)
        if len(reduced) < FEWEST_ON_A_MAP or not landscape.has_umap():
            return
        self.doing = "drawing the map (UMAP)"
        self.points = self._kept("map", lambda: landscape.umap_of(reduced.numpy(), *self.graph))
        self.map_note = f"UMAP of the {GRAPH} nearest neighbours"

    def _compared(self, reduced: Tensor) -> np.ndarray:
        """Cosines and rows of each row's nearest others, side by side: found by the first
        coordinates, and compared anew by all.
        """
        parts = []
        for begin in range(0, len(reduced), ROWS):
            self.doing = f"comparing all images ({begin / len(reduced):.0%})"
            end = min(begin + ROWS, len(reduced))
            places = neighbour_graph(reduced, GRAPH, begin, end)
            near = _cosines(self.collection.features, begin, places)
            near, order = near.sort(dim=1, descending=True)
            parts.append(torch.cat([near, places.gather(1, order).float()], 1).numpy())
        return np.concatenate(parts)

    def _kept(self, what: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """`(N, …)` float32, from the cache of features or put there."""
        images = len(self.collection)
        keeps = self.collection.key is not None and images <= MOST_KEPT
        key = hashlib.sha256(f"{self.collection.key} {what} {VERSION}".encode()).hexdigest()
        if keeps and (kept := feature_cache.load(key, images)) is not None:
            return kept.numpy()
        values = compute()
        if keeps:
            feature_cache.store(key, torch.from_numpy(values))
        return values


def _cosines(features: Tensor, begin: int, places: Tensor) -> Tensor:
    """Cosines `(n, k)` of the rows from `begin` on and those in `places` `(n, k)`."""
    count = max(1, EXACT // (features.shape[1] * max(1, places.shape[1])))
    parts = []
    for first, block in enumerate(places.split(count)):
        own = begin + first * count
        queries = directions(features[own : own + len(block)])
        others = directions(features[block.flatten()]).unflatten(0, block.shape)
        parts.append(torch.einsum("nd,nkd->nk", queries, others))
    return torch.cat(parts)


def _classes(collection: Collection) -> Grouping:
    labels = collection.labels
    names = tuple(collection.classes)
    return Grouping("class", labels, np.zeros(len(labels)), len(names), names)


def _prototypes(spec: str, features: Tensor) -> Grouping:
    found = assign(spec, features)
    return Grouping("prototype", found.nearest.numpy(), found.cosines.numpy(), found.prototypes)
