"""A box of a picture, resized to a crop, compiled: bilinear as Pillow's, antialiased where it
shrinks.

A pixel of the result is a weighted sum along one axis of weighted sums along the other, in float32,
rounded after each: within a level of the exact sum, as Pillow's is, which goes the other way round.
Vector instructions are good at adding up rows of a picture, and not at adding up columns; so the
work goes by strips of `STRIP` rows of the result, which are transposed, to have the bytes of one
column side by side, before their columns are added up, and back afterwards. Transposing is
interleaving by four, of bytes and then of words of four bytes, which compilers know to do fast.
"""

from math import ceil

import numpy as np
from numba import njit, types

from seer.data.crops.compiled import INDEX, OPTIONS, compiled

STRIP = 16
COLUMN = 3 * STRIP  # bytes of a column of pixels in a transposed strip
HALF = np.float32(0.5)
VECTOR = 32  # bytes: rows are filled up to whole vectors, because what is left over is slow


@njit(**OPTIONS)
def _axis(length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each of `size` results begins among `length` pixels, `(size,)`, and its weights,
    `(taps, size)`.

    The number of weights is even. The last may be zeros for pixels that are not there, if `length`
    is smaller.
    """
    scale = length / size
    reach = max(scale, 1.0)
    taps = 2 * ceil(reach)
    starts, weights, totals = (
        np.empty(size, np.int64),
        np.zeros((taps, size), np.float32),
        np.zeros(size),
    )
    for x in range(size):
        starts[x] = max(min(int((x + 0.5) * scale - reach + 0.5), length - taps), 0)
    for k in range(min(taps, length)):
        for x in range(size):
            weight = max(0.0, 1 - abs(starts[x] + k + 0.5 - (x + 0.5) * scale) / reach)
            weights[k, x] = weight
            totals[x] += weight
    for k in range(taps):
        for x in range(size):
            weights[k, x] /= totals[x]
    return starts, weights


@njit(**OPTIONS)
def _add_rows(
    source: np.ndarray,
    start: int,
    pitch: int,
    weights: np.ndarray,
    sums: np.ndarray,
    out: np.ndarray,
) -> None:
    """`out[i]`: the rounded sum of `source[start + i]` and what follows every `pitch`, times the
    weights.
    """
    count, last = len(out), len(weights) - 2
    a, b = source[start:][:count], source[start + pitch :][:count]
    c, d = source[start + last * pitch :][:count], source[start + (last + 1) * pitch :][:count]
    p, q, r, s = weights[0], weights[1], weights[last], weights[last + 1]
    if last == 0:
        for i in range(count):
            out[i] = np.uint8(p * np.float32(a[i]) + q * np.float32(b[i]) + HALF)
    elif last == 2:
        for i in range(count):
            first = p * np.float32(a[i]) + q * np.float32(b[i])
            out[i] = np.uint8(first + HALF + (r * np.float32(c[i]) + s * np.float32(d[i])))
    else:
        for i in range(count):
            sums[i] = p * np.float32(a[i]) + q * np.float32(b[i]) + HALF
        for k in range(2, last, 2):
            e, f = source[start + k * pitch :][:count], source[start + (k + 1) * pitch :][:count]
            t, u = weights[k], weights[k + 1]
            for i in range(count):
                sums[i] += t * np.float32(e[i]) + u * np.float32(f[i])
        for i in range(count):
            out[i] = np.uint8(sums[i] + (r * np.float32(c[i]) + s * np.float32(d[i])))


@njit(**OPTIONS)
def _add_columns(
    source: np.ndarray, starts: np.ndarray, weights: np.ndarray, sums: np.ndarray, out: np.ndarray
) -> None:
    """The same for every column of a transposed strip. Known to be of `COLUMN` bytes, it takes a
    tenth as long.
    """
    last, size = len(weights) - 2, len(starts)
    for x in range(size):
        a, to = starts[x] * COLUMN, INDEX(x * COLUMN)
        c = a + last * COLUMN
        p, q, r, s = weights[0, x], weights[1, x], weights[last, x], weights[last + 1, x]
        if last == 0:
            for i in range(COLUMN):
                out[to + INDEX(i)] = np.uint8(_pair(source, a, i, p, q) + HALF)
        elif last == 2:
            for i in range(COLUMN):
                out[to + INDEX(i)] = np.uint8(
                    _pair(source, a, i, p, q) + HALF + _pair(source, a + 2 * COLUMN, i, r, s)
                )
        else:
            for i in range(COLUMN):
                sums[i] = _pair(source, a, i, p, q) + HALF
            for k in range(2, last, 2):
                t, u = weights[k, x], weights[k + 1, x]
                for i in range(COLUMN):
                    sums[i] += _pair(source, a + k * COLUMN, i, t, u)
            for i in range(COLUMN):
                out[to + INDEX(i)] = np.uint8(sums[i] + _pair(source, c, i, r, s))


@njit(**OPTIONS)
def _pair(source: np.ndarray, column: int, i: int, p: np.float32, q: np.float32) -> np.float32:
    here = INDEX(column) + INDEX(i)
    return p * np.float32(source[here]) + q * np.float32(source[here + INDEX(COLUMN)])


@njit(**OPTIONS)
def _interleave(rows: np.ndarray, out: np.ndarray) -> None:
    """Four rows to one: the first of each, then the second of each, and so on."""
    a, b, c, d = rows[0], rows[1], rows[2], rows[3]
    for x in range(len(a)):
        i = INDEX(4) * INDEX(x)
        out[i], out[i + INDEX(1)], out[i + INDEX(2)], out[i + INDEX(3)] = a[x], b[x], c[x], d[x]


@njit(**OPTIONS)
def _separate(row: np.ndarray, out: np.ndarray) -> None:
    """The reverse: one row to four."""
    a, b, c, d = out[0], out[1], out[2], out[3]
    for x in range(len(a)):
        i = INDEX(4) * INDEX(x)
        a[x], b[x], c[x], d[x] = row[i], row[i + INDEX(1)], row[i + INDEX(2)], row[i + INDEX(3)]


@njit(**OPTIONS)
def _transpose(strip: np.ndarray, quads: np.ndarray, out: np.ndarray) -> None:
    """`(STRIP, n)` bytes to `(n, STRIP)`, flat. `quads` is memory for `(4, 4n)`."""
    for group in range(4):
        _interleave(strip[4 * group : 4 * group + 4], quads[group])
    _interleave(quads.view(np.uint32), out.view(np.uint32))


@njit(**OPTIONS)
def _transpose_back(transposed: np.ndarray, quads: np.ndarray, out: np.ndarray) -> None:
    """`(n, STRIP)` bytes, flat, to `(STRIP, n)`."""
    _separate(transposed.view(np.uint32), quads.view(np.uint32))
    for group in range(4):
        _separate(quads[group], out[4 * group : 4 * group + 4])


def _resize(
    picture: np.ndarray,
    top: int,
    left: int,
    height: int,
    width: int,
    flip: bool,
    out: np.ndarray,
) -> None:
    """Fill `out`, `(h, w, 3)` uint8, with a box of `picture`, `(H, W, 3)` uint8, mirrored if
    `flip`.
    """
    source, pitch, target = picture.reshape(-1), 3 * picture.shape[1], out.reshape(len(out), -1)
    ys, down = _axis(height, out.shape[0])
    xs, across = _axis(width, out.shape[1])
    if flip:
        xs, across = xs[::-1].copy(), across[:, ::-1].copy()
    if len(down) > height:  # the rows that are not there
        source = np.zeros(len(down) * pitch, np.uint8)
        source[: height * pitch] = picture[top : top + height].reshape(-1)
        top = 0
    n, m = -(-3 * width // VECTOR) * VECTOR, target.shape[1]
    lying, quads = np.empty(STRIP * max(n, m), np.uint8), np.empty(STRIP * max(n, m), np.uint8)
    strip, quads_in = lying[: STRIP * n].reshape(STRIP, n), quads[: STRIP * n].reshape(4, 4 * n)
    made, quads_out = lying[: STRIP * m].reshape(STRIP, m), quads[: STRIP * m].reshape(4, 4 * m)
    # With the columns that are not there.
    transposed = np.zeros(STRIP * n + COLUMN * len(across), np.uint8)
    columns, sums = np.empty(STRIP * m, np.uint8), np.empty(max(n, COLUMN), np.float32)
    for y in range(0, len(target), STRIP):
        rows = min(STRIP, len(target) - y)
        for row in range(rows):
            start = (top + ys[y + row]) * pitch + 3 * left
            count = min(n, len(source) - start - (len(down) - 1) * pitch)
            _add_rows(source, start, pitch, down[:, y + row], sums, strip[row, :count])
        _transpose(strip, quads_in, transposed[: STRIP * n])
        _add_columns(transposed, xs, across, sums, columns)
        if rows == STRIP:
            _transpose_back(columns, quads_out, target[y : y + STRIP])
        else:
            _transpose_back(columns, quads_out, made)
            target[y:] = made[:rows]


_PICTURE = types.Array(types.uint8, 3, "C", readonly=True)  # or not
resize = compiled(
    types.void(_PICTURE, *4 * [types.int64], types.boolean, types.uint8[:, :, ::1]), _resize
)
