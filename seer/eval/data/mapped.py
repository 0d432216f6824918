"""Images with a map of classes each, as the files have them.

A mask is a picture of one channel, or with a palette, whose numbers are the classes; or, with a table of
colours, of colours. It must be lossless.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from seer.data.decoding.decode import DamagedImage
from seer.data.folders import Files, read_image
from seer.errors import InputError
from seer.eval.data.colours import Colours
from seer.eval.data.imagepairs import DenseImages, map_picture, paired, upright
from seer.eval.data.maplayouts import VOID, Layout, Pair, layout_of
from seer.eval.data.rows import MOST_CLASSES

LARGEST_NUMBER = 2**16 - 1
MODES = ("P", "L", "1", "I", "I;16", "I;16B")  # of pictures whose pixels are single numbers


class MappedImages(DenseImages):
    """Images, each with its map of classes.

    Attributes:
        masks: their files, in the images' order.
        numbers: the class of each number in a mask; None: they are the classes.
    """

    def __init__(self, folder: Path, pairs: Sequence[Pair], layout: Layout):
        chosen = paired(folder, pairs)
        masks = Files(folder, chosen.maps)
        digests = [hashlib.sha256(_content(masks, i)).digest() for i in range(len(masks))]
        known = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1)
        super().__init__(
            Files(folder, chosen.images), known, layout.classes, chosen.sizes, chosen.counts
        )
        self.masks = masks
        self.numbers = layout.numbers
        self._turns = chosen.turns

    def mask(self, i: int, colours: Colours | None = None) -> np.ndarray:
        """`(H, W)` int32: the class of each pixel, `VOID` where the data set's owner has none.

        Raises:
            InputError: it is damaged, has a number or colour that the data set has not, or has colours and
                there is no table of them.
        """
        name = self.masks.name(i)
        try:
            with map_picture(_content(self.masks, i)) as picture:
                ids = _ids(picture, None if self.numbers is not None else colours, name)
        except DamagedImage as error:
            raise InputError(f"{name} cannot be read ({error}); repair or remove it") from None
        if self.numbers is not None:
            ids = self._renumbered(ids, name)
        return upright(ids, int(self._turns[i]))

    def _renumbered(self, ids: np.ndarray, name: str) -> np.ndarray:
        assert self.numbers is not None
        highest = int(ids.max())
        classes = self.numbers[np.minimum(ids, len(self.numbers) - 1)]
        if highest >= len(self.numbers) or (classes < VOID).any():
            unknown = ids[(ids >= len(self.numbers)) | (classes < VOID)]
            raise InputError(
                f"{name}: has the number {unknown.min()}, which is no class; repair it"
            )
        return classes

    def pair(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """`(H, W, 3)` uint8 and `(H, W)` int32. Raises `InputError`: either is damaged."""
        image = self.image(i)
        mask = self.mask(i)
        if image.shape[:2] != mask.shape:
            raise InputError(f"{self.masks.name(i)}: is of another size than its image; repair it")
        return image, mask


def _ids(picture: Image.Image, colours: Colours | None, name: str) -> np.ndarray:
    if colours is not None:
        return colours.numbers(np.asarray(picture.convert("RGB")), name)
    if picture.mode not in MODES:
        raise InputError(
            f"{name}: a mask of mode {picture.mode}; its pixels must be numbers of classes, one channel or a "
            "palette, or be told by colours=, a table of them"
        )
    ids = np.asarray(picture).astype(np.int32)
    if ids.min() < 0 or ids.max() > LARGEST_NUMBER:
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise InputError(f"{name}: has the number {wrong}, which no class has; repair it")
    return ids


def numbered(mask: np.ndarray, classes: int, void: Sequence[int], name: str) -> np.ndarray:
    """The mask with `VOID` where it is none. Raises `InputError` for a number beyond the classes."""
    ids = np.where(np.isin(mask, void), VOID, mask)
    highest = int(ids.max())
    if highest >= classes:
        raise InputError(
            f"{name}: has the number {highest}, and there are {classes} classes, from 0 on; say "
            f"void=[{highest}] if it is none, or classes="
        )
    return ids


def highest(images: MappedImages, void: Sequence[int], colours: Colours | None = None) -> int:
    """The highest class in the masks. Raises `InputError` where there is none."""
    number = -1
    for i in range(len(images)):
        mask = images.mask(i, colours)
        number = max(number, int(np.where(np.isin(mask, void), VOID, mask).max()))
    if number < 0:
        raise InputError(f"{images.masks.name(0)}: neither it nor another mask has a class")
    if number >= MOST_CLASSES:
        raise InputError(
            f"{images.masks.root}: its masks have the number {number:,}, and at most {MOST_CLASSES:,} classes are "
            f"learned; say void=[{number}] if it is none"
        )
    return number


def _content(files: Files, i: int) -> bytes:
    try:
        return read_image(files.root / files.paths[i])
    except DamagedImage as error:
        raise InputError(f"{files.name(i)} cannot be read ({error}); repair or remove it") from None


def both(folder: Path) -> dict[str, MappedImages]:
    """The training and the test images of a data set whose owners give both."""
    layout = layout_of(folder)
    assert layout.test
    halves = {"train": layout.train, "test": layout.test}
    return {split: MappedImages(layout.folder, pairs, layout) for split, pairs in halves.items()}
