"""A picture of masks: images of a data set beside what their masks leave of them."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from seer import files
from seer.data.decoding.decode import DamagedImage, decode
from seer.data.hashing import mix
from seer.data.storage.index import EXTRAS, Manifest
from seer.errors import InputError
from shards.archives import tars
from shards.report.sampled import rows_at
from shards.saliency.masked import MASK

TILE = 150  # px
COLUMNS = 4  # pairs in a row
GAP = 4
GREY = 128
COUNT = 48
KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def write_sheet(directory: Path, path: Path, count: int = COUNT) -> None:
    """Draw masks of a folder of shards into a picture of whatever kind its name ends in.

    Raises:
        InputError: there are none, or the name ends in no kind of picture.
    """
    kind = kind_of(path)
    page = sheet(Manifest.load(directory), count)
    with files.replacing(path) as beside:
        page.save(beside, kind)


def kind_of(path: Path) -> str:
    """The kind of picture that a name asks for; raises `InputError` where it is none."""
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"--sheet {path}: give a name that ends in {' or '.join(KINDS)}")
    return kind


def sheet(manifest: Manifest, count: int) -> Image.Image:
    """Up to `count` images, always the same ones, each with its object on grey to its right.

    Raises:
        InputError: none of them has a mask.
    """
    drawn = mix(np.arange(2 * count + 16)) % np.uint64(manifest.samples)
    places = list(dict.fromkeys(drawn.tolist()))[:count]
    pairs = []
    for _, tar, row in rows_at(manifest, places, ["offset", "size", EXTRAS]):
        members = {extra["suffix"]: extra for extra in row[EXTRAS] or []}
        if MASK not in members:
            continue
        try:
            image = decode(tars.read_range(tar, row["offset"], row["size"]))
            mask = decode(tars.read_range(tar, members[MASK]["offset"], members[MASK]["size"]))
        except (OSError, DamagedImage):
            continue
        alone = np.where(mask > GREY, image, np.uint8(GREY))
        pairs.append((_tile(image), _tile(alone)))
    if not pairs:
        raise InputError(f"{manifest.directory} has no masks; make them: seer shards saliency")
    return _page(pairs)


def _tile(image: np.ndarray) -> np.ndarray:
    """The image within `TILE` by `TILE`, on white."""
    height, width = image.shape[:2]
    scale = TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    tile = np.full((TILE, TILE, 3), 255, np.uint8)
    tile[: size[1], : size[0]] = small
    return tile


def _page(pairs: list[tuple[np.ndarray, np.ndarray]]) -> Image.Image:
    rows = -(-len(pairs) // COLUMNS)
    wide = 2 * TILE + 3 * GAP
    page = np.full((rows * (TILE + GAP), COLUMNS * wide, 3), 255, np.uint8)
    for number, (image, alone) in enumerate(pairs):
        top = number // COLUMNS * (TILE + GAP)
        left = number % COLUMNS * wide
        page[top : top + TILE, left : left + TILE] = image
        page[top : top + TILE, left + TILE + GAP : left + 2 * TILE + GAP] = alone
    return Image.fromarray(page)
