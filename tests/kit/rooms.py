"""Small rooms of two walls, whose depth and normals are known, and their colours those of the normals."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import scipy.io

from seer.eval.dense.depth_normals import Intrinsics

HEIGHT, WIDTH = 48, 64
CAMERA = Intrinsics(60.0, 58.0, 31.5, 23.5)
KINDS = ("normals", "depth")


class Room(NamedTuple):
    """`(H, W, 3)` uint8, metres `(H, W)`, unit normals `(H, W, 3)`."""

    image: np.ndarray
    depth: np.ndarray
    normals: np.ndarray


def room(rng: np.random.Generator, camera: Intrinsics = CAMERA) -> Room:
    """Two walls that meet before the camera at a drawn column."""
    rows, columns = np.indices((HEIGHT, WIDTH))
    x = (columns - camera.cx) / camera.fx
    y = (rows - camera.cy) / camera.fy
    ray = np.stack([x, y, np.ones_like(x)], -1)
    edge = x[0, rng.integers(WIDTH // 4, 3 * WIDTH // 4)]
    corner = 3.0 * np.array([edge, 0.0, 1.0])
    tilt = rng.uniform(-0.2, 0.2)
    left = np.array([0.6, tilt, -0.8])
    right = np.array([-0.6, tilt, -0.8])
    sides = np.where((x < edge)[..., None], left, right)
    normals = sides / np.linalg.norm(sides, axis=-1, keepdims=True)
    depth = (normals @ corner) / (ray * normals).sum(-1)
    noise = rng.integers(-20, 20, normals.shape)
    image = np.clip(128 + 100 * normals + noise, 0, 255).astype(np.uint8)
    return Room(image, depth, normals.astype(np.float32))


def picture(path: Path, pixels: np.ndarray) -> None:
    """Write RGB, or one channel, as PNG or JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)


def colours(normals: np.ndarray, levels: int = 255) -> np.ndarray:
    """Normals as a picture; black where there is none."""
    known = np.isfinite(normals).all(-1, keepdims=True)
    painted = np.round((np.nan_to_num(normals) + 1) * levels / 2)
    return np.where(known, painted, 0).astype(np.uint8 if levels == 255 else np.uint16)


def millimetres(depth: np.ndarray) -> np.ndarray:
    return np.round(1000 * depth).astype(np.uint16)


def camera_file(folder: Path, camera: Intrinsics = CAMERA) -> None:
    lines = f"{camera.fx} 0 {camera.cx}\n0 {camera.fy} {camera.cy}\n0 0 1\n"
    (folder / "camera-intrinsics.txt").write_text(lines)


def frames(folder: Path, count: int, seed: int = 0) -> list[Room]:
    """A film of a depth camera: `frame-000000.color.png`, `frame-000000.depth.png`, and the camera."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rooms = [room(rng) for _ in range(count)]
    for number, each in enumerate(rooms):
        picture(folder / f"frame-{number:06d}.color.png", each.image)
        depth = millimetres(each.depth)
        depth[:3, :5] = 0
        picture(folder / f"frame-{number:06d}.depth.png", depth)
    camera_file(folder)
    return rooms


def pairs(folder: Path, count: int, seed: int = 0, levels: int = 255) -> list[Room]:
    """`images/0.png` and `normals/0.png`."""
    rng = np.random.default_rng(seed)
    rooms = [room(rng) for _ in range(count)]
    for number, each in enumerate(rooms):
        picture(folder / f"images/{number}.png", each.image)
        picture(folder / f"normals/{number}.png", colours(each.normals, levels))
    return rooms


def split(folder: Path, train: int = 6, test: int = 3) -> Path:
    """Pairs in `train` and `test`."""
    pairs(folder / "train", train, 0)
    pairs(folder / "test", test, 1)
    return folder


TRAIN = (3, 4, 6)  # frames of NYUv2's miniature, from 1
TEST = (1, 2, 5)


def nyu(folder: Path, normals: str = "", seed: int = 0) -> list[Room]:
    """NYUv2 as it is published, of six frames.

    Args:
        normals: `png` with masks, `mat`, or none.
    """
    import h5py

    from seer.eval.data.nyu import CAMERA as KINECT

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    camera = Intrinsics(*(number / 10 for number in KINECT))
    rooms = [room(rng, camera) for _ in range(6)]
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as file:
        images = np.stack([each.image for each in rooms])
        file["images"] = images.transpose(0, 3, 2, 1)
        depths = np.stack([each.depth for each in rooms]).astype(np.float32)
        file["depths"] = depths.transpose(0, 2, 1)
        depths = depths.copy()
        depths[:, :4] = 0
        file["rawDepths"] = depths.transpose(0, 2, 1)
    numbers = {"trainNdxs": np.array([TRAIN]).T, "testNdxs": np.array([TEST]).T}
    scipy.io.savemat(folder / "splits.mat", {k: v.astype(np.uint16) for k, v in numbers.items()})
    for number, each in enumerate(rooms, 1):
        known = np.ones((HEIGHT, WIDTH), np.uint8)
        known[:, -6:] = 0
        if normals == "png":
            name = "train" if number in TRAIN else "test"
            picture(folder / f"nyu_normals_gt/{name}/{number:05d}.png", colours(each.normals))
            picture(folder / f"nyu_normals_gt/masks/{number - 1:04d}.png", 255 * known)
        if normals == "mat":
            vectors = dict(zip(("nx", "ny", "nz"), each.normals.transpose(2, 0, 1), strict=True))
            (folder / "normals").mkdir(exist_ok=True)
            path = folder / f"normals/{number:06d}.mat"
            scipy.io.savemat(path, {**vectors, "depthValid": known.astype(np.float64)})
    return rooms


def vocabulary(folder: Path, centres: np.ndarray) -> None:
    """`vocab40.mat`: a cell of a structure, whose first field is the centres."""
    cell = np.empty((1, 1), object)
    cell[0, 0] = {"normals": centres}
    scipy.io.savemat(folder / "vocab40.mat", {"vocabs": cell})
