"""NYU Depth V2 as its owners and those of its normals distribute it.

nyu_depth_v2_labeled.mat    images and depth of 1,449 frames, in HDF5 (Silberman et al. 2012, ECCV)
splits.mat                  which frames are for training, and which for testing, counted from 1
nyu_normals_gt/             normals as pictures: train/00003.png, test/00001.png, masks/0000.png
                            (Ladický et al. 2014, ECCV); or
NORMALS/000001.mat          nx, ny, nz and depthValid of each frame, in any one folder
vocab40.mat                 40 clusters of normals (Wang et al. 2015, arXiv:1411.4958)
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from seer.data.decoding.decode import MAX_PIXELS
from seer.data.folders import Files
from seer.errors import InputError, first_line
from seer.eval.data.mapfiles import NormalFiles, metres_of
from seer.eval.data.matlab import read_mat
from seer.eval.data.matlists import whole_numbers
from seer.eval.data.surfacemaps import SurfaceImages
from seer.eval.dense.depth_normals import Intrinsics
from seer.inputs import UnreadableError, open_data

FRAMES = "nyu_depth_v2_labeled.mat"
SPLIT_FILE = "splits.mat"
SPLITS = {"train": "trainNdxs", "test": "testNdxs"}
PICTURES = "nyu_normals_gt"
ONE_PICKLE = "all_normals.pklz"
VOCABULARY = "vocab40.mat"
NUMBERED = re.compile(r"(?:nm_)?0*([1-9]\d*)\.mat")
# Of the colour camera, onto whose pixels depth is projected (the owners' camera_params.m).
CAMERA = Intrinsics(518.857901, 519.469611, 325.582449, 253.736166)
LARGEST_CHUNK = 2**28  # numbers: as many as are unpacked at once
BLOCKS = 64  # of a file of 2.8 GB, by which it is known again
BLOCK = 2**16


class Frames:
    """The file of images and depth. Picklable; opens the file in each process and call.

    Attributes:
        count: of frames. size: height and width of each. depths: the name of the depth that is read.
    """

    def __init__(self, path: Path):
        self.path = path
        with self.opened() as file:
            self.depths = "rawDepths" if "rawDepths" in file else "depths"
            images = _shape(file, "images", "u")
            depths = _shape(file, self.depths, "f")
        if len(images) != 4 or images[1] != 3 or depths != (images[0], *images[2:]):
            raise UnreadableError(
                f"{path}: its images are {images} and its depths {depths}, which do not go together; get it again"
            )
        if images[2] * images[3] > MAX_PIXELS:
            raise UnreadableError(
                f"{path}: its images are larger than any photograph; get it again"
            )
        self.count = int(images[0])
        self.size = (int(images[3]), int(images[2]))

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """The file. Raises `InputError` where it is none, or nothing can read it."""
        try:
            import h5py
        except ImportError:
            raise InputError(
                f"{self.path}: is in HDF5; to read it: pip install 'seer-pretrain[normals]'"
            ) from None
        try:
            with h5py.File(self.path, "r") as file:
                yield file
        except InputError:
            raise
        except Exception as error:  # whatever HDF5 says of bytes
            raise UnreadableError(
                f"{self.path}: not readable as {FRAMES} ({first_line(error)}); get it again"
            ) from None

    @property
    def fingerprint(self) -> str:
        """Of its size and parts that lie evenly in it."""
        digest = hashlib.sha256()
        with open_data(self.path) as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(str(size).encode())
            for block in range(BLOCKS):
                file.seek(max(0, size - BLOCK) * block // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
        return digest.hexdigest()

    def image(self, number: int) -> np.ndarray:
        """`(H, W, 3)` uint8; MATLAB's dimensions are the other way round."""
        with self.opened() as file:
            return np.asarray(file["images"][number], np.uint8).transpose(2, 1, 0)

    def depth(self, number: int) -> np.ndarray:
        """`(H, W)` float32 metres as measured, 0 where not, or as filled in where that is all there is."""
        with self.opened() as file, np.errstate(over="ignore"):  # infinite: not known
            return np.asarray(file[self.depths][number], np.float32).T


def _shape(file: Any, name: str, kind: str) -> tuple[int, ...]:
    """Of an array of numbers of a kind that lies in the file itself: HDF5 can take it from any other. Raises
    OSError.
    """
    inside = type(file.get(name, getlink=True)).__name__ == "HardLink"
    array = file[name]
    if not inside or array.external or array.is_virtual or array.dtype.kind not in "uif":
        raise OSError(f"its {name} are no numbers within the file")
    if (
        array.dtype.kind != kind
        or array.dtype.itemsize > 8
        or (kind == "u" and array.dtype != np.uint8)
    ):
        raise OSError(f"its {name} are of type {array.dtype}")
    if array.chunks and prod(array.chunks) > LARGEST_CHUNK:
        raise OSError(f"its {name} are packed in pieces of {prod(array.chunks):,} numbers")
    return tuple(array.shape or ())


class FrameImages:
    """Images of the file by their places in a split, as encoded images: PPM, which is pixels and nothing else."""

    def __init__(self, frames: Frames, numbers: np.ndarray):
        self.frames = frames
        self.numbers = numbers.tolist()
        content = frames.fingerprint.encode() + numbers.tobytes()
        self.fingerprint = hashlib.sha256(content).hexdigest()

    def __len__(self) -> int:
        return len(self.numbers)

    def bytes(self, i: int) -> bytes:
        pixels = self.frames.image(self.numbers[i])
        height, width = pixels.shape[:2]
        return f"P6\n{width} {height}\n255\n".encode() + pixels.tobytes()

    def key(self, i: int) -> str:
        return f"{self.numbers[i] + 1:04d}"

    def name(self, i: int) -> str:
        return f"frame {self.numbers[i] + 1} of {self.frames.path}"

    def read(self, i: int) -> np.ndarray:
        """The depth of the same frame, as `Depths` has it."""
        return metres_of(self.frames.depth(self.numbers[i]), self.name(i))


def both(folder: Path) -> dict[str, SurfaceImages]:
    """The owners' training and test images.

    Raises:
        InputError: a file is missing or is not what it should be; h5py is not there.
    """
    frames = Frames(folder / FRAMES)
    codebook = codebook_of(folder / VOCABULARY)
    halves = {}
    path = folder / SPLIT_FILE
    every = [whole_numbers(read_mat(path, variable), path) for variable in SPLITS.values()]
    numbers, counts = np.unique(np.concatenate(every), return_counts=True)
    if (counts > 1).any():
        raise UnreadableError(f"{path}: names frame {numbers[counts > 1][0]} twice; get it again")
    for split, variable in SPLITS.items():
        numbers = whole_numbers(read_mat(path, variable), path) - 1
        if not len(numbers) or numbers.min() < 0 or numbers.max() >= frames.count:
            raise UnreadableError(
                f"{path}: {variable} names other frames than 1 to {frames.count:,}, which {FRAMES} has"
            )
        images = FrameImages(frames, numbers)
        normals = normals_in(folder, split, numbers, frames.count)
        sizes = np.tile(np.array(frames.size, np.int32), (len(numbers), 1))
        halves[split] = SurfaceImages(
            images, normals, images, CAMERA, sizes, {}, str(folder), codebook
        )
    return halves


def normals_in(folder: Path, split: str, numbers: np.ndarray, count: int) -> NormalFiles | None:
    """The published normals of some frames; None where there are none, so that depth tells them."""
    pictures = folder / PICTURES / split
    if pictures.is_dir():
        files = Files(pictures, [f"{number + 1:05d}.png" for number in numbers.tolist()])
        return NormalFiles(_complete(files), _masks(folder, numbers, count))
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        matches = [(NUMBERED.fullmatch(name), name) for name in sorted(os.listdir(place))]
        names = {int(match[1]): name for match, name in matches if match}
        if names:
            paths = [names.get(n + 1, f"{n + 1:06d}.mat") for n in numbers.tolist()]
            return NormalFiles(_complete(Files(place, paths)))
    pickles = [path / ONE_PICKLE for path in (folder, folder / "surfacenormal_metadata")]
    if there := [path for path in pickles if path.is_file()]:
        raise InputError(
            f"{there[0]}: is one pickle of 5 GB, which is not read; give {PICTURES}/, or a file of nx, ny, nz and "
            "depthValid for each frame, or take it away for normals from depth"
        )
    return None


def _masks(folder: Path, numbers: np.ndarray, count: int) -> Files | None:
    """Where normals are known, numbered from 0, or from 1 where there is no 0."""
    for place in (folder / PICTURES / "masks", folder / "masks"):
        if place.is_dir():
            first = 0 if (place / "0000.png").is_file() else 1
            return _complete(Files(place, [f"{n + first:04d}.png" for n in numbers.tolist()]))
    return None


def _complete(files: Files) -> Files:
    for i, path in enumerate(files.paths):
        if not os.path.isfile(files.root / path):
            raise InputError(
                f"{files.name(i)} is missing; {files.root} must have one for each frame"
            )
    return files


def codebook_of(path: Path) -> np.ndarray | None:
    """`(K, 3)` unit normals of a vocabulary; None where there is no such file. Raises `UnreadableError`."""
    if not path.exists():
        return None
    content = read_mat(path, "vocabs")
    try:
        vectors = np.asarray(content[0]["normals"][0], np.float64).reshape(-1, 3)
        with np.errstate(over="ignore"):
            length = np.linalg.norm(vectors, axis=1, keepdims=True)
        fitting = len(vectors) > 1 and bool((np.abs(length - 1) < 0.5).all())
    except (LookupError, TypeError, ValueError):
        fitting = False
    if not fitting:
        raise UnreadableError(f"{path}: its vocabs hold no normals (K, 3); get it again")
    return vectors / length
