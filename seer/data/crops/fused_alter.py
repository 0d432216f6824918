# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""Altering crops on a GPU: Triton kernels, and what they need to know of each crop.

The levels are read twice, once for the mean grey that contrast needs, and the values written;
crops that are blurred take two passes more, one for each axis.
"""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from seer.data.crops.draws import IDENTITY, LUMA, Appearance, Op
from seer.data.crops.transfer import send

BLOCK = 1024  # pixels, or values, of a program; 49 programs alter a crop of 224, 9 one of 96
MEAN_BLOCK = 2048  # pixels that the one program of a crop takes at a time for its mean
WARPS = 4
MEAN_WARPS = 8

# A crop's row in the table, float32: operation and factor four times, in the crop's own order, and
# the rest.
BEFORE, GREY, SOLARIZE, REACH, EXPONENT, CENTRE = (tl.constexpr(column) for column in range(8, 14))
COLUMNS = tl.constexpr(14)

CONTRAST = tl.constexpr(int(Op.CONTRAST))
SATURATION = tl.constexpr(int(Op.SATURATION))
HUE = tl.constexpr(int(Op.HUE))
RED, GREEN, BLUE = (tl.constexpr(weight) for weight in LUMA)


def alter(
    crops: Tensor, looks: Appearance, reaches: np.ndarray, scale: np.ndarray, shift: np.ndarray
) -> Tensor:
    """As `augment.augment_plain`.

    Args:
        crops: `(N, S, S, 3)` uint8.
        reaches: `(N,)` int64, pixels that each crop's blur reaches to a side; 0 is none.
        scale, shift: `(3,)` by which levels become values.
    """
    crops = crops.contiguous()
    count, size = crops.shape[:2]
    table = look_table(looks, reaches)
    blurred = np.flatnonzero(reaches)
    numbers = np.concatenate([table.ravel(), blurred.astype(np.float32)])
    sent_looks, rows = send(numbers, crops.device).split([table.size, len(blurred)])
    means = torch.empty(count, dtype=torch.float32, device=crops.device)
    out = torch.empty(crops.shape, dtype=torch.float32, device=crops.device)
    affine = (*scale.tolist(), *shift.tolist())
    blocks = triton.cdiv(size * size, BLOCK)
    with torch.cuda.device_of(crops):
        if not count:
            return out
        _mean_greys[(count,)](crops, sent_looks, means, size, MEAN_BLOCK, num_warps=MEAN_WARPS)
        _alter[(count * blocks,)](
            crops, sent_looks, means, out, *affine, size, BLOCK, num_warps=WARPS
        )
        if len(blurred):
            shape = (len(blurred), size, size, 3)
            between = torch.empty(shape, dtype=torch.float32, device=crops.device)
            grid = (len(blurred) * triton.cdiv(3 * size * size, BLOCK),)
            _blur_rows[grid](out, sent_looks, rows, between, size, BLOCK, num_warps=WARPS)
            _blur_columns[grid](
                between, sent_looks, rows, out, *affine, size, BLOCK, num_warps=WARPS
            )
    return out


def look_table(looks: Appearance, reaches: np.ndarray) -> np.ndarray:
    """`(N, 14)` float32, as the columns above say.

    A shift of hue by nothing becomes a brightness that changes nothing, which is cheaper. `BEFORE`
    is how many operations precede contrast, -1 where contrast changes nothing. The Gaussian is
    `CENTRE · exp(-EXPONENT · distance²)`, its sum over the pixels that it reaches being one.
    """
    table = np.zeros((len(looks), COLUMNS.value), np.float32)
    factors = np.take_along_axis(looks.factors, looks.order, 1)
    idle = (looks.order == Op.HUE) & (factors == 0)
    table[:, 0:8:2] = np.where(idle, Op.BRIGHTNESS, looks.order)
    table[:, 1:8:2] = np.where(idle, IDENTITY[Op.BRIGHTNESS], factors)
    has_contrast = looks.factors[:, Op.CONTRAST] != IDENTITY[Op.CONTRAST]
    place = (looks.order == Op.CONTRAST).argmax(1)
    table[:, BEFORE.value] = np.where(has_contrast, place, -1)
    table[:, GREY.value] = looks.grey
    table[:, SOLARIZE.value] = looks.solarize
    table[:, REACH.value] = reaches
    sigmas = np.where(reaches > 0, looks.sigma, 1).astype(np.float64)
    exponents = 0.5 / sigmas**2
    distances = np.arange(1, reaches.max(initial=0) + 1)
    tails = np.exp(-exponents[:, None] * distances**2) * (distances <= reaches[:, None])
    table[:, EXPONENT.value] = exponents
    table[:, CENTRE.value] = 1 / (1 + 2 * tails.sum(1))
    return table


@triton.jit
def _mean_greys(crops, looks, means, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Each program finds one crop's mean grey before its contrast; 0 where there is no contrast."""
    crop = tl.program_id(0)
    look = looks + crop * COLUMNS
    source = crops + crop.to(tl.int64) * (3 * SIZE * SIZE)
    before = tl.load(look + BEFORE).to(tl.int32)
    stop = tl.where(before < 0, 0, SIZE * SIZE)
    sums = tl.zeros([BLOCK], tl.float32)
    for start in range(0, stop, BLOCK):
        pixel = start + tl.arange(0, BLOCK)
        inside = pixel < SIZE * SIZE
        red, green, blue = _pixels(source, tl.minimum(pixel, SIZE * SIZE - 1))
        red, green, blue = _jittered(red, green, blue, look, before, 0.0)
        sums += tl.where(inside, _grey(red, green, blue), 0.0)
    tl.store(means + crop, tl.sum(sums, 0) / (SIZE * SIZE))


@triton.jit
def _alter(
    crops,
    looks,
    means,
    out,
    scale_red,
    scale_green,
    scale_blue,
    shift_red,
    shift_green,
    shift_blue,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each program alters `BLOCK` pixels of one crop: to the end, or, if it is to be blurred, up to
    there.
    """
    blocks: tl.constexpr = (SIZE * SIZE + BLOCK - 1) // BLOCK
    crop = tl.program_id(0) // blocks
    look = looks + crop * COLUMNS
    first = crop.to(tl.int64) * (3 * SIZE * SIZE)
    pixel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < SIZE * SIZE
    red, green, blue = _pixels(crops + first, tl.minimum(pixel, SIZE * SIZE - 1))
    red, green, blue = _jittered(red, green, blue, look, 4, tl.load(means + crop))
    is_grey = tl.load(look + GREY) != 0
    grey = _grey(red, green, blue)
    red = tl.where(is_grey, grey, red)
    green = tl.where(is_grey, grey, green)
    blue = tl.where(is_grey, grey, blue)
    if tl.load(look + REACH) == 0:
        solarize = tl.load(look + SOLARIZE)
        red = _solarized(red, solarize) * scale_red + shift_red
        green = _solarized(green, solarize) * scale_green + shift_green
        blue = _solarized(blue, solarize) * scale_blue + shift_blue
    target = out + first + pixel * 3
    tl.store(target, red, mask=inside)
    tl.store(target + 1, green, mask=inside)
    tl.store(target + 2, blue, mask=inside)


@triton.jit
def _blur_rows(levels, looks, rows, between, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Along the rows of the crops whose numbers are in `rows`. A value's neighbours are three
    values apart, so the three channels are one plane.
    """
    blocks: tl.constexpr = (3 * SIZE * SIZE + BLOCK - 1) // BLOCK
    number = tl.program_id(0) // blocks
    crop = tl.load(rows + number).to(tl.int32)
    value = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = value < 3 * SIZE * SIZE
    place = tl.minimum(value, 3 * SIZE * SIZE - 1)
    x = (place // 3) % SIZE
    source = levels + crop.to(tl.int64) * (3 * SIZE * SIZE)
    sums = _convolved(source, place - 3 * x, x, looks + crop * COLUMNS, SIZE, 3)
    tl.store(between + number.to(tl.int64) * (3 * SIZE * SIZE) + value, sums, mask=inside)


@triton.jit
def _blur_columns(
    between,
    looks,
    rows,
    out,
    scale_red,
    scale_green,
    scale_blue,
    shift_red,
    shift_green,
    shift_blue,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Along the columns, and what is left to do after the blur."""
    blocks: tl.constexpr = (3 * SIZE * SIZE + BLOCK - 1) // BLOCK
    number = tl.program_id(0) // blocks
    crop = tl.load(rows + number).to(tl.int32)
    look = looks + crop * COLUMNS
    value = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = value < 3 * SIZE * SIZE
    place = tl.minimum(value, 3 * SIZE * SIZE - 1)
    y = place // (3 * SIZE)
    source = between + number.to(tl.int64) * (3 * SIZE * SIZE)
    sums = _convolved(source, place - 3 * SIZE * y, y, look, SIZE, 3 * SIZE)
    channel = place % 3
    scale = tl.where(channel == 0, scale_red, tl.where(channel == 1, scale_green, scale_blue))
    shift = tl.where(channel == 0, shift_red, tl.where(channel == 1, shift_green, shift_blue))
    result = _solarized(sums, tl.load(look + SOLARIZE)) * scale + shift
    tl.store(out + crop.to(tl.int64) * (3 * SIZE * SIZE) + value, result, mask=inside)


@triton.jit
def _convolved(source, origin, at, look, SIZE: tl.constexpr, STEP: tl.constexpr):
    """The Gaussian along one axis, mirrored at both ends without repeating the last pixel.

    `at` is the place on the axis, whose pixels lie `STEP` values apart from `origin` on.
    """
    reach = tl.load(look + REACH).to(tl.int32)
    exponent = tl.load(look + EXPONENT)
    sums = tl.load(source + (origin + at * STEP))
    for distance in range(1, reach + 1):
        weight = tl.exp(-exponent * distance * distance)
        before = tl.abs(at - distance)
        after = SIZE - 1 - tl.abs(SIZE - 1 - at - distance)
        both = tl.load(source + (origin + before * STEP)) + tl.load(
            source + (origin + after * STEP)
        )
        sums += weight * both
    return sums * tl.load(look + CENTRE)


@triton.jit
def _pixels(source, pixel):
    """Three channels as floats."""
    red = tl.load(source + pixel * 3).to(tl.float32)
    green = tl.load(source + pixel * 3 + 1).to(tl.float32)
    blue = tl.load(source + pixel * 3 + 2).to(tl.float32)
    return red, green, blue


@triton.jit
def _grey(red, green, blue):
    return red * RED + green * GREEN + blue * BLUE


@triton.jit
def _clamped(value):
    return tl.minimum(tl.maximum(value, 0.0), 255.0)


@triton.jit
def _solarized(value, solarize):
    return tl.where(solarize != 0, tl.minimum(value, 255.0 - value), value)


@triton.jit
def _jittered(red, green, blue, look, count, mean):
    """The first `count` operations of a crop's jitter; see `augment`."""
    for k in range(count):
        op = tl.load(look + 2 * k)
        factor = tl.load(look + 2 * k + 1)
        if op == HUE:
            red, green, blue = _turned(red, green, blue, factor)
        else:
            rest = 1.0 - factor
            own = tl.where(op == SATURATION, rest, 0.0)
            level = tl.where(op == CONTRAST, rest, 0.0) * mean
            blend = _grey(red, green, blue) * own + level
            red = _clamped(red * factor + blend)
            green = _clamped(green * factor + blend)
            blue = _clamped(blue * factor + blend)
    return red, green, blue


@triton.jit
def _turned(red, green, blue, turns):
    """The colour circle turned; see `augment.rotate_hues`."""
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - tl.minimum(tl.minimum(red, green), blue)
    from_green = blue - red + chroma * 2.0
    from_blue = red - green + chroma * 4.0
    rise = tl.where(value == red, green - blue, tl.where(value == green, from_green, from_blue))
    hue = rise / (tl.maximum(chroma, 1e-6) * 6.0) + turns
    turned_red = value - chroma * _dip(hue)
    turned_green = value - chroma * _dip(hue - 1 / 3)
    turned_blue = value - chroma * _dip(hue + 1 / 3)
    return turned_red, turned_green, turned_blue


@triton.jit
def _dip(hue):
    """The share of the chroma that a channel lacks, by the hue from that channel's corner."""
    distance = tl.abs(hue - tl.floor(hue) - 0.5)
    return tl.minimum(tl.maximum(2.0 - distance * 6.0, 0.0), 1.0)
