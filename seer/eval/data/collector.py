"""Images and objects as a reader of annotations finds them; what cannot be used is counted."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from operator import sub
from pathlib import Path

import numpy as np

from seer.data.decoding.decode import DamagedImage
from seer.data.folders import Files
from seer.data.labelled import Source
from seer.eval.data.masks import filled
from seer.eval.data.objects import Annotated, Object, Objects, counted, flat
from seer.eval.data.upright import Shape, Turned, shape_of

# What is counted of data that are not as they should be.
ABSENT_IMAGE = "images that are not there"
DAMAGED = "images that cannot be read"
OTHER_SIZE = "images of another size than their annotation says"
TURNED = "images turned by EXIF of which it is not told whether their boxes are"
ABSENT = "annotations of images that are not there"
NO_NUMBERS = "boxes that are not four numbers"
NO_AREA = "boxes without area"
OUTSIDE = "boxes outside their image"
CUT = "boxes cut to their image"
FEW_CORNERS = "polygons of fewer than three corners"
NO_MASK = "masks that are damaged or of another size than their image"
NO_PIXEL = "masks and polygons without a pixel"
CROWDS = "crowd regions"
EMPTY = "images without objects"

LEAST_AREA = 1e-6  # of a polygon that is no line, up to rounding


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
        return None if shape is None else self.shaped(path, shape, size)

    def shaped(self, path: str, shape: Shape, size: tuple[int, int] | None) -> int | None:
        """The same of an image whose shape is known."""
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
        # Numbers one by one: of a million objects, arrays of four take minutes.
        left, top, right, bottom = thing.box.tolist()
        if not (isfinite(left) and isfinite(top) and isfinite(right) and isfinite(bottom)):
            self.counts[NO_NUMBERS] += 1
            return
        if right <= left or bottom <= top:
            self.counts[NO_AREA] += 1
            return
        turn = self.frames[image]
        if turn is not _unchanged:
            thing = turn(thing)
            left, top, right, bottom = thing.box.tolist()
        height, width = self.shapes[image][:2]
        edges = (left, top, right, bottom)
        inside = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
        if inside[2] <= inside[0] or inside[3] <= inside[1]:
            self.counts[OUTSIDE] += 1
            return
        box = np.array(inside, np.float32)
        if box[2] <= box[0] or box[3] <= box[1]:  # rounded away
            self.counts[NO_AREA] += 1
            return
        # Boxes and their images are often rounded each by itself.
        beyond = max(map(sub, inside, edges)), max(map(sub, edges, inside))
        self.counts[CUT] += max(beyond) > 1
        self.counts[CROWDS] += thing.crowd
        sides = (inside[2] - inside[0], inside[3] - inside[1])
        area = thing.area if 0 < thing.area < inf else float(sides[0] * sides[1])
        if len(thing.runs) and not thing.runs[1::2].any():
            self.counts[NO_PIXEL] += 1
            thing = thing._replace(runs=np.empty(0, np.int64))
        self.objects[image].append(thing._replace(box=box, area=area))

    def finish(self, classes: Sequence[str], source: Source | None = None) -> Annotated:
        """The images that were taken in; of `source`, where they are no files."""
        self.counts[EMPTY] += sum(not listed for listed in self.objects)
        sizes = [(shape.height, shape.width) for shape in self.shapes]
        table = flat(sizes, self.objects)
        _cut_corners(table)
        if self._drop_empty(table):
            table = flat(sizes, self.objects)
            _cut_corners(table)
        source = source or Files(self.folder, self.paths)
        return Annotated(source, table, classes, counted(self.counts))

    def _drop_empty(self, table: Objects) -> bool:
        """Take polygons without a pixel from the objects of the table; whether there were any."""
        flat_parts = np.abs(_areas(table)) < LEAST_AREA
        owners = np.repeat(np.arange(len(table.labels)), np.diff(table.object_parts, prepend=0))
        dropped = 0
        for number in np.unique(owners[flat_parts]).tolist():
            image = int(np.searchsorted(table.ends, number, side="right"))
            size = table.sizes[image].tolist()
            polygons = table.polygons(number)
            doubtful = flat_parts[owners == number].tolist()
            kept = [
                polygon
                for polygon, doubt in zip(polygons, doubtful, strict=True)
                if not doubt or filled([polygon], *size).any()
            ]
            place = number - table.of(image).start
            self.objects[image][place] = self.objects[image][place]._replace(polygons=tuple(kept))
            dropped += len(polygons) - len(kept)
        self.counts[NO_PIXEL] += dropped
        return dropped > 0

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


def _cut_corners(table: Objects) -> None:
    """Bring the corners of all polygons into their images, in place."""
    counts = np.diff(table.ends, prepend=0)  # objects of an image
    parts = np.diff(table.object_parts, prepend=0)  # polygons of an object
    corners = np.diff(table.part_ends, prepend=0)  # corners of a polygon
    images = np.repeat(np.arange(len(counts)), counts)
    limits = np.repeat(np.repeat(images, parts), corners)
    np.clip(table.corners, 0, table.sizes[limits, ::-1], out=table.corners, casting="same_kind")


def _areas(table: Objects) -> np.ndarray:
    """`(parts,)` signed areas of all polygons, by their corners."""
    if not len(table.part_ends):
        return np.empty(0)
    starts = np.concatenate([[0], table.part_ends[:-1]])
    following = np.arange(1, len(table.corners) + 1)
    following[table.part_ends - 1] = starts
    x, y = table.corners.astype(np.float64).T
    return np.add.reduceat(x * y[following] - x[following] * y, starts) / 2


def _unchanged(thing: Object) -> Object:
    return thing
