"""Images with objects: boxes, classes and masks in one table, whatever file they were read from."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seer.data.decoding.decode import DamagedImage, orientation, probe
from seer.data.folders import Files, read_image
from seer.data.labelled import ImageSet, Part, Source
from seer.eval.data.masks import mask_of, runs_in
from seer.inputs import open_data

HEAD = 2**18  # bytes in which most images have said their size
SIDEWAYS = 5  # orientations from this on exchange height and width
# What is counted of data that are not as they should be.
ABSENT_IMAGE = "images that are not there"
DAMAGED = "images that cannot be read"
OTHER_SIZE = "images of another size than their annotation says"
TURNED = "images turned by EXIF of which it is not told whether their boxes are"
ABSENT = "annotations of images that are not there"
NO_CLASS = "objects of unknown classes"
NO_NUMBERS = "boxes that are not four numbers"
NO_AREA = "boxes without area"
OUTSIDE = "boxes outside their image"
CUT = "boxes cut to their image"
FEW_CORNERS = "polygons of fewer than three corners"
NO_MASK = "masks that are damaged or of another size than their image"
CROWDS = "crowd regions"
EMPTY = "images without objects"


class Shape(NamedTuple):
    """What an image is: its size upright, and the EXIF orientation that is undone for that."""

    height: int
    width: int
    orientation: int = 1

    @property
    def sideways(self) -> bool:
        return self.orientation >= SIDEWAYS

    @property
    def stored(self) -> tuple[int, int]:
        """Height and width as they are in the file."""
        return (self.width, self.height) if self.sideways else (self.height, self.width)


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
        inclusive: whether the files' boxes include their last pixel and begin at 1 (VOC), which `objects` do not.
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


@dataclass
class Collector:
    """Images and objects as a reader finds them; says what it left out.

    Args:
        folder: of the images. names: of the classes; None: those that occur, sorted.
    """

    folder: Path
    counts: Counter[str] = field(default_factory=Counter)
    paths: list[str] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    frames: list[Callable[[Object], Object]] = field(default_factory=list)
    objects: list[list[Object]] = field(default_factory=list)

    def image(self, path: str, size: tuple[int, int] | None) -> int | None:
        """Take an image in, and return its number; None where it is left out.

        Args:
            size: height and width that its annotation tells.
        """
        shape = self._shape(path)
        if shape is None:
            return None
        turn = self._turn(shape, size)
        if turn is None:
            return None
        self.paths.append(path)
        self.shapes.append(shape)
        self.frames.append(turn)
        self.objects.append([])
        return len(self.paths) - 1

    def add(self, image: int, thing: Object) -> None:
        """Take an object of an image in, its box cut to the image; count what is none."""
        if not np.isfinite(thing.box).all():
            self.counts[NO_NUMBERS] += 1
            return
        if not (thing.box[2:] > thing.box[:2]).all():
            self.counts[NO_AREA] += 1
            return
        thing = self.frames[image](thing)
        height, width = self.shapes[image][:2]
        inside = np.clip(thing.box, 0, [width, height, width, height])
        if not (inside[2:] > inside[:2]).all():
            self.counts[OUTSIDE] += 1
            return
        # Boxes and their images are often rounded each by itself.
        self.counts[CUT] += int(np.abs(inside - thing.box).max() > 1)
        self.counts[CROWDS] += thing.crowd
        sides = inside[2:] - inside[:2]
        area = thing.area if 0 < thing.area < np.inf else float(sides.prod())
        polygons = tuple(np.clip(p, 0, [width, height]) for p in thing.polygons)
        self.objects[image].append(
            thing._replace(box=inside.astype(np.float32), area=area, polygons=polygons)
        )

    def finish(self, classes: Sequence[str]) -> Annotated:
        """The images that were taken in."""
        self.counts[EMPTY] += sum(not listed for listed in self.objects)
        sizes = [(shape.height, shape.width) for shape in self.shapes]
        table = flat(sizes, self.objects)
        return Annotated(Files(self.folder, self.paths), table, classes, counted(self.counts))

    def _shape(self, path: str) -> Shape | None:
        place = self.folder / path
        if not os.path.isfile(place):
            self.counts[ABSENT_IMAGE] += 1
            return None
        try:
            return shape_of(place)
        except DamagedImage:
            self.counts[DAMAGED] += 1
            return None

    def _turn(
        self, shape: Shape, size: tuple[int, int] | None
    ) -> Callable[[Object], Object] | None:
        """How objects come into the upright image: by the size that the annotation tells it is told
        whether they are there already.
        """
        upright = (shape.height, shape.width)
        if shape.orientation == 1:
            if size is None or size == upright:
                return _unchanged
            self.counts[OTHER_SIZE] += 1
            return None
        if size is not None and shape.sideways and shape.height != shape.width:
            if size == upright:
                return _unchanged
            if size == shape.stored:
                return Turned(shape)
        self.counts[TURNED] += 1
        return None


def shape_of(path: Path) -> Shape:
    """Size and orientation of an image file, mostly from its beginning. Raises `DamagedImage`."""
    try:
        with open_data(path) as file:
            head = file.read(HEAD)
    except OSError as error:
        raise DamagedImage(str(error.strerror)) from error
    try:
        return _shape_in(head)
    except DamagedImage:
        if len(head) < HEAD:
            raise
        return _shape_in(read_image(path))


def _shape_in(data: bytes) -> Shape:
    info = probe(data)
    return Shape(info.height, info.width, orientation(data))


def _unchanged(thing: Object) -> Object:
    return thing


@dataclass(frozen=True)
class Turned:
    """Objects of an image as it is stored → of the same image upright (Exif 2.32, table 6).

    Attributes:
        shape: of the image, whose orientation is 5 to 8: these exchange height and width.
    """

    shape: Shape

    def __call__(self, thing: Object) -> Object:
        corners = self.points(thing.box.reshape(2, 2))
        box = np.concatenate([corners.min(0), corners.max(0)])
        polygons = tuple(self.points(polygon).astype(np.float32) for polygon in thing.polygons)
        runs = thing.runs
        if len(runs):
            runs = runs_in(_UPRIGHT[self.shape.orientation](mask_of(runs, *self.shape.stored)))
        return thing._replace(box=box, polygons=polygons, runs=runs)

    def points(self, points: np.ndarray) -> np.ndarray:
        height, width = self.shape.stored
        x = points[:, 0]
        y = points[:, 1]
        turned = {5: (y, x), 6: (height - y, x), 7: (height - y, width - x), 8: (y, width - x)}
        return np.stack(turned[self.shape.orientation], axis=1)


_UPRIGHT: dict[int, Any] = {
    5: np.transpose,
    6: lambda mask: np.rot90(mask, -1),
    7: lambda mask: np.rot90(mask, 2).T,
    8: np.rot90,
}
