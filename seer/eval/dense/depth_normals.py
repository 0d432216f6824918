"""Surface normals from depth.

On a plane the inverse of depth is linear in a pixel's column and row: of a point p = z (x, y, 1) with
n · p = d it is 1 / z = n · (x, y, 1) / d. So a plane through the pixels around each pixel is a linear
fit of 1 / z, in which sensors that triangulate have even noise, too.
"""

from typing import NamedTuple

import cv2
import numpy as np

LEAST_SHARE = 0.5  # of the pixels around that must be known
LARGEST_MISFIT = 0.02  # root mean square, as a share of the pixel's own 1 / z
WIDE = 128  # an image's width in steps of how far planes reach


class Intrinsics(NamedTuple):
    """A pinhole camera: focal lengths and principal point, in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float


def normals_of(depth: np.ndarray, camera: Intrinsics, reach: int = 0) -> np.ndarray:
    """Unit normals `(H, W, 3)` float32 towards the camera, x right, y down, z away from it; NaN where
    the depth is not known, less than half of what is around it is, or that is no plane.

    Args:
        depth: `(H, W)`, in any unit; what is not finite and above 0 is a hole.
        reach: the plane is of the pixels of `2 * reach + 1` columns and rows; 0 is a 128th of the
            width, but 1 at least.
    """
    reach = reach or max(1, round(depth.shape[1] / WIDE))
    known = np.isfinite(depth) & (depth > 0)
    inverse = np.zeros(depth.shape)
    np.divide(1, depth, out=inverse, where=known)
    fit = _fitted(inverse, known, reach)
    rows, columns = np.indices(depth.shape)
    across = fit.across * camera.fx
    down = fit.down * camera.fy
    ahead = fit.level - fit.across * (columns - camera.cx) - fit.down * (rows - camera.cy)
    # n / d points away from the camera, since it and the pixel's point have a product of 1.
    normals = -np.stack([across, down, ahead], -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        flat = known & fit.enough & (fit.misfit <= LARGEST_MISFIT * inverse)
    return np.where(flat[..., None], normals, np.nan).astype(np.float32)


class Fit(NamedTuple):
    """Of the pixels around each pixel, `(H, W)`: the linear function's slopes and its value there, its
    root mean square misfit, and whether enough of them are known.
    """

    across: np.ndarray
    down: np.ndarray
    level: np.ndarray
    misfit: np.ndarray
    enough: np.ndarray


def _fitted(values: np.ndarray, known: np.ndarray, reach: int) -> Fit:
    """Least squares over a square around each pixel, by the normal equations of centred numbers."""
    steps = np.arange(-reach, reach + 1, dtype=np.float64)
    ones = np.ones_like(steps)

    def sums(of: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
        # A correlation; what lies over the edge is not known.
        return cv2.sepFilter2D(of, cv2.CV_64F, across, down, borderType=cv2.BORDER_CONSTANT)

    weight = known.astype(np.float64)
    count = np.maximum(sums(weight, ones, ones), 1)
    u = sums(weight, steps, ones) / count
    v = sums(weight, ones, steps) / count
    q = sums(values, ones, ones) / count
    uu = sums(weight, steps**2, ones) / count - u * u
    vv = sums(weight, ones, steps**2) / count - v * v
    uv = sums(weight, steps, steps) / count - u * v
    uq = sums(values, steps, ones) / count - u * q
    vq = sums(values, ones, steps) / count - v * q
    qq = sums(values**2, ones, ones) / count - q * q
    determinant = uu * vv - uv * uv
    solvable = determinant > 1e-6 * np.maximum(uu, vv) ** 2
    divisor = np.where(solvable, determinant, 1)
    across = (uq * vv - vq * uv) / divisor
    down = (vq * uu - uq * uv) / divisor
    misfit = np.sqrt(np.maximum(qq - across * uq - down * vq, 0))
    around = sums(np.ones_like(weight), ones, ones)
    enough = solvable & (count >= LEAST_SHARE * around)
    return Fit(across, down, q - across * u - down * v, misfit, enough)
