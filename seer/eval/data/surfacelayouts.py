"""How images with normals or depth are laid out, and how the training and test images of each are read.

DATA/images/a.jpg, DATA/normals/a.png and / or DATA/depth/a.png
DATA/a.color.jpg with DATA/a.normals.png and / or DATA/a.depth.png
either of them in train/ and test/ or val/
NYU Depth V2 (`seer.eval.data.nyu`)
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seer.data.decoding.decode import DamagedImage
from seer.data.folders import Files, images_under, is_image, readable
from seer.data.labelled import HELD_OUT, SPLITS
from seer.errors import InputError
from seer.eval.data import nyu
from seer.eval.data.collector import DAMAGED
from seer.eval.data.imagepairs import ABSENT_MAP, DAMAGED_MAP, OTHER_SIZE
from seer.eval.data.mapfiles import (
    DEPTH_ENDINGS,
    NORMAL_ENDINGS,
    DepthFiles,
    NormalFiles,
    map_beside,
    size_of,
)
from seer.eval.data.objects import counted
from seer.eval.data.surfacemaps import SurfaceImages, camera_of
from seer.eval.data.upright import Shape, shape_of

IMAGES = "images"
NORMALS = "normals"
DEPTHS = ("depth", "depths")
TURNED = "images turned by EXIF, whose normals cannot be told to be"
COLOUR = ".color"  # at the end of a frame's stem
LAYOUTS = (
    "images/ with normals/ or depth/, frames NAME.color.jpg with NAME.depth.png, either of them in train/ and test/, "
    f"or {nyu.FRAMES} with {nyu.SPLIT_FILE}"
)
RULE = f"the last 1 in {HELD_OUT} of the images held out, in the order of their names"


class Item(NamedTuple):
    """An image with its maps, relative to a folder."""

    image: str
    normals: str | None
    depth: str | None


def is_nyu(folder: Path) -> bool:
    return os.path.isfile(folder / nyu.FRAMES)


def halves_of(folder: Path) -> tuple[Path, Path]:
    """Where training and test images lie; one folder twice where there is no split. Raises `InputError`."""
    if not os.path.isdir(folder):
        raise InputError(
            f"{readable(str(folder))} does not exist; give a folder that holds {LAYOUTS}"
        )
    if is_nyu(folder) or _has_any(folder):
        return folder, folder
    places = []
    for names in SPLITS.values():
        there = [folder / name for name in names if _has_any(folder / name)]
        places += there[:1]
    if len(places) == len(SPLITS):
        return places[0], places[1]
    raise InputError(
        f"{readable(str(folder))}: has no images with normals or depth; give {LAYOUTS}"
    )


def _has_any(folder: Path) -> bool:
    if not os.path.isdir(folder):
        return False
    if (folder / IMAGES).is_dir():
        return any((folder / name).is_dir() for name in (NORMALS, *DEPTHS))
    return any(True for _ in _frames(folder))


def both(folder: Path) -> tuple[SurfaceImages, SurfaceImages]:
    """Training and test images. Raises `InputError` where there are none of either."""
    if is_nyu(folder):
        halves = nyu.both(folder)
        return halves["train"], halves["test"]
    train, test = halves_of(folder)
    if train != test:
        return _read(train, _items(train), folder), _read(test, _items(test), folder)
    items = _items(train)
    if len(items) < 2:
        raise InputError(f"{readable(str(folder))}: has one image; a score needs another")
    # As one piece: frames beside each other show the same.
    held = max(1, len(items) // HELD_OUT)
    return _read(train, items[:-held], folder), _read(test, items[-held:], folder)


def _items(folder: Path) -> list[Item]:
    """The images of a folder, with or without maps."""
    if not (folder / IMAGES).is_dir():
        return list(_frames(folder))
    depths = next((name for name in DEPTHS if (folder / name).is_dir()), DEPTHS[0])
    items = []
    for name in images_under(folder / IMAGES):
        stem = os.path.splitext(name)[0]
        normals = map_beside(folder / NORMALS, stem, NORMAL_ENDINGS)
        depth = map_beside(folder / depths, stem, DEPTH_ENDINGS)
        items.append(
            Item(
                f"{IMAGES}/{name}",
                f"{NORMALS}/{normals}" if normals else None,
                f"{depths}/{depth}" if depth else None,
            )
        )
    return items


def _frames(folder: Path) -> Iterator[Item]:
    for name in sorted(os.listdir(folder)):
        stem = os.path.splitext(name)[0]
        if is_image(name) and stem.endswith(COLOUR):
            base = stem.removesuffix(COLOUR)
            normals = map_beside(folder, f"{base}.normals", NORMAL_ENDINGS)
            depth = map_beside(folder, f"{base}.depth", DEPTH_ENDINGS)
            yield Item(name, normals, depth)


def _read(folder: Path, items: list[Item], data: Path) -> SurfaceImages:
    """The images that have the maps which most have: normals where any has them, else depth; depth beside
    normals where all have both.
    """
    counts: Counter[str] = Counter()
    of_normals = any(item.normals for item in items)
    kept: list[Item] = []
    sizes: list[tuple[int, int]] = []
    for item in items:
        if (item.normals if of_normals else item.depth) is None:
            counts[ABSENT_MAP] += 1
        elif shape := _shape(folder, item, counts):
            kept.append(item)
            sizes.append((shape.height, shape.width))
    if not kept:
        left = ", ".join(f"{count:,} {what}" for what, count in counts.items())
        raise InputError(
            f"{readable(str(folder))}: has no image with its map ({left or 'none at all'})"
        )
    normals = [item.normals for item in kept if item.normals]
    depths = [item.depth for item in kept if item.depth]
    every = len(depths) == len(kept)
    return SurfaceImages(
        Files(folder, [item.image for item in kept]),
        NormalFiles(Files(folder, normals)) if of_normals else None,
        DepthFiles(Files(folder, depths)) if every else None,
        camera_of(folder) or camera_of(data),
        np.array(sizes, np.int32),
        counted(counts),
        readable(str(data)),
    )


def _shape(folder: Path, item: Item, counts: Counter[str]) -> Shape | None:
    """What an image is; None where it cannot be used with its maps, which is counted."""
    try:
        shape = shape_of(folder / item.image)
    except DamagedImage:
        counts[DAMAGED] += 1
        return None
    if shape.orientation != 1:
        counts[TURNED] += 1
        return None
    for name in (item.normals, item.depth):
        try:
            size = size_of(Files(folder, [name]), 0) if name else None
        except InputError:
            counts[DAMAGED_MAP] += 1
            return None
        if size is not None and size != (shape.height, shape.width):
            counts[OTHER_SIZE] += 1
            return None
    return shape
