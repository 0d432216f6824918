# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""Cutting crops on a GPU: a Triton kernel, and what it needs to know of each crop.

A pixel of 2×224 + 4×96 of photographs of 500 pixels is cut from 9 or 16 pixels of its picture: for
256 of them arithmetic for a millisecond, half of it conversions. Two passes, one for each axis,
would save a third of that and move twice the bytes; they would pay for pictures many times as
large as their crops.
"""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from seer.data.crops.draws import Boxes
from seer.data.crops.transfer import send

BLOCK = 512  # pixels of a program: sums take registers, and more would leave few programs to a core
WARPS = 4

# A crop's row in the table, int64.
CORNER, PITCH, PLANE, HEIGHT, WIDTH, FLIP = (tl.constexpr(column) for column in range(6))
COLUMNS = tl.constexpr(6)

ROUNDING = tl.constexpr(2.0**23)  # floats from here on have no fraction: adding it rounds to even


def cut(images: list[Tensor], boxes: tuple[Boxes, ...], sizes: list[int]) -> list[Tensor]:
    """As `device.cut_plain`, for images on one device.

    The images may be freed when this returns: what takes their memory next on this stream runs
    after the kernels. Only work on other streams has to wait for this one (see `device.decoded`).

    Raises `RuntimeError` for a box that leaves its image, which would read foreign memory.
    """
    device = images[0].device
    images = [image.contiguous() for image in images]  # libjpeg's are not, nvJPEG's are
    tables = [box_table(images, each) for each in boxes]
    sent = send(np.concatenate(tables), device).split([len(table) for table in tables])
    groups = []
    with torch.cuda.device_of(images[0]):
        for table, size in zip(sent, sizes, strict=True):
            out = torch.empty((len(table), size, size, 3), dtype=torch.uint8, device=device)
            grid = (len(table) * triton.cdiv(size * size, BLOCK),)
            _cut[grid](table, out, size, BLOCK, num_warps=WARPS)
            groups.append(out)
    return groups


def box_table(images: list[Tensor], boxes: Boxes) -> np.ndarray:
    """`(N, 6)` int64: where each crop's box begins in memory, how far it is from row to row and
    from plane to plane, the box's height and width, and whether the crop is mirrored.
    """
    shapes = np.array([image.shape[1:] for image in images], np.int64)
    addresses = np.array([image.data_ptr() for image in images], np.int64)
    image = np.arange(len(boxes.flip)) % len(images)
    heights, widths = shapes[image].T
    top, left, height, width = boxes.box.T
    fits = (top >= 0) & (left >= 0) & (height > 0) & (width > 0)
    fits &= (top + height <= heights) & (left + width <= widths)
    if not fits.all():
        row = int(np.argmin(fits))
        raise RuntimeError(
            f"box {boxes.box[row].tolist()} leaves its image of {heights[row]}x{widths[row]} pixels"
        )
    corner = addresses[image] + top * widths + left
    return np.stack([corner, widths, heights * widths, height, width, boxes.flip], 1)


@triton.jit
def _cut(table, out, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Each program makes `BLOCK` pixels of one crop, as weighted sums of weighted sums of a row.

    A pixel's weight is the height of a triangle there, and nothing beyond the end of the box.
    """
    blocks: tl.constexpr = (SIZE * SIZE + BLOCK - 1) // BLOCK
    crop = tl.program_id(0) // blocks
    row = table + crop * COLUMNS
    corner = tl.load(row + CORNER).to(tl.pointer_type(tl.uint8))
    pitch = tl.load(row + PITCH).to(tl.int32)
    plane = tl.load(row + PLANE).to(tl.int32)
    height = tl.load(row + HEIGHT).to(tl.int32)
    width = tl.load(row + WIDTH).to(tl.int32)
    flip = tl.load(row + FLIP)

    pixel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < SIZE * SIZE
    place = tl.minimum(pixel, SIZE * SIZE - 1)
    y = place // SIZE
    x = place % SIZE
    x = tl.where(flip != 0, SIZE - 1 - x, x)
    centre_y, start_y, taps_y, sharpness_y = _axis(y, height, SIZE)
    centre_x, start_x, taps_x, sharpness_x = _axis(x, width, SIZE)

    nothing = tl.zeros([BLOCK], tl.float32)
    red = nothing
    green = nothing
    blue = nothing
    total = nothing
    for j in range(taps_y):
        at_y = start_y + j
        weight_y = 1.0 - tl.abs(at_y.to(tl.float32) + 0.5 - centre_y) * sharpness_y
        weight_y = tl.where(at_y < height, tl.maximum(weight_y, 0.0), 0.0)
        line = tl.minimum(at_y, height - 1) * pitch
        row_red = nothing
        row_green = nothing
        row_blue = nothing
        row_total = nothing
        for i in range(taps_x):
            at_x = start_x + i
            weight_x = 1.0 - tl.abs(at_x.to(tl.float32) + 0.5 - centre_x) * sharpness_x
            weight_x = tl.where(at_x < width, tl.maximum(weight_x, 0.0), 0.0)
            source = corner + (line + tl.minimum(at_x, width - 1))
            row_red += weight_x * tl.load(source).to(tl.float32)
            row_green += weight_x * tl.load(source + plane).to(tl.float32)
            row_blue += weight_x * tl.load(source + plane + plane).to(tl.float32)
            row_total += weight_x
        red += weight_y * row_red
        green += weight_y * row_green
        blue += weight_y * row_blue
        total += weight_y * row_total

    target = out + crop.to(tl.int64) * (3 * SIZE * SIZE) + pixel * 3
    tl.store(target, _level(red, total), mask=inside)
    tl.store(target + 1, _level(green, total), mask=inside)
    tl.store(target + 2, _level(blue, total), mask=inside)


@triton.jit
def _axis(place, length, SIZE: tl.constexpr):
    """Of results at `place` among SIZE: their centre on an axis of `length` pixels, the first pixel
    that counts, how many may, and what a distance of one pixel takes off a weight.
    """
    scale = tl.div_rn(length.to(tl.float32), tl.full((), SIZE, tl.float32))
    reach = tl.maximum(scale, 1.0)
    centre = (place.to(tl.float32) + 0.5) * scale
    start = tl.maximum((centre - reach + 0.5).to(tl.int32), 0)
    taps = tl.ceil(reach * 2).to(tl.int32)
    sharpness = tl.div_rn(tl.full((), 1.0, tl.float32), reach)
    return centre, start, taps, sharpness


@triton.jit
def _level(value, total):
    rounded = (value / total + ROUNDING) - ROUNDING
    return rounded.to(tl.int32).to(tl.uint8)
