"""Images with objects: boxes, classes and masks in one table, whatever file they were read from."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from seer.data.labelled import ImageSet, Part, Source

# What is counted of objects that are left out; the rest of it is the collector's.
NO_CLASS = "objects of unknown classes"


class Object(NamedTuple):
    """One object of an image.

    Attributes:
        label: number of its class.
        box: `(4,)` x and y of the corners, in pixels of the upright image.
        crowd: whether it is a region of many, which is neither trained on nor counted against a prediction.
        difficult: whether neither finding nor missing it counts, as VOC says it.
        area: in pixels, of the mask where its owner says that, else of the box.
        polygons: the parts of its mask, `(P, 2)` each; empty where it has none.
        runs: its mask as run lengths; empty where it has none.
    """

    label: int
    box: np.ndarray
    crowd: bool = False
    difficult: bool = False
    area: float = 0.0
    polygons: tuple[np.ndarray, ...] = ()
    runs: np.ndarray = np.empty(0, np.int64)

    @property
    def masked(self) -> bool:
        return bool(self.polygons) or len(self.runs) > 0


@dataclass(frozen=True)
class Objects:
    """The objects of N images, those of an image beside each other: flat arrays, which workers are sent
    at once.

    Attributes:
        sizes: `(N, 2)` height and width of the upright images.
        ends: `(N,)` how many objects there are up to each image, its own included.
        boxes: `(M, 4)` float32; labels: `(M,)` int64; crowd, difficult, masked: `(M,)` bool; areas: `(M,)` float32.
        corners: `(P, 2)` float32 of all polygons; part_ends: `(parts,)`; object_parts: `(M,)`, how many parts there
            are up to each object.
        runs: of all run-length masks; run_ends: `(M,)`.
    """

    sizes: np.ndarray
    ends: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    masked: np.ndarray
    areas: np.ndarray
    corners: np.ndarray
    part_ends: np.ndarray
    object_parts: np.ndarray
    runs: np.ndarray
    run_ends: np.ndarray

    def of(self, image: int) -> range:
        """The numbers of an image's objects."""
        start = int(self.ends[image - 1]) if image else 0
        return range(start, int(self.ends[image]))

    def polygons(self, number: int) -> list[np.ndarray]:
        """The parts of an object's mask."""
        first = int(self.object_parts[number - 1]) if number else 0
        parts = range(first, int(self.object_parts[number]))
        starts = [int(self.part_ends[part - 1]) if part else 0 for part in parts]
        return [
            self.corners[start : self.part_ends[part]]
            for start, part in zip(starts, parts, strict=True)
        ]

    def run_lengths(self, number: int) -> np.ndarray:
        first = int(self.run_ends[number - 1]) if number else 0
        return self.runs[first : self.run_ends[number]]

    def at(self, number: int) -> Object:
        """An object."""
        return Object(
            int(self.labels[number]),
            self.boxes[number],
            bool(self.crowd[number]),
            bool(self.difficult[number]),
            float(self.areas[number]),
            tuple(self.polygons(number)),
            self.run_lengths(number),
        )

    def content(self) -> bytes:
        """All of it, for fingerprints."""
        return b"\0".join(np.ascontiguousarray(column).tobytes() for column in vars(self).values())


def flat(sizes: Sequence[tuple[int, int]], images: Sequence[Sequence[Object]]) -> Objects:
    """The table of the objects of each image."""
    objects = [thing for listed in images for thing in listed]
    polygons = [polygon for thing in objects for polygon in thing.polygons]
    no_corners = np.empty((0, 2), np.float32)
    return Objects(
        np.array(sizes, np.int32).reshape(-1, 2),
        np.cumsum([len(listed) for listed in images], dtype=np.int64),
        np.array([thing.box for thing in objects], np.float32).reshape(-1, 4),
        np.array([thing.label for thing in objects], np.int64),
        np.array([thing.crowd for thing in objects], bool),
        np.array([thing.difficult for thing in objects], bool),
        np.array([thing.masked for thing in objects], bool),
        np.array([thing.area for thing in objects], np.float32),
        np.concatenate([no_corners, *polygons]).astype(np.float32),
        np.cumsum([len(polygon) for polygon in polygons], dtype=np.int64),
        np.cumsum([len(thing.polygons) for thing in objects], dtype=np.int64),
        np.concatenate([np.empty(0, np.int64), *(thing.runs for thing in objects)]),
        np.cumsum([len(thing.runs) for thing in objects], dtype=np.int64),
    )


class Annotated(ImageSet):
    """Images with objects.

    Attributes:
        objects: the table of them.
        counts: how much was left out or mended in reading, by what it was.
    """

    def __init__(
        self, source: Source, objects: Objects, classes: Sequence[str], counts: dict[str, int]
    ):
        self.objects = objects
        self.counts = counts
        known = np.frombuffer(hashlib.sha256(objects.content()).digest(), np.uint8)
        super().__init__(source, known, classes)
        self._length = len(objects.ends)

    def with_objects(self) -> np.ndarray:
        """The numbers of the images that have an object to learn from."""
        return np.array(
            [i for i in range(len(self)) if not self.objects.crowd[self.objects.of(i)].all()],
            np.int64,
        )


def part(images: Annotated, numbers: np.ndarray, classes: Sequence[str] | None = None) -> Annotated:
    """Some of the images by their numbers, without the objects of classes that are not among `classes`,
    which are counted.
    """
    classes = list(images.classes if classes is None else classes)
    renumbered = {i: classes.index(c) for i, c in enumerate(images.classes) if c in classes}
    counts = Counter(images.counts)
    chosen = []
    for number in numbers.tolist():
        listed = [images.objects.at(i) for i in images.objects.of(number)]
        kept = [
            thing._replace(label=renumbered[thing.label])
            for thing in listed
            if thing.label in renumbered
        ]
        counts[NO_CLASS] += len(listed) - len(kept)
        chosen.append(kept)
    sizes = [tuple(size) for size in images.objects.sizes[numbers].tolist()]
    table = flat(sizes, chosen)
    return Annotated(Part(images.source, numbers), table, classes, counted(counts))


def counted(counts: Counter[str]) -> dict[str, int]:
    """The counts above 0."""
    return {what: count for what, count in counts.items() if count}
