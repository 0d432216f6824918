"""Images with a map of classes each: folders `images` and `masks`, whose files go by one name.

    DATA/train/images/a.jpg   DATA/train/masks/a.png   (and `val` or `test` beside `train`)
    DATA/images/a.jpg         DATA/masks/a.png         (one image in five is held out)

A mask is a PNG of one channel, or with a palette: its numbers are the classes.
"""

import hashlib
import io
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from seer.data.decoding.decode import EXIF_ORIENTATION, DamagedImage
from seer.data.folders import Files, images_under, read_image, readable
from seer.data.labelled import HELD_OUT, SPLITS, ImageSet
from seer.data.storage.store import Url, place
from seer.errors import InputError

IMAGES = "images"
MASKS = "masks"
RULE = f"one image in {HELD_OUT} held out, in the order of their names"
MODES = ("P", "L", "1", "I", "I;16", "I;16B")  # of pictures whose pixels are single numbers


class MappedImages(ImageSet):
    """Images, each with its map of classes.

    Attributes:
        masks: their files, in the images' order.
    """

    def __init__(self, images: Files, masks: Files):
        digests = [hashlib.sha256(_content(masks, i)).digest() for i in range(len(masks))]
        known = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1)
        super().__init__(images, known, ())
        self.masks = masks

    def mask(self, i: int) -> np.ndarray:
        """`(H, W)` int32: the class of each pixel.

        Raises:
            InputError: it is damaged or has several channels.
        """
        name = self.masks.name(i)
        try:
            with Image.open(io.BytesIO(_content(self.masks, i))) as picture:
                if picture.mode not in MODES:
                    raise InputError(
                        f"{name}: a mask of mode {picture.mode}; its pixels must be numbers of "
                        "classes, one channel or a palette"
                    )
                return np.asarray(picture).astype(np.int32)
        except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
            raise InputError(f"{name} cannot be read ({error}); repair or remove it") from None

    def pair(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """`(H, W, 3)` uint8 and `(H, W)` int32.

        Raises:
            InputError: either is damaged, they have not one size, or the image is marked as turned, so
                that nobody knows whether its mask is.
        """
        image = self.image(i)
        mask = self.mask(i)
        if self._is_turned(i):
            raise InputError(
                f"{self.source.name(i)}: is marked as turned (EXIF), and its mask cannot be; save it "
                "upright"
            )
        if image.shape[:2] != mask.shape:
            raise InputError(
                f"{self.masks.name(i)}: is {mask.shape[1]} × {mask.shape[0]} px, and its image "
                f"{image.shape[1]} × {image.shape[0]}; make them one size"
            )
        return image, mask

    def _is_turned(self, i: int) -> bool:
        with Image.open(io.BytesIO(self.bytes(i))) as picture:
            return picture.getexif().get(EXIF_ORIENTATION, 1) != 1


def _content(files: Files, i: int) -> bytes:
    try:
        return read_image(files.root / files.paths[i])
    except DamagedImage as error:
        raise InputError(f"{files.name(i)} cannot be read ({error}); repair or remove it") from None


def check_layout(data: Path | str, several: bool = False) -> None:
    """Refuse data without the folders. Raises `InputError`."""
    _folders(data)


def rule_of(data: Path | str) -> str:
    """How the images are split where it is not their owner's way."""
    train, test = _folders(data)
    return RULE if train == test else ""


def train_and_test(data: Path | str, several: bool = False) -> tuple[MappedImages, MappedImages]:
    """Training and test images.

    Raises:
        InputError: a folder is missing or empty, or an image has no mask.
    """
    return _read(str(Path(data).absolute()))


@lru_cache(2)
def _read(data: str) -> tuple[MappedImages, MappedImages]:
    train, test = _folders(data)
    if train != test:
        return _paired(train), _paired(test)
    names = _names(train)
    if len(names) < 2:
        raise InputError(f"{readable(data)}: has one image; a score needs another")
    held = names[HELD_OUT - 1 :: HELD_OUT] or names[-1:]
    kept = [name for name in names if name not in set(held)]
    return _paired(train, kept), _paired(train, held)


def _folders(data: Path | str) -> tuple[Path, Path]:
    """Where training and test images lie; one folder where there is no split."""
    if isinstance(place(data), Url):
        raise InputError(f"{data}: images with masks are read from a folder; copy them to one")
    root = Path(data)
    if _has_both(root):
        return root, root
    folders = []
    for split, names in SPLITS.items():
        of_split = [root / name for name in names if _has_both(root / name)]
        if not of_split:
            raise InputError(
                f"{readable(str(data))}: has no {split}/{IMAGES} with {split}/{MASKS}, nor "
                f"{IMAGES} with {MASKS}"
            )
        folders.append(of_split[0])
    return folders[0], folders[1]


def _has_both(folder: Path) -> bool:
    return (folder / IMAGES).is_dir() and (folder / MASKS).is_dir()


def _names(folder: Path) -> list[str]:
    names = images_under(folder / IMAGES)
    if not names:
        raise InputError(f"{readable(str(folder / IMAGES))}: has no images")
    return names


def _paired(folder: Path, names: list[str] | None = None) -> MappedImages:
    names = _names(folder) if names is None else names
    masks = [os.path.splitext(name)[0] + ".png" for name in names]
    for name, mask in zip(names, masks, strict=True):
        if not (folder / MASKS / mask).is_file():
            raise InputError(
                f"{readable(str(folder / IMAGES / name))}: has no mask {MASKS}/{readable(mask)}"
            )
    return MappedImages(Files(folder / IMAGES, names), Files(folder / MASKS, masks))
