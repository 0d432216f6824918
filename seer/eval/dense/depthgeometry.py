"""Surface normals from depth."""

from typing import NamedTuple

import numpy as np


class Intrinsics(NamedTuple):
    """A pinhole camera: focal lengths and principal point, in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float


def points_of(depth: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """`(H, W, 3)` float64: where each pixel's surface is, x right, y down, z away from the camera."""
    rows, columns = np.indices(depth.shape)
    x = (columns - camera.cx) / camera.fx
    y = (rows - camera.cy) / camera.fy
    return np.stack([x, y, np.ones_like(x)], -1) * depth[..., None]


def normals_of(
    depth: np.ndarray, camera: Intrinsics, reach: int = 1, jump: float = 0.05
) -> np.ndarray:
    """Unit normals `(H, W, 3)` float32 towards the camera; NaN where a neighbour is a hole, over the
    edge, or at another depth.

    The cross product of the differences to the neighbours on both sides.

    Args:
        depth: `(H, W)`; what is not finite and above 0 is a hole.
        reach: how far the neighbours lie, in pixels; more smooths noise.
        jump: the share of its depth that a pixel's neighbours may differ by: beyond it they are of
            another surface.
    """
    known = np.isfinite(depth) & (depth > 0)
    metres = np.where(known, depth, np.nan).astype(np.float64)
    normals = np.full((*depth.shape, 3), np.nan, np.float32)
    if min(depth.shape) <= 2 * reach:
        return normals
    points = points_of(metres, camera)
    middle = slice(reach, -reach)
    across = points[middle, 2 * reach :] - points[middle, : -2 * reach]
    down = points[2 * reach :, middle] - points[: -2 * reach, middle]
    # Down × across points to the camera, since z points away from it.
    normal = np.cross(down, across)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    centre = metres[middle, middle]
    step = np.maximum(np.abs(across[..., 2]), np.abs(down[..., 2]))
    smooth = (step <= 2 * jump * centre) & (length[..., 0] > 0)
    with np.errstate(invalid="ignore"):
        normals[middle, middle] = np.where(smooth[..., None], normal / length, np.nan)
    return normals
