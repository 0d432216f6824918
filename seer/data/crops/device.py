"""Decoding on the accelerator: workers send JPEGs as they are, with the boxes drawn; the device
decodes and cuts.

On CUDA devices torchvision decodes with nvJPEG, batch by batch; on a CPU, as in tests, the same
path runs on libjpeg. What the decoder would not show as `decode` does (other formats, CMYK, RGB,
pictures that EXIF turns) a worker decodes and sends as pixels. Crops agree with the workers' own to
two levels of 255 where the decoders agree.

What torchvision's nvJPEG decoder does (`decode_jpegs_cuda.cpp`, 0.21 to 0.29): each picture comes
back in a tensor of its own, not side by side in one; it decodes on a private stream, for which the
current stream is made to wait; and the calling thread waits until all are decoded, so it should not
be the one that launches training steps. The private stream does not wait for the current one,
although the pictures' memory comes from that one's pool, where what has been freed may still be in
use by kernels that have not run yet (pytorch/vision, pull request 9606). So `decoded` first waits
for the current stream, which should have nothing to do but this.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from torch import Tensor

from seer.data.crops.backdrops import (
    Backdrops,
    any_removed,
    backdrop_of,
    lay_behind,
    mask_of,
    together,
)
from seer.data.crops.draws import Boxes
from seer.data.crops.executors import kernels_for
from seer.data.crops.multicrop import CropBatch, MultiCrop
from seer.data.decoding import limits
from seer.data.decoding.decode import JPEG_MAGIC, MAX_PIXELS, DamagedImage, may_be_turned
from seer.data.members import Extras

END_OF_IMAGE = b"\xff\xd9"
PLAIN = ("YCbCr", "Gray")  # colours that need no marker of Adobe's to be understood


@dataclass(frozen=True)
class Encoded:
    """What a worker sends instead of a `CropBatch`; picklable.

    Attributes:
        images: B tensors, uint8: `(bytes,)` of a JPEG, or `(3, H, W)` pixels.
        boxes, looks: per resolution, largest first, what its V·B crops drew; row v·B + b is crop v of image b.
        index: `(B,)` int64 sample ids.
        backdrops: per resolution, what stands behind the objects of crops that lose their background; none where no
            view ever does.
    """

    images: list[Tensor]
    boxes: tuple[Boxes, ...]
    looks: tuple
    index: Tensor
    backdrops: tuple[Backdrops, ...] = ()

    def pin_memory(self, device: str | None = None) -> "Encoded":
        """The same in page-locked memory; torch's DataLoader calls this by name."""
        return replace(
            self,
            images=[image.pin_memory() for image in self.images],
            index=self.index.pin_memory(),
        )


def encode(
    data: Sequence[bytes | np.ndarray],
    crops: MultiCrop,
    epochs: np.ndarray,
    ids: np.ndarray,
    extras: Sequence[Extras] = (),
) -> Encoded:
    """What to send of a batch: bytes that `size_of_plain` knows, and pixels `(H, W, 3)` of
    everything else. `extras` are the samples' members by the suffixes of `crops`.
    """
    sizes = [size_of_plain(item) if isinstance(item, bytes) else item.shape[:2] for item in data]
    assert all(sizes)
    images = [
        torch.frombuffer(bytearray(item), dtype=torch.uint8)
        if isinstance(item, bytes)
        else torch.from_numpy(item).permute(2, 0, 1).contiguous()
        for item in data
    ]
    heights, widths = np.array(sizes).T
    draws = [r.draw(crops.seed, epochs, ids, heights, widths) for r in crops.resolutions]
    boxes = tuple(boxes for boxes, _ in draws)
    return Encoded(
        images,
        boxes,
        tuple(looks for _, looks in draws),
        torch.from_numpy(np.array(ids)),
        backdrops(crops, sizes, boxes, epochs, ids, extras) if crops.suffixes else (),
    )


def backdrops(
    crops: MultiCrop,
    sizes: Sequence,
    boxes: Sequence[Boxes],
    epochs: np.ndarray,
    ids: np.ndarray,
    extras: Sequence[Extras],
) -> tuple[Backdrops, ...]:
    """Per resolution, what stands behind the objects of the crops in these `boxes` of images of these
    heights and widths. Raises `InputError` for a sample without its mask.
    """
    removals = crops.draw_removals(epochs, ids)
    count = len(ids)
    masks = {
        b: mask_of(extras[b] if extras else (), sizes[b], int(ids[b]))
        for b in range(count)
        if any_removed(removals, b, count)
    }
    groups = []
    for resolution, of_size, each in zip(crops.resolutions, removals, boxes, strict=True):
        size = resolution.size
        shown = {}
        if of_size is not None:
            for row in np.flatnonzero(of_size.removed).tolist():
                box = each.box[row].tolist()
                flip = bool(each.flip[row])
                backdrop = backdrop_of(masks[row % count], box, flip, size, of_size, row)
                if backdrop:
                    shown[row] = backdrop
        groups.append(together(list(shown), list(shown.values()), size))
    return tuple(groups)


def size_of_plain(data: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG that every decoder shows alike; None for what a worker should
    decode.

    A file that does not end as a JPEG ends is truncated, most likely; whether it is damaged,
    `decode` shall say.
    """
    if not data.startswith(JPEG_MAGIC) or END_OF_IMAGE not in data[-64:]:
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    header = limits.jpeg_header(data)
    if colorspace not in PLAIN or height * width > MAX_PIXELS or may_be_turned(data, header):
        return None
    try:
        limits.check_jpeg(data, header, height * width)
    except DamagedImage:
        return None
    return int(height), int(width)


def cut(encoded: Encoded, crops: MultiCrop, device: torch.device | str) -> CropBatch:
    """Decode on `device` and cut there. Raises `RuntimeError` where one of the images cannot be
    decoded.
    """
    device = torch.device(device)
    images = pixels(encoded.images, device)
    kernels = kernels_for(device)
    cut_all = kernels.cut if kernels else cut_plain
    groups = cut_all(images, encoded.boxes, [resolution.size for resolution in crops.resolutions])
    for group, each in zip(groups, encoded.backdrops, strict=False):
        lay_behind(group, each)
    by_image = tuple(group.unflatten(0, (-1, len(images))) for group in groups)
    return CropBatch(by_image, encoded.looks, encoded.index)


def pixels(images: list[Tensor], device: torch.device) -> list[Tensor]:
    """`(3, H, W)` uint8 of each image, on `device`; JPEGs in one batch."""
    jpegs = [image for image in images if image.ndim == 1]
    decoded_jpegs = iter(decoded(jpegs, device) if jpegs else [])
    return [
        next(decoded_jpegs) if image.ndim == 1 else image.to(device, non_blocking=True)
        for image in images
    ]


def decoded(jpegs: list[Tensor], device: torch.device) -> list[Tensor]:
    """`(3, H, W)` uint8 of each JPEG; waits for the current stream, and until all are decoded."""
    from torchvision.io import ImageReadMode, decode_jpeg  # a second to import, and seldom needed

    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    return decode_jpeg(jpegs, mode=ImageReadMode.RGB, device=device)


def cut_plain(images: list[Tensor], boxes: Sequence[Boxes], sizes: Sequence[int]) -> list[Tensor]:
    """Cut from B images, `(3, H, W)` uint8 each, the crops of each resolution.

    Returns `(V·B, size, size, 3)` uint8 for each of `sizes`; crop n is of image n modulo B.
    """
    groups = []
    for each, size in zip(boxes, sizes, strict=True):
        rows = zip(each.box.tolist(), each.flip.tolist(), strict=True)
        crops = [
            resized(images[n % len(images)], box, flip, size) for n, (box, flip) in enumerate(rows)
        ]
        groups.append(torch.stack(crops))
    return groups


def resized(image: Tensor, box: Sequence[int], flip: bool, size: int) -> Tensor:
    """A box (top, left, height, width) of `(3, H, W)` as `(size, size, 3)` uint8: antialiased
    bilinear, as Pillow's.
    """
    top, left, height, width = box
    part = image[:, top : top + height, left : left + width].float()[None]
    crop = F.interpolate(part, (size, size), mode="bilinear", antialias=True, align_corners=False)[
        0
    ]
    crop = crop.round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0)
    return crop.flip(1) if flip else crop
