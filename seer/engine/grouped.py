# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""Grouped 3x3 convolutions of channels-last images on a GPU: Triton kernels.

cuDNN has none for this layout: it turns the images into planes and back. Here a convolution is a
matrix product of each group, of pixels by channels, summed over nine shifts of the picture; the
gradient of the input is the same product over the shifts backwards, that of the weights one over
pixels. Products are of half precision and sums in fp32, in one order whatever else runs.

Groups have `D` channels, of the input as of the output; images are `(N, C, H, W)`, channels last.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

TAPS = tl.constexpr(9)
PROGRAMS = 2048  # for the gradient of the weights: a few for each of a large card's processors


@dataclass(frozen=True)
class Tiles:
    """What a program takes: `pixels` by `out` channels of the result, `into` channels at a time of
    what is summed.
    """

    pixels: int
    out: int
    into: int
    warps: int = 4
    stages: int = 3
    taps: int = 1  # of the gradient of the weights: one, or a row of three


def attempt(device: torch.device) -> None:
    """Run every kernel once on next to nothing. Raises what a machine that cannot raises."""
    x = torch.zeros((1, 16, 2, 2), dtype=torch.bfloat16, device=device)
    x = x.to(memory_format=torch.channels_last)
    weight = torch.zeros((16, 8, 3, 3), device=device)
    convolve(x, weight, 1)
    input_gradient(x, weight, (2, 2), 1)
    weight_gradient(x, x, 1, 8)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fitting(tiles: Tiles, device: torch.device) -> Tiles:
    """With as many stages as this card's processors have memory for."""
    if device.type != "cuda":
        return tiles
    of_a_stage = 2 * max(
        tiles.into * (tiles.pixels + tiles.out),  # results, and gradients of images
        tiles.pixels * (tiles.into + tiles.out),
    )
    return replace(tiles, stages=max(1, min(tiles.stages, _shared_memory(device) // of_a_stage)))


@cache
def _shared_memory(device: torch.device) -> int:
    """Bytes that a program may have, as Triton counts them."""
    utils = triton.runtime.driver.active.utils
    return utils.get_device_properties(device.index or 0)["max_shared_mem"]


def tiles_of(width: int) -> Tiles:
    """For groups of `width` channels: the fastest of those tried on an H200."""
    if width <= 32:
        return Tiles(128, 32, 32, warps=8)
    if width <= 64:
        return Tiles(128, 64, 64)
    if width <= 128:
        return Tiles(128, 128, 64, warps=8)
    return Tiles(128, 256, 64, warps=8)


def weight_tiles_of(width: int) -> Tiles:
    """The same for the gradient of the weights."""
    if width <= 32:
        return Tiles(64, 32, 32, warps=2, stages=4, taps=3)
    if width <= 64:
        return Tiles(128, 64, 64)
    if width <= 128:
        return Tiles(64, 128, 128, warps=8)
    return Tiles(64, 256, 128, warps=8)


def convolve(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """`F.conv2d(x, weight, stride=stride, padding=1, groups=C // D)`.

    Args:
        weight: `(C, D, 3, 3)`, of any type: it is used in that of `x`.
    """
    height, width = x.shape[2:]
    size = ((height - 1) // stride + 1, (width - 1) // stride + 1)
    return _convolve(x, _packed(weight, x.dtype, "in out"), size, stride, False)


def input_gradient(dy: Tensor, weight: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """`(N, C, *size)`, of a convolution that gave `dy`'s shape."""
    return _convolve(dy, _packed(weight, dy.dtype, "out in"), size, stride, True)


def weight_gradient(x: Tensor, dy: Tensor, stride: int, width: int) -> Tensor:
    """`(C, D, 3, 3)` fp32, D being `width`."""
    tiles = fitting(weight_tiles_of(width), x.device)
    n, channels, height, width_in = x.shape
    pixels = n * dy.shape[2] * dy.shape[3]
    groups = channels // width
    blocks = triton.cdiv(width, tiles.into) * triton.cdiv(width, tiles.out)
    programs = TAPS.value // tiles.taps * groups * blocks
    parts = max(1, min(triton.cdiv(PROGRAMS, programs), triton.cdiv(pixels, 8 * tiles.pixels)))
    # Of whole blocks, as even as that goes.
    each = triton.cdiv(triton.cdiv(pixels, parts), tiles.pixels) * tiles.pixels
    parts = triton.cdiv(pixels, each)
    shape = (parts, groups, TAPS.value, width, width)
    sums = torch.empty(shape, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _weight_gradient[(programs * parts,)](
            x, dy, sums, pixels, each, height, width_in, *dy.shape[2:], groups,
            channels, width, stride, tiles.taps, tiles.pixels, tiles.into, tiles.out,
            _dot(x.dtype), num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip
    # From (group, tap, in, out).
    whole = sums.sum(0) if parts > 1 else sums[0]
    return whole.permute(0, 3, 2, 1).reshape(channels, width, 3, 3)


def _convolve(
    x: Tensor,
    packed: Tensor,
    size: tuple[int, int],
    stride: int,
    backwards: bool,
) -> Tensor:
    n, channels, height, width = x.shape
    groups, _, _, depth = packed.shape
    tiles = fitting(tiles_of(depth), x.device)
    y = torch.empty(
        (n, channels, *size), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    pixels = n * size[0] * size[1]
    blocks = triton.cdiv(depth, tiles.out)
    grid = (triton.cdiv(pixels, tiles.pixels) * blocks * groups,)
    with torch.cuda.device_of(x):
        _grouped[grid](
            x, packed, y, pixels, height, width, *size, groups,
            channels, depth, stride, backwards, tiles.pixels, tiles.out, tiles.into,
            _dot(x.dtype), num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip
    return y


def _packed(weight: Tensor, dtype: torch.dtype, order: str) -> Tensor:
    """`(groups, 9, D, D)`: what is summed over, then what results."""
    channels, depth = weight.shape[:2]
    by_group = weight.detach().view(channels // depth, depth, depth, TAPS.value)
    order_of = {"in out": (0, 3, 2, 1), "out in": (0, 3, 1, 2)}[order]
    turned = by_group.permute(order_of)
    packed = torch.empty(turned.shape, dtype=dtype, device=weight.device)
    return packed.copy_(turned)


def _dot(dtype: torch.dtype) -> str:
    """How `tl.dot` multiplies fp32; of other types it takes no notice."""
    return "ieee" if dtype == torch.float32 else "tf32"


@triton.jit
def _grouped(
    x, weight, y, pixels, height, width, height_out, width_out, groups,
    CHANNELS: tl.constexpr, DEPTH: tl.constexpr, STRIDE: tl.constexpr, BACKWARDS: tl.constexpr,
    PIXELS: tl.constexpr, OUT: tl.constexpr, INTO: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Each program makes `PIXELS` by `OUT` values of one group. Programs of the same pixels follow
    each other, so that what one has read of a line of memory the next finds in the cache.
    """
    blocks: tl.constexpr = (DEPTH + OUT - 1) // OUT
    steps: tl.constexpr = (DEPTH + INTO - 1) // INTO
    program = tl.program_id(0)
    group = program % groups
    block = (program // groups) % blocks
    pixel = (program // groups // blocks) * PIXELS + tl.arange(0, PIXELS)
    column = pixel % width_out
    row = (pixel // width_out) % height_out
    image = pixel // width_out // height_out
    out = block * OUT + tl.arange(0, OUT)
    sums = tl.zeros([PIXELS, OUT], tl.float32)
    for step in range(TAPS * steps):
        tap = step // steps
        there, inside = _source(image, row, column, tap, height, width, STRIDE, BACKWARDS)
        inside = inside & (pixel < pixels)
        into = (step % steps) * INTO + tl.arange(0, INTO)
        place = there.to(tl.int64) * CHANNELS + group * DEPTH
        values = tl.load(
            x + place[:, None] + into[None, :], inside[:, None] & (into < DEPTH)[None, :], 0.0
        )
        at = ((group * TAPS + tap) * DEPTH + into[:, None]) * DEPTH + out[None, :]
        weights = tl.load(weight + at, (into < DEPTH)[:, None] & (out < DEPTH)[None, :], 0.0)
        sums = tl.dot(values, weights, sums, input_precision=DOT)
    target = pixel.to(tl.int64)[:, None] * CHANNELS + group * DEPTH + out[None, :]
    is_there = (pixel < pixels)[:, None] & (out < DEPTH)[None, :]
    tl.store(y + target, sums.to(y.dtype.element_ty), is_there)


@triton.jit
def _source(image, row, column, tap, height, width, STRIDE: tl.constexpr, BACKWARDS: tl.constexpr):
    """Which pixel of the source meets a pixel of the result through this tap, and whether there is
    one.
    """
    down = tap // 3 - 1
    right = tap % 3 - 1
    if BACKWARDS:
        y = row - down
        x = column - right
        meets = (y % STRIDE == 0) & (x % STRIDE == 0) & (y >= 0) & (x >= 0)
        y = y // STRIDE
        x = x // STRIDE
    else:
        y = row * STRIDE + down
        x = column * STRIDE + right
        meets = (y >= 0) & (x >= 0)
    meets = meets & (y < height) & (x < width)
    return (image * height + y) * width + x, meets


@triton.jit
def _weight_gradient(
    x, dy, sums, pixels, each, height, width, height_out, width_out, groups,
    CHANNELS: tl.constexpr, DEPTH: tl.constexpr, STRIDE: tl.constexpr, TOGETHER: tl.constexpr,
    PIXELS: tl.constexpr, INTO: tl.constexpr, OUT: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Each program sums `each` pixels, for `TOGETHER` taps and `INTO` by `OUT` of a group's weights.
    Taps of the same pixels follow each other.
    """
    blocks_in: tl.constexpr = (DEPTH + INTO - 1) // INTO
    blocks_out: tl.constexpr = (DEPTH + OUT - 1) // OUT
    rows: tl.constexpr = TAPS // TOGETHER
    program = tl.program_id(0)
    tap = (program % rows) * TOGETHER
    program = program // rows
    into = (program % blocks_in) * INTO + tl.arange(0, INTO)
    program = program // blocks_in
    out = (program % blocks_out) * OUT + tl.arange(0, OUT)
    program = program // blocks_out
    group = program % groups
    part = program // groups
    first = tl.zeros([INTO, OUT], tl.float32)
    second = first
    third = first
    stop = tl.minimum(pixels, (part + 1) * each)
    for start in range(part * each, stop, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        is_there = pixel < stop
        column = pixel % width_out
        row = (pixel // width_out) % height_out
        image = pixel // width_out // height_out
        place = pixel.to(tl.int64) * CHANNELS + group * DEPTH
        slopes = tl.load(
            dy + place[:, None] + out[None, :], is_there[:, None] & (out < DEPTH)[None, :], 0.0
        )
        for i in tl.static_range(TOGETHER):
            there, meets = _source(image, row, column, tap + i, height, width, STRIDE, False)
            place = there.to(tl.int64) * CHANNELS + group * DEPTH
            values = tl.load(
                x + place[:, None] + into[None, :],
                (meets & is_there)[:, None] & (into < DEPTH)[None, :],
                0.0,
            )
            if i == 0:
                first = tl.dot(tl.trans(values), slopes, first, input_precision=DOT)
            elif i == 1:
                second = tl.dot(tl.trans(values), slopes, second, input_precision=DOT)
            else:
                third = tl.dot(tl.trans(values), slopes, third, input_precision=DOT)
    fits = (into < DEPTH)[:, None] & (out < DEPTH)[None, :]
    at = ((part * groups + group) * TAPS + tap).to(tl.int64) * (DEPTH * DEPTH)
    at += into[:, None] * DEPTH + out[None, :]
    tl.store(sums + at, first, fits)
    if TOGETHER == 3:
        tl.store(sums + at + DEPTH * DEPTH, second, fits)
        tl.store(sums + at + 2 * DEPTH * DEPTH, third, fits)
