"""Real photographs that come inside scikit-image and scikit-learn, cut into the quickstart's small
labelled data set.

Fourteen photographs are not a data set: they show that the path works and support no claim about
quality. Left out are drawings and micrographs, and photographs whose licence scikit-image does not
state (`moon`, `motorcycle`).

Sources, as the two packages give them:
    astronaut: NASA Great Images, public domain. brick, gravel: CC0Textures, CC0. grass: DeviantArt (linolafett), CC0.
    camera: Lav Varshney, CC0. chelsea: Stefan van der Walt, CC0. clock: Stefan van der Walt, public domain.
    coffee: Rachel Michetti, courtesy of Pikolo Espresso Bar, CC0. coins: Brooklyn Museum, no known restrictions.
    hubble: NASA, HubbleSite, public domain. retina: Mikael Häggström, Wikimedia, CC0. rocket: SpaceX, public domain.
    china: danielbuechele, Flickr, CC BY 2.0. flower: vultilion, Flickr, CC BY 2.0.
"""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from seer.data.decoding.decode import decode
from seer.data.hashing import mix
from seer.errors import InputError

SKIMAGE = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "chelsea": "chelsea.png",
    "clock": "clock_motion.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "hubble": "hubble_deep_field.jpg",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
}
SKLEARN = {"china": "china.jpg", "flower": "flower.jpg"}

# The columns of each photograph, as shares of its width, that test patches come from.
TEST_STRIP = (0.55, 0.8)
GAP = 8  # pixels between that strip and the training patches on both sides of it


def photographs(max_side: int = 640) -> dict[str, np.ndarray]:
    """The photographs by name, `(H, W, 3)` uint8, reduced to `max_side` pixels. Raises `InputError`
    if one is gone.
    """
    paths = {name: files("skimage") / "data" / file for name, file in SKIMAGE.items()}
    paths |= {
        name: files("sklearn") / "datasets" / "images" / file for name, file in SKLEARN.items()
    }
    missing = [str(path) for path in paths.values() if not path.is_file()]
    if missing:
        raise InputError(
            f"{missing[0]} is missing; pip install 'scikit-image>=0.24' 'scikit-learn>=1.4'"
        )
    return {name: _reduce(decode(path.read_bytes()), max_side) for name, path in paths.items()}


def write_quickstart(
    out: Path, size: int = 64, train: int = 250, test: int = 40, max_side: int = 640, seed: int = 0
) -> dict[str, int]:
    """Write patches as `out/{train,test}/PHOTO/*.jpg`; the photograph is the label.

    Args:
        out: folder to write to; patches already there are written again, with the same bytes.
        size: side of a patch in pixels.
        train, test: patches per photograph, at different places. Training patches overlap one another; no pixel of a
            photograph is in both a training and a test patch.
        max_side: photographs are reduced to this first.

    Returns:
        How many patches each split has.
    """
    wanted = {"train": train, "test": test}
    counts = {"train": 0, "test": 0}
    for number, (name, photo) in enumerate(photographs(max_side).items()):
        for split, most in wanted.items():
            folder = Path(out) / split / name
            folder.mkdir(parents=True, exist_ok=True)
            places = _places(photo, split, size, most, (seed, number))
            for i, (top, left) in enumerate(places):
                patch = photo[top : top + size, left : left + size]
                jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(patch), quality=95)
                path = folder / f"{i:04d}.jpg"
                path.write_bytes(jpeg)
                counts[split] += 1
    return counts


def write_few(images: Path, out: Path, each: int) -> dict[str, int]:
    """Write the first `each` training patches of every photograph, and all test patches, as
    `out/{train,test}/PHOTO/*.jpg`.

    Args:
        images: what `write_quickstart` wrote.

    Returns:
        How many patches each split has.
    """
    counts = {}
    for split, most in (("train", each), ("test", None)):
        photos = [folder for folder in sorted((images / split).iterdir()) if folder.is_dir()]
        patches = [patch for photo in photos for patch in sorted(photo.glob("*.jpg"))[:most]]
        for patch in patches:
            target = out / patch.relative_to(images)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(patch.read_bytes())
        counts[split] = len(patches)
    return counts


def _places(
    photo: np.ndarray, split: str, size: int, most: int, key: tuple[int, ...]
) -> Iterator[tuple[int, int]]:
    """`(top, left)` of up to `most` patches of a split, all different, spread by a hash."""
    height, width = photo.shape[:2]
    start, end = (round(share * width) for share in TEST_STRIP)
    top = np.arange(height - size + 1)
    left = np.arange(width - size + 1)
    right = left + size
    if split == "test":
        left = left[(left >= start) & (right <= end)]
    else:
        left = left[(right <= start - GAP) | (left >= end + GAP)]
    tops, lefts = np.meshgrid(top, left, indexing="ij")
    tops = tops.ravel()
    lefts = lefts.ravel()
    spread = np.argsort(mix(*key, tops, lefts), kind="stable")
    chosen = spread[:most]
    yield from zip(tops[chosen].tolist(), lefts[chosen].tolist(), strict=True)


def _reduce(photo: np.ndarray, max_side: int) -> np.ndarray:
    scale = max_side / max(photo.shape[:2])
    return (
        photo
        if scale >= 1
        else cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    )
