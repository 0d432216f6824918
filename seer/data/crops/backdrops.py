"""Removal of a crop's background, by the mask of its sample (Tomasev et al. 2022, arXiv:2201.05119).

A mask is a member of the sample: a grey picture of the image's size, white where the object is. A
worker cuts it by the box and the flip of the crop, with the same arithmetic; so it never matters
where the image itself is decoded. What stands behind the object is laid there in whole numbers,
which are the same on every device: by the worker (`CropPlan`), or by the device that has cut the
crops (`device.cut`). Looks come afterwards, so that jitter and blur alter object and filling alike.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from seer.data.crops.draws import NO_NOISE, Removals
from seer.data.crops.transfer import send
from seer.data.decoding.decode import DamagedImage, decode
from seer.data.members import Extras
from seer.errors import InputError

MASK = "mask.png"  # the member's suffix
LEAST_SHOWN = (
    0.05  # of a crop that is object; with less it would be empty, and keeps its background
)
REMEDY = "make masks anew: seer shards saliency SHARDS --out NEW, and give data=NEW"
WHITE = 255


class Backdrop(NamedTuple):
    """What stands behind the object of one crop.

    Attributes:
        mask: `(S, S)` uint8, white where the object is.
        colour: `(3,)` uint8. noise: seed of what stands there instead of it, or `NO_NOISE`.
    """

    mask: np.ndarray
    colour: np.ndarray
    noise: int


@dataclass(frozen=True)
class Backdrops:
    """Of a batch of crops, the `(R,)` rows that lose their background, and what stands there then:
    `(R, S, S)` masks, `(R, 3)` colours and `(R,)` seeds of noise, as of a `Backdrop`.
    """

    rows: np.ndarray
    masks: np.ndarray
    colours: np.ndarray
    noise: np.ndarray


def together(rows: Sequence[int], backdrops: Sequence[Backdrop], size: int) -> Backdrops:
    """Those of single crops."""
    masks = np.zeros((len(rows), size, size), np.uint8)
    colours = np.zeros((len(rows), 3), np.uint8)
    for number, backdrop in enumerate(backdrops):
        masks[number] = backdrop.mask
        colours[number] = backdrop.colour
    noise = np.array([backdrop.noise for backdrop in backdrops], np.int64)
    return Backdrops(np.array(rows, np.int64), masks, colours, noise)


def mask_of(extras: Extras, shape: tuple[int, int], sample: int) -> np.ndarray:
    """`(H, W, 3)` uint8, three times the mask of an image of `shape`, upright as the image is.

    Raises:
        InputError: the sample has none, an unreadable one, or one of another size than its image.
    """
    data = extras[0] if extras else None
    if data is None:
        raise InputError(
            f"sample {sample} has no {MASK}, by which views.*.background_removal knows its background; {REMEDY}, "
            "or set background_removal=0"
        )
    try:
        mask = decode(data)
    except DamagedImage as damage:
        raise InputError(f"sample {sample}: its {MASK} is {damage.reason}; {REMEDY}") from None
    if mask.shape[:2] != tuple(shape):
        of_mask, of_image = (f"{width}x{height}" for height, width in (mask.shape[:2], shape))
        raise InputError(
            f"sample {sample}: its {MASK} has {of_mask} pixels and its image {of_image}; {REMEDY}"
        )
    return mask


def backdrop_of(
    mask: np.ndarray, box: Sequence[int], flip: bool, size: int, removals: Removals, row: int
) -> Backdrop | None:
    """Of the crop that is cut by this box and is this row of the removals; None where too little of
    it is object.
    """
    from seer.data.crops.resize import resize  # compiles, or loads what it compiled before

    top, left, height, width = box
    part = mask[top : top + height, left : left + width, 0]
    # Of the part as it lies, not as it is resized: so no rounding decides.
    if part.sum(dtype=np.int64) < LEAST_SHOWN * WHITE * part.size:
        return None
    cut = np.empty((size, size, 3), np.uint8)
    resize(mask, top, left, height, width, flip, cut)
    return Backdrop(cut[..., 0], removals.colour[row], int(removals.noise[row]))


def any_removed(removals: Iterable[Removals | None], image: int, count: int) -> bool:
    """Whether a crop of image number `image` of `count` loses its background."""
    return any(each is not None and each.removed[image::count].any() for each in removals)


def lay_behind(crops: Tensor, backdrops: Backdrops) -> None:
    """Replace what is not object in some rows of `(N, S, S, 3)` uint8 crops, in place."""
    if not len(backdrops.rows):
        return
    rows, masks, filling = (
        send(each, crops.device)
        for each in (backdrops.rows, backdrops.masks, backdrops.colours[:, None, None])
    )
    weights = masks[..., None].to(torch.int32)
    filling = filling.to(torch.int32)
    if (backdrops.noise != NO_NOISE).any():
        seeds = send(backdrops.noise, crops.device)
        is_noise = (seeds != NO_NOISE)[:, None, None, None]
        filling = torch.where(is_noise, static(seeds, crops.shape[1]), filling)
    weighted = weights * crops[rows] + (WHITE - weights) * filling
    rounded = torch.div(weighted + WHITE // 2, WHITE, rounding_mode="floor")
    crops[rows] = rounded.to(torch.uint8)


def static(seeds: Tensor, size: int) -> Tensor:
    """`(R, size, size, 3)` int32 from 0 to 255 by `(R,)` int64 seeds below 2³²: each value a hash of
    its place, so that it is the same on every device.
    """
    places = torch.arange(3 * size * size, device=seeds.device)
    values = (seeds[:, None] + places * 0x9E3779B1) & 0xFFFFFFFF
    for shift, factor in ((16, 0x45D9F3B), (15, 0x2C1B3C6D)):
        values = ((values ^ (values >> shift)) * factor) & 0xFFFFFFFF
    values = (values ^ (values >> 16)) & WHITE
    return values.to(torch.int32).view(-1, size, size, 3)
