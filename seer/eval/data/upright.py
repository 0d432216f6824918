"""The size of an image as it is looked at, upright, and its objects turned with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seer.data.decoding.decode import DamagedImage, orientation, probe
from seer.data.folders import read_image
from seer.eval.data.masks import mask_of, runs_in
from seer.eval.data.objects import Object
from seer.inputs import open_data

HEAD = 2**18  # bytes in which most images have said their size
SIDEWAYS = 5  # orientations from this on exchange height and width


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
