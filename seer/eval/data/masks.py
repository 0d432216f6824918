"""Masks of objects as COCO writes them: polygons, and run lengths, compressed or not.

A run-length mask of an image of H × W pixels lists the lengths of runs of 0 and of 1 in turn, a run of
0 first, along its columns (Lin et al. 2014, arXiv:1405.0312; the format is that of cocoapi's maskApi).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

LEAST_CORNERS = 3
NUMBERS = {int, float}
FAR = 2**24  # pixels beyond which nothing is; NaN is beyond, too
LONGEST_RUNS = 2**26


def runs_of(counts: Any, height: int, width: int) -> np.ndarray | None:
    """`(R,)` int64 run lengths of a mask of that size; None where they are none.

    Args:
        counts: a list of lengths, or a compressed text.
    """
    if isinstance(counts, str):
        counts = counts.encode(errors="surrogatepass")  # what is not ASCII is none either way
    if isinstance(counts, bytes):
        runs = _uncompressed(counts)
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        runs = counts
    else:
        runs = None
    if runs is None or any(run < 0 for run in runs) or sum(runs) != height * width:
        return None
    return np.array(runs, np.int64)


def _uncompressed(text: bytes) -> list[int] | None:
    """The lengths in a text of six bits a character: five of a number, its lowest first, and whether
    more follow. From the third number on they are differences to the last but one.
    """
    runs: list[int] = []
    value = 0
    shift = 0
    if len(text) > LONGEST_RUNS:
        return None
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
        value = 0
        shift = 0
    return runs if shift == 0 else None


def mask_of(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """`(H, W)` uint8 of 0 and 1, of run lengths that add up to H · W."""
    values = (np.arange(len(runs)) % 2).astype(np.uint8)
    return np.repeat(values, runs).reshape(width, height).T


def runs_in(mask: np.ndarray) -> np.ndarray:
    """The run lengths of a mask `(H, W)`."""
    line = mask.T.reshape(-1).astype(bool)
    changes = np.flatnonzero(line[1:] != line[:-1]) + 1
    edges = np.concatenate([[0], changes, [line.size]])
    runs = np.diff(edges)
    return np.concatenate([[0], runs]) if line.size and line[0] else runs


def polygons_of(parts: Sequence[Any]) -> tuple[list[np.ndarray], int]:
    """`(P, 2)` float32 corners x, y of each part that has three or more, and how many parts have not."""
    corners = [_corners(part) for part in parts if isinstance(part, list)]
    polygons = [polygon for polygon in corners if polygon is not None]
    return polygons, len(parts) - len(polygons)


def _corners(numbers: list[Any]) -> np.ndarray | None:
    """`(P, 2)`; None where they are not the coordinates of three corners or more."""
    if len(numbers) % 2 or len(numbers) < 2 * LEAST_CORNERS or set(map(type, numbers)) - NUMBERS:
        return None
    try:
        values = np.array(numbers, np.float64)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    if not -FAR < values.min() <= values.max() < FAR:  # nor where one is no number
        return None
    return values.astype(np.float32).reshape(-1, 2)


def filled(polygons: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """`(H, W)` uint8: 1 where a pixel's centre lies in any of the polygons `(P, 2)` (within an odd number
    of a polygon's turns), in pixels whose first one goes from 0 to 1.
    """
    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        _fill(mask, polygon.astype(np.float64))
    return mask


def _fill(mask: np.ndarray, polygon: np.ndarray) -> None:
    """Set the pixels of one polygon: along a row of centres, each edge that crosses it is where inside
    and outside change. Only the polygon's own rows and columns are looked at.
    """
    height, width = mask.shape
    begin = polygon
    end = np.roll(polygon, -1, axis=0)
    # Rows whose centre y + 1/2 lies in [upper, lower) of an edge.
    upper = np.minimum(begin[:, 1], end[:, 1])
    lower = np.maximum(begin[:, 1], end[:, 1])
    first = np.clip(np.ceil(upper - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(lower - 0.5), 0, height).astype(np.int64)
    counts = last - first
    edges = np.repeat(np.arange(len(polygon)), counts)
    if not len(edges):
        return
    before = np.cumsum(counts) - counts
    rows = np.arange(counts.sum()) - np.repeat(before - first, counts)
    along = (rows + 0.5 - begin[edges, 1]) / (end[edges, 1] - begin[edges, 1])
    crossings = begin[edges, 0] + along * (end[edges, 0] - begin[edges, 0])
    columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)
    top = int(first.min())
    bottom = int(last.max())
    left = int(columns.min())
    right = int(columns.max())
    changes = np.zeros((bottom - top, right - left + 1), np.uint8)
    np.add.at(changes, (rows - top, columns - left), 1)
    inside = np.cumsum(changes[:, :-1], axis=1, dtype=np.uint8) & 1
    mask[top:bottom, left:right] |= inside
