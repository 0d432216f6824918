"""Images with a surface normal, a depth or both for each pixel."""

import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np

from seer.data.labelled import Source
from seer.errors import InputError
from seer.eval.data.imagepairs import DenseImages
from seer.eval.dense.depth_normals import Intrinsics, normals_of
from seer.inputs import UnreadableError, read_text

CAMERA = "camera-intrinsics.txt"
LARGEST_CAMERA = 2**16
FROM_FILES = "as given"
FROM_DEPTH = "computed from depth"


class Normals(Protocol):
    """Normals by the number of the image."""

    @property
    def fingerprint(self) -> str: ...

    def key(self, i: int) -> str: ...

    def name(self, i: int) -> str: ...

    def read(self, i: int) -> np.ndarray: ...


class Depths(Protocol):
    """Depths by the number of the image."""

    @property
    def fingerprint(self) -> str: ...

    def key(self, i: int) -> str: ...

    def name(self, i: int) -> str: ...

    def read(self, i: int) -> np.ndarray: ...


class SurfaceImages(DenseImages):
    """Images with normals, depth or both. Picklable.

    Attributes:
        camera: by which normals are computed where only depth is given.
        codebook: `(K, 3)` clusters of normals that come with the data; None where there are none.
        folder: what the user calls the data.
    """

    def __init__(
        self,
        source: Source,
        normals: Normals | None,
        depths: Depths | None,
        camera: Intrinsics | None,
        sizes: np.ndarray,
        counts: dict[str, int],
        folder: str,
        codebook: np.ndarray | None = None,
    ):
        maps = [each for each in (normals, depths) if each is not None]
        assert maps
        self._normals = normals
        self._depths = depths
        self.camera = camera
        self.folder = folder
        self.codebook = codebook
        names = [each.key(i) for each in maps for i in range(len(source))]
        content = "\0".join([*names, str(camera), str(codebook)])
        digest = hashlib.sha256(content.encode(errors="surrogateescape")).digest()
        super().__init__(source, np.frombuffer(digest, np.uint8), (), sizes, counts)
        self._length = len(source)
        content = "\0".join([self.fingerprint, *(each.fingerprint for each in maps)])
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def origin(self) -> str:
        """Where its normals are from."""
        return FROM_FILES if self._normals is not None else FROM_DEPTH

    def check_normals(self) -> None:
        """Raise `InputError` where there is nothing that normals can be had from."""
        if self._normals is None and self.camera is None:
            raise InputError(
                f"{self.folder}: has depth and no {CAMERA}; write fx, fy, cx, cy in pixels there, or 3 × 3 numbers"
            )

    def check_depth(self) -> None:
        """Raise `InputError` where there is no depth."""
        if self._depths is None:
            raise InputError(f"{self.folder}: has normals and no depth for each image")

    def normals(self, i: int) -> np.ndarray:
        """`(H, W, 3)` float32 of unit length at the image's size; NaN where there is none, infinite where
        what is given is none.

        Raises:
            InputError: as `check_normals`; a file is damaged, or of another size than its image.
        """
        if self._normals is not None:
            return self._fitting(i, self._normals, self._normals.read(i))
        self.check_normals()
        assert self.camera is not None
        return normals_of(self.depth(i), self.camera)

    def depth(self, i: int) -> np.ndarray:
        """`(H, W)` float32 metres at the image's size, NaN where not known. Raises `InputError`."""
        self.check_depth()
        assert self._depths is not None
        return self._fitting(i, self._depths, self._depths.read(i))

    def _fitting(self, i: int, maps: "Normals | Depths", values: np.ndarray) -> np.ndarray:
        height, width = self.sizes[i].tolist()
        if values.shape[:2] != (height, width):
            raise InputError(
                f"{maps.name(i)}: is {values.shape[1]} × {values.shape[0]} px, and its image {width} × {height}; "
                "make them one size"
            )
        return values


def camera_of(folder: Path) -> Intrinsics | None:
    """The camera that a folder tells of; None where it tells of none.

    Raises:
        UnreadableError: the file holds neither 3 × 3 numbers nor fx, fy, cx and cy.
    """
    path = folder / CAMERA
    try:
        words = read_text(path, LARGEST_CAMERA).replace(",", " ").split()
    except FileNotFoundError:
        return None
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) == 9:
        numbers = [numbers[0], numbers[4], numbers[2], numbers[5]]
    if len(numbers) != 4 or not np.isfinite(numbers).all() or min(numbers[:2]) <= 0:
        raise UnreadableError(
            f"{path}: holds no camera; write 3 × 3 numbers, or fx, fy, cx and cy in pixels"
        )
    return Intrinsics(*numbers)
