"""The appearance of one crop, compiled: from 8-bit levels to normalised values, in float32 and
without rounding.

The arithmetic is that of `augment.augment_batch`, where the operations are explained. The crop
comes with as many mirrored pixels around it as the blur reaches: what is done to each pixel alone
keeps them mirrored, and so each axis of the blur is one convolution of a flat plane.
"""

import numpy as np
from numba import njit

from seer.data.crops.compiled import INDEX, OPTIONS, compiled
from seer.data.crops.draws import LUMA, Op

BLOCK = 2048  # pixels that go through all operations together: their three planes fit the first-level cache
GROUP = 3  # pairs of taps that a convolution adds at a time
TWICE, THRICE = INDEX(2), INDEX(3)

HUE, SATURATION, CONTRAST = int(Op.HUE), int(Op.SATURATION), int(Op.CONTRAST)
RED, GREEN, BLUE = (np.float32(weight) for weight in LUMA)
ZERO, ONE, TWO, WHITE = np.float32(0), np.float32(1), np.float32(2), np.float32(255)
THIRD, SIXTH, HALF, SIX = np.float32(1 / 3), np.float32(1 / 6), np.float32(0.5), np.float32(6)


@njit(**OPTIONS)
def _unpack(levels: np.ndarray, red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> None:
    for x in range(len(red)):
        i = INDEX(3) * INDEX(x)
        red[x] = levels[i]
        green[x] = levels[i + INDEX(1)]
        blue[x] = levels[i + INDEX(2)]


@njit(**OPTIONS)
def _blend(
    red: np.ndarray,
    green: np.ndarray,
    blue: np.ndarray,
    keep: np.float32,
    own: np.float32,
    level: np.float32,
) -> None:
    """`keep·x + own·grey(x) + level`, clamped."""
    for x in range(len(red)):
        other = own * (RED * red[x] + GREEN * green[x] + BLUE * blue[x]) + level
        red[x] = min(max(keep * red[x] + other, ZERO), WHITE)
        green[x] = min(max(keep * green[x] + other, ZERO), WHITE)
        blue[x] = min(max(keep * blue[x] + other, ZERO), WHITE)


@njit(**OPTIONS)
def _turn(red: np.ndarray, green: np.ndarray, blue: np.ndarray, turns: np.float32) -> None:
    """Turn the colour circle, as `augment.rotate_hues`."""
    for x in range(len(red)):
        r, g, b = red[x], green[x], blue[x]
        value = max(max(r, g), b)
        chroma = value - min(min(r, g), b)
        from_green, from_blue = b - r + TWO * chroma, r - g + (TWO + TWO) * chroma
        rise = g - b if value == r else (from_green if value == g else from_blue)
        hue = rise * SIXTH / max(chroma, np.float32(1e-6)) + turns
        red[x] = value - chroma * _dip(hue)
        green[x] = value - chroma * _dip(hue - THIRD)
        blue[x] = value - chroma * _dip(hue + THIRD)


@njit(**OPTIONS)
def _dip(hue: np.float32) -> np.float32:
    """The share of the chroma that a channel lacks, by the hue in turns from that channel's corner."""
    return min(max(TWO - SIX * abs(hue - np.floor(hue) - HALF), ZERO), ONE)


@njit(**OPTIONS)
def _jitter(
    red: np.ndarray,
    green: np.ndarray,
    blue: np.ndarray,
    factors: np.ndarray,
    order: np.ndarray,
    mean: np.float32,
) -> None:
    for op in order:
        factor = factors[op]
        if op == HUE:
            if factor != 0:
                _turn(red, green, blue, factor)
        elif factor != 1:
            rest = ONE - factor
            own, level = rest if op == SATURATION else ZERO, rest * mean if op == CONTRAST else ZERO
            _blend(red, green, blue, factor, own, level)


@njit(**OPTIONS)
def _mean_grey(
    red: np.ndarray, green: np.ndarray, blue: np.ndarray, size: int, margin: int
) -> np.float32:
    """Of the crop without its margin."""
    columns = np.zeros(size, np.float32)  # a sum for each, so that the inner loop adds vectors
    for y in range(margin, margin + size):
        start = INDEX(y) * INDEX(size + 2 * margin) + INDEX(margin)
        for x in range(size):
            i = start + INDEX(x)
            columns[x] += RED * red[i] + GREEN * green[i] + BLUE * blue[i]
    mean = np.float64(0)
    for total in columns:
        mean += total
    return np.float32(mean / (size * size))


@njit(**OPTIONS)
def _convolve(source: np.ndarray, taps: np.ndarray, step: int | np.uintp, out: np.ndarray) -> None:
    """`out[i]` is `source[i + reach·step]` and its neighbours every `step`, weighted by `taps` on
    both sides.

    One loop for a reach of `GROUP` and one for twice that, because adding to `out` once more takes
    a third longer.
    """
    count, reach = len(out), len(taps) - 1
    step = INDEX(step)
    c, t0, t1, t2, t3 = INDEX(reach) * step, taps[0], taps[1], taps[2], taps[3]
    if reach == GROUP:
        for x in range(count):
            near = t0 * source[c + INDEX(x)] + t1 * _both(source, c, step, x)
            out[x] = near + (
                t2 * _both(source, c, TWICE * step, x) + t3 * _both(source, c, THRICE * step, x)
            )
        return
    t4, t5, t6 = taps[4], taps[5], taps[6]
    for x in range(count):
        near = t0 * source[c + INDEX(x)] + t1 * _both(source, c, step, x)
        near += t2 * _both(source, c, TWICE * step, x) + t3 * _both(source, c, THRICE * step, x)
        far = t4 * _both(source, c, INDEX(4) * step, x) + t5 * _both(source, c, INDEX(5) * step, x)
        out[x] = near + (far + t6 * _both(source, c, INDEX(6) * step, x))
    for i in range(2 * GROUP + 1, len(taps), GROUP):
        d, t, u, v = INDEX(i) * step, taps[i], taps[i + 1], taps[i + 2]
        for x in range(count):
            near = t * _both(source, c, d, x) + u * _both(source, c, d + step, x)
            out[x] += near + v * _both(source, c, d + TWICE * step, x)


@njit(**OPTIONS)
def _both(source: np.ndarray, centre: np.uintp, distance: np.uintp, x: int) -> np.float32:
    return source[centre - distance + INDEX(x)] + source[centre + distance + INDEX(x)]


@njit(**OPTIONS)
def _store(
    red: np.ndarray,
    green: np.ndarray,
    blue: np.ndarray,
    size: int,
    pitch: int,
    solarize: bool,
    scale: np.ndarray,
    shift: np.ndarray,
    out: np.ndarray,
) -> None:
    """The first `size` pixels of every `pitch`, normalised and interleaved."""
    if solarize:
        for x in range(len(red)):
            red[x], green[x] = min(red[x], WHITE - red[x]), min(green[x], WHITE - green[x])
            blue[x] = min(blue[x], WHITE - blue[x])
    s0, s1, s2, t0, t1, t2 = scale[0], scale[1], scale[2], shift[0], shift[1], shift[2]
    for y in range(len(out) // (3 * size)):
        for x in range(size):
            i = INDEX(y) * INDEX(pitch) + INDEX(x)
            o = INDEX(3) * (INDEX(y) * INDEX(size) + INDEX(x))
            out[o] = red[i] * s0 + t0
            out[o + INDEX(1)] = green[i] * s1 + t1
            out[o + INDEX(2)] = blue[i] * s2 + t2


def _alter(
    crop: np.ndarray,
    factors: np.ndarray,
    order: np.ndarray,
    grey: bool,
    taps: np.ndarray,
    solarize: bool,
    scale: np.ndarray,
    shift: np.ndarray,
    out: np.ndarray,
) -> None:
    """Alter and normalise one crop.

    Args:
        crop: `(S + 2r, S + 2r, 3)` uint8, with a margin of r mirrored pixels.
        factors, order, grey, solarize: of `Appearance`.
        taps: `(r + 1,)` float32, the blur's kernel from its centre outwards; r is a multiple of `GROUP`, or 0.
        scale, shift: `(3,)` float32, by which levels become values.
        out: `(S, S, 3)` float32, to be filled.
    """
    size, reach, width = len(out), len(taps) - 1, len(crop)
    source, target, pixels = crop.reshape(-1), out.reshape(-1), width * width
    red, green, blue = (
        np.empty(pixels, np.float32),
        np.empty(pixels, np.float32),
        np.empty(pixels, np.float32),
    )
    before = 0
    while order[before] != CONTRAST:
        before += 1
    for a in range(0, pixels, BLOCK):
        r, g, b = red[a : a + BLOCK], green[a : a + BLOCK], blue[a : a + BLOCK]
        _unpack(source[3 * a :], r, g, b)
        _jitter(r, g, b, factors, order[:before], ZERO)
    mean = _mean_grey(red, green, blue, size, reach) if factors[CONTRAST] != 1 else ZERO
    for a in range(0, pixels, BLOCK):
        r, g, b = red[a : a + BLOCK], green[a : a + BLOCK], blue[a : a + BLOCK]
        _jitter(r, g, b, factors, order[before:], mean)
        if grey:
            _blend(r, g, b, ZERO, ONE, ZERO)
        if not reach:
            _store(r, g, b, len(r), len(r), solarize, scale, shift, target[3 * a :][: 3 * len(r)])
    if reach:
        if grey:
            green, blue = red, red
        planes, along_rows = (red, green, blue), np.empty(pixels - 2 * reach, np.float32)
        for number in range(1 if grey else 3):
            _convolve(planes[number], taps, 1, along_rows)
            _convolve(along_rows, taps, width, planes[number][: size * width - 2 * reach])
        _store(red, green, blue, size, width, solarize, scale, shift, target)


alter = compiled(
    "void(u1[:,:,::1], f4[::1], i8[::1], b1, f4[::1], b1, f4[::1], f4[::1], f4[:,:,::1])", _alter
)
