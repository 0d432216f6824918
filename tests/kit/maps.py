"""Small data sets with masks."""

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64


def write_pair(folder: Path, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / "images" / f"{name}.png")
    Image.fromarray(mask).save(folder / "masks" / f"{name}.png")


def scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A dark picture with a red square (1) and a green bar (2), and its mask; its first row is void."""
    image = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    size = int(rng.integers(14, 24))
    y = int(rng.integers(0, height - size))
    x = int(rng.integers(0, width - size))
    image[:, x // 2 : x // 2 + 8] = (40, 230, 40)
    mask[:, x // 2 : x // 2 + 8] = 2
    image[y : y + size, x : x + size] = (230, 40, 40)
    mask[y : y + size, x : x + size] = 1
    mask[0] = 255
    return image, mask


def split(folder: Path, images: int, seed: int = 0) -> None:
    """Write images and masks, wide and tall ones in turn."""
    rng = np.random.default_rng(seed)
    for i in range(images):
        height, width = (SIDE, SIDE * 3 // 2) if i % 2 else (SIDE * 3 // 2, SIDE)
        write_pair(folder, str(i), *scene(rng, height, width))


def both(folder: Path, train: int = 8, test: int = 3) -> Path:
    """A data set of training and test images."""
    split(folder / "train", train, 0)
    split(folder / "val", test, 1)
    return folder
