"""Files with a normal or a depth for each pixel: PNG, NumPy's and MATLAB's."""

import io
import os
import warnings
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from seer.data.decoding.decode import DamagedImage, probe
from seer.data.folders import Files, read_image
from seer.errors import InputError, first_line
from seer.eval.data.matlab import read_mat
from seer.eval.data.upright import shape_of
from seer.inputs import open_data

NORMAL_ENDINGS = (".png", ".npy", ".mat")
DEPTH_ENDINGS = (".png", ".npy")
MILLIMETRES = 1000
NEAREST, FARTHEST = 0.05, 100.0  # metres, between which the median depth of an image is
SHORTEST, LONGEST = 0.9, 1.1  # what counts as a normal of unit length, in eight bits too
NONE = 0.1  # a vector as short as that says that there is none
# What is counted of pixels.
HOLES = "pixels without a normal"
NOT_NORMAL = "normals that are NaN, infinite or not of unit length"
NO_DEPTH = "pixels without a depth"


class NormalFiles:
    """The normals of images, a file each.

    Args:
        masks: of each a picture that is 0 where there is no normal; None where there are no such.
    """

    def __init__(self, files: Files, masks: Files | None = None):
        self.files = files
        self.masks = masks

    @property
    def fingerprint(self) -> str:
        return self.files.fingerprint + (self.masks.fingerprint if self.masks else "")

    def key(self, i: int) -> str:
        return self.files.key(i)

    def name(self, i: int) -> str:
        return self.files.name(i)

    def read(self, i: int) -> np.ndarray:
        """`(H, W, 3)` float32, as `units` has them.

        Raises:
            InputError: the file is damaged, or holds something else.
        """
        vectors, known = vectors_of(self.files, i)
        if self.masks is not None:
            mask = picture_of(self.masks, i)
            if mask.shape[:2] != known.shape:
                raise InputError(f"{self.masks.name(i)}: is of another size than its normals")
            known &= mask.reshape(*known.shape, -1)[..., 0] > 0
        return units(vectors, known)


class DepthFiles:
    """The depth of images, a file each."""

    def __init__(self, files: Files):
        self.files = files

    @property
    def fingerprint(self) -> str:
        return self.files.fingerprint

    def key(self, i: int) -> str:
        return self.files.key(i)

    def name(self, i: int) -> str:
        return self.files.name(i)

    def read(self, i: int) -> np.ndarray:
        """`(H, W)` float32 metres, NaN where not known: whole numbers are millimetres, 0 and the largest
        one being none; other numbers are metres.

        Raises:
            InputError: the file is damaged, holds something else, or has another unit.
        """
        name = self.files.name(i)
        values = array_of(self.files, i) if name.endswith(".npy") else picture_of(self.files, i)
        values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
        if values.ndim != 2 or values.dtype.kind not in "uif" or values.dtype.itemsize == 1:
            raise InputError(
                f"{name}: is no depth (one channel of 16 bits in millimetres, or of metres in .npy)"
            )
        return metres_of(values, name)


def metres_of(values: np.ndarray, name: str) -> np.ndarray:
    """`(H, W)` float32 metres, NaN where not known. Raises `InputError` where the median is that of no
    photograph, as if the numbers were of another unit.
    """
    with np.errstate(over="ignore"):  # beyond any depth, and so a hole
        depth = values.astype(np.float32)
    known = np.isfinite(depth) & (depth > 0)
    whole = values.dtype.kind in "ui"
    if whole:
        known &= values < np.iinfo(values.dtype).max
        depth /= MILLIMETRES
    depth[~known] = np.nan
    median = float(np.median(depth[known])) if known.any() else 1.0
    if NEAREST <= median <= FARTHEST:
        return depth
    if whole and median < NEAREST:
        words = "metres? Whole numbers are taken for millimetres; multiply them by 1,000"
    elif whole:
        words = "less than millimetres? Whole numbers are taken for those; divide them"
    else:
        words = "not metres? Numbers of .npy are taken for those; divide millimetres by 1,000"
    raise InputError(f"{name}: has a median depth of {median:,.3g} m: are its numbers {words}")


def units(vectors: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`(H, W, 3)` float32 normals of vectors `(H, W, 3)`: NaN where there is none, and infinite where what is
    said to be one is not: no finite numbers, or not of unit length.
    """
    with np.errstate(over="ignore"):  # infinite, and so not of unit length
        length = np.linalg.norm(np.where(known[..., None], vectors, 0), axis=-1)
    unit = known & (length >= SHORTEST) & (length <= LONGEST)
    wrong = known & ~unit & ~(length < NONE)  # NaN is not less either
    with np.errstate(invalid="ignore", divide="ignore"):
        normals = np.where(unit[..., None], vectors / length[..., None], np.nan)
    normals[wrong] = np.inf
    return normals.astype(np.float32)


def absent(normals: np.ndarray) -> dict[str, int]:
    """Why how many pixels of `units` have no normal; reasons without any are left out."""
    first = normals[..., 0]
    counts = {HOLES: int(np.isnan(first).sum()), NOT_NORMAL: int(np.isinf(first).sum())}
    return {reason: count for reason, count in counts.items() if count}


def vectors_of(files: Files, i: int) -> tuple[np.ndarray, np.ndarray]:
    """`(H, W, 3)` float64, and `(H, W)` bool: where the file says that there is one."""
    name = files.name(i)
    if name.endswith(".mat"):
        return _of_matlab(files.root / files.paths[i])
    if name.endswith(".npy"):
        vectors = array_of(files, i)
        if vectors.ndim == 3 and vectors.shape[0] == 3 != vectors.shape[2]:
            vectors = vectors.transpose(1, 2, 0)
        if vectors.ndim != 3 or vectors.shape[2] != 3 or vectors.dtype.kind != "f":
            raise InputError(f"{name}: holds no normals, which are (H, W, 3) numbers from −1 to 1")
        return vectors.astype(np.float64), np.ones(vectors.shape[:2], bool)
    picture = picture_of(files, i)
    if picture.ndim != 3 or picture.shape[2] not in (3, 4):
        raise InputError(f"{name}: holds no normals, which are colours, 0 for −1 and white for 1")
    levels = np.iinfo(picture.dtype).max
    colours = picture[..., :3]
    known = (colours > 0).max(-1)  # black is what nobody has painted
    if picture.shape[2] == 4:
        known &= picture[..., 3] > 0
    return colours / (levels / 2) - 1.0, known


def _of_matlab(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """nx, ny, nz and depthValid, as Fouhey et al. (2013) give normals of NYUv2."""
    parts = [np.atleast_2d(_matrix(read_mat(path, name), path)) for name in ("nx", "ny", "nz")]
    valid = np.atleast_2d(_matrix(read_mat(path, "depthValid"), path))
    if any(part.shape != valid.shape for part in parts):
        raise InputError(f"{path}: nx, ny, nz and depthValid are not of one size")
    return np.stack(parts, -1).astype(np.float64), valid > 0


def _matrix(values: Any, path: Path) -> np.ndarray:
    if not isinstance(values, np.ndarray) or values.ndim > 2:
        raise InputError(f"{path}: nx, ny, nz or depthValid is no matrix; get it again")
    return values


def picture_of(files: Files, i: int) -> np.ndarray:
    """A PNG with the bits that it has, RGB. Raises `InputError`."""
    content = _content(files, i)
    try:
        kind = probe(content).format  # larger than any picture is refused
    except DamagedImage as error:
        raise _unreadable(files, i, str(error)) from None
    # OpenCV reads half a JPEG as a whole one, and of what else is damaged its libraries write to stderr.
    if kind != "PNG" or not _is_sound(content):
        raise _unreadable(files, i, f"{kind}, not PNG" if kind != "PNG" else "damaged or cut short")
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype.kind != "u":
        raise _unreadable(files, i, "not a picture")
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return pixels


def _is_sound(content: bytes) -> bool:
    """Whether a PNG is there to its end, and each chunk as its checksum says."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            picture.verify()
    except Exception:  # whatever Pillow says of bytes
        return False
    return True


def array_of(files: Files, i: int) -> np.ndarray:
    """The array of a .npy. Raises `InputError`."""
    content = _content(files, i)
    header = _header(io.BytesIO(content), len(content), files, i)
    flat = np.frombuffer(content, header.dtype, offset=header.end)
    return flat.reshape(header.shape, order="F" if header.by_columns else "C")


class Header(NamedTuple):
    """What stands at the beginning of a .npy: shape, order and type, and where its numbers begin."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[Any]
    end: int


def _header(file: Any, size: int, files: Files, i: int) -> Header:
    """Raises `InputError` where a .npy of so many bytes has not all its numbers."""
    formats = np.lib.format
    try:
        first = formats.read_magic(file) == (1, 0)
        read = formats.read_array_header_1_0 if first else formats.read_array_header_2_0
        with warnings.catch_warnings(action="ignore"):  # of Python 2
            header = Header(*read(file), file.tell())
    except Exception as error:  # it is parsed as Python, which raises whatever that does
        raise _unreadable(files, i, f"no .npy: {first_line(error)}") from None
    dtype = header.dtype
    if any(type(side) is not int or side < 1 for side in header.shape):
        raise _unreadable(files, i, "it is empty, or its sides are no numbers")
    if dtype.kind not in "uif" or prod(header.shape) * dtype.itemsize != size - header.end:
        raise _unreadable(files, i, "not as many numbers as it says")
    return header


def size_of(files: Files, i: int) -> tuple[int, int] | None:
    """Height and width of a map by its header; None where that does not tell them. Raises `InputError`."""
    path = files.root / files.paths[i]
    if path.suffix == ".mat":
        return None
    try:
        if path.suffix != ".npy":
            shape = shape_of(path)
            return shape.height, shape.width
        with open_data(path) as file:
            header = _header(file, os.fstat(file.fileno()).st_size, files, i)
    except (DamagedImage, OSError) as error:
        raise _unreadable(files, i, first_line(error)) from None
    sides = header.shape
    spatial = sides[1:] if len(sides) == 3 and sides[0] == 3 != sides[2] else sides[:2]
    return (spatial[0], spatial[1]) if len(spatial) == 2 else None


def _content(files: Files, i: int) -> bytes:
    try:
        return read_image(files.root / files.paths[i])
    except DamagedImage as error:
        raise _unreadable(files, i, str(error)) from None


def _unreadable(files: Files, i: int, reason: str) -> InputError:
    return InputError(f"{files.name(i)} cannot be read ({reason}); repair or remove it")


def map_beside(folder: Path, stem: str, endings: Sequence[str]) -> str | None:
    """The name of a map within a folder."""
    names = (stem + ending for ending in endings)
    return next((name for name in names if os.path.isfile(folder / name)), None)
