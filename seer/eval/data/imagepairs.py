"""Images that go with a map each, of classes or of depths: which can be used, and how a map comes upright."""

import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from seer.data.decoding import limits
from seer.data.decoding.decode import UPRIGHT, DamagedImage
from seer.data.folders import read_image, readable
from seer.data.labelled import ImageSet, Source
from seer.errors import InputError, first_line
from seer.eval.data.collector import ABSENT_IMAGE, DAMAGED
from seer.eval.data.objects import counted
from seer.eval.data.upright import HEAD, Shape, shape_of
from seer.inputs import open_data

ABSENT_MAP = "images without a map"
DAMAGED_MAP = "maps that cannot be read"
OTHER_SIZE = "maps of another size than their image"
TURNED = "images turned by EXIF of which it is not told whether their map is"
THREADS = 8
UNTURNED = 1  # EXIF's word for upright

# Of pictures whose pixels come back as they were. Pillow knows more, and programs that it would run (EPS).
LOSSLESS_FORMATS = ("PNG", "BMP", "DIB", "TIFF", "GIF")


class DenseImages(ImageSet):
    """Images with a map each. Picklable.

    Attributes:
        sizes: `(N, 2)` height and width of the upright images, which are those of their maps.
        counts: how much was left out in reading, by what it was.
    """

    def __init__(
        self,
        source: Source,
        known: np.ndarray,
        classes: Sequence[str],
        sizes: np.ndarray,
        counts: dict[str, int],
    ):
        super().__init__(source, known, classes)
        self.sizes = sizes
        self.counts = counts


class Pairs(NamedTuple):
    """Pairs that can be used.

    Attributes:
        images, maps: paths below one folder.
        sizes: `(N, 2)` height and width of the upright images.
        turns: `(N,)` the EXIF orientation that is to be undone in a map, as it is in its image; 1: none.
        counts: of what was left out.
    """

    images: list[str]
    maps: list[str]
    sizes: np.ndarray
    turns: np.ndarray
    counts: dict[str, int]


def paired(root: Path, pairs: Iterable[tuple[str, str]]) -> Pairs:
    """Look at the headers of images and maps, by their paths below a folder; leave out what is no pair.

    Raises:
        InputError: none can be used.
    """
    listed = list(pairs)
    with ThreadPoolExecutor(THREADS) as pool:
        looks = list(pool.map(lambda pair: _look(root, *pair), listed))
    counts = Counter(look for look in looks if isinstance(look, str))
    good = [
        (pair, look) for pair, look in zip(listed, looks, strict=True) if not isinstance(look, str)
    ]
    if not good:
        reasons = ", ".join(f"{count:,} {what}" for what, count in counts.items()) or "it is empty"
        raise InputError(
            f"{readable(str(root))}: has no image with a map that can be used: {reasons}"
        )
    return Pairs(
        [image for (image, _), _ in good],
        [path for (_, path), _ in good],
        np.array([(shape.height, shape.width) for _, (shape, _) in good], np.int32),
        np.array([turn for _, (_, turn) in good], np.int8),
        counted(counts),
    )


def _look(root: Path, image: str, path: str) -> tuple[Shape, int] | str:
    """What an image is and how its map is turned; or why the pair is left out."""
    if not os.path.isfile(root / image):
        return ABSENT_IMAGE
    if not os.path.isfile(root / path):
        return ABSENT_MAP
    try:
        shape = shape_of(root / image)
    except DamagedImage:
        return DAMAGED
    try:
        with open_data(root / path) as file:
            head = file.read(HEAD)
        try:
            size = _size_in(head)
        except DamagedImage:
            if len(head) < HEAD:
                raise
            size = _size_in(read_image(root / path))
    except (OSError, DamagedImage):
        return DAMAGED_MAP
    return _matched(shape, size)


def _size_in(content: bytes) -> tuple[int, int]:
    with map_picture(content) as picture:
        return picture.height, picture.width


@contextmanager
def map_picture(content: bytes) -> Iterator[Image.Image]:
    """A picture of a lossless format, within the limits of any other. Raises `DamagedImage`, also for what
    goes wrong in reading its pixels.
    """
    try:
        if content.startswith(limits.TIFF_MAGIC):
            limits.check_tiff(content)
        with Image.open(io.BytesIO(content), formats=LOSSLESS_FORMATS) as picture:
            if picture.width * picture.height > limits.MAX_PIXELS:
                raise DamagedImage("too many pixels")
            yield picture
    except (DamagedImage, InputError):
        raise
    except UnidentifiedImageError:
        raise DamagedImage("no PNG, BMP, TIFF or GIF") from None
    except Exception as error:  # whatever Pillow says of bytes
        raise DamagedImage(first_line(error)) from None


def _matched(shape: Shape, size: tuple[int, int]) -> tuple[Shape, int] | str:
    """By a map's size it is told whether it is upright as its image is shown, or lies as that is stored."""
    upright = (shape.height, shape.width)
    if shape.orientation == UNTURNED:
        return (shape, UNTURNED) if size == upright else OTHER_SIZE
    if shape.sideways and shape.height != shape.width:
        if size == upright:
            return shape, UNTURNED
        if size == shape.stored:
            return shape, shape.orientation
        return OTHER_SIZE
    return TURNED if size == upright else OTHER_SIZE


def upright(values: np.ndarray, turn: int) -> np.ndarray:
    """A map `(H, W)` or `(H, W, C)` as its upright image is. Its values are not turned (see normals)."""
    return values if turn == UNTURNED else np.ascontiguousarray(UPRIGHT[turn](values))
