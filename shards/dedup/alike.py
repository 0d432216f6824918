"""Whether two pictures are one: laid over each other as well as a crop allows, their edges must be
the same.

Perceptual hashes find candidates, but pictures that have a small thing on a plain ground, such as
logos, often share one, and so do variants of a drawing in other colours. Edges tell them apart: see
the figures in `shards/README.md`.
"""

import cv2
import numpy as np

SIDE = 64  # pixels of a thumbnail, each way
MARGIN = 4  # pixels at the border that are not compared: a crop leaves nothing to compare them with
ENOUGH = 0.9  # correlation of the edges of two pictures that are one
HOPELESS = 0.15  # correlation of the pictures below which laying them over each other is not tried
# By a crop of up to about a tenth; shares of the picture.
MOST_SCALED = 0.12
MOST_MOVED = 0.08
STEPS = cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 1e-4
EVERYWHERE = np.full((SIDE, SIDE), 255, np.uint8)


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """`(H, W, 3)` uint8 RGB to `(SIDE, SIDE)` uint8 grey, whatever the shape was."""
    return cv2.cvtColor(
        cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY
    )


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two thumbnails show one picture: recompressed, resized, grey, mirrored, brightened,
    slightly cropped.
    """
    one = one.astype(np.float32)
    other = other.astype(np.float32)
    mirrored = np.ascontiguousarray(other[:, ::-1])
    direct = _correlation(one, other)
    reflected = _correlation(one, mirrored)
    if max(direct, reflected) < HOPELESS:
        return False
    if reflected > direct:
        other = mirrored
    edges = _edges(one)
    if _correlation(edges, _edges(other)) >= ENOUGH:
        return True
    aligned = _aligned(one, other)
    return aligned is not None and _correlation(edges, _edges(aligned)) >= ENOUGH


def _aligned(one: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    """`other` laid over `one`; None if that takes more than a slight crop does.

    Evangelidis, Psarakis: Parametric Image Alignment Using Enhanced Correlation Coefficient
    Maximization, 2008.
    """
    warp: np.ndarray = np.eye(2, 3, dtype=np.float32)
    try:
        _, warp = cv2.findTransformECC(one, other, warp, cv2.MOTION_AFFINE, STEPS, EVERYWHERE, 3)
    except cv2.error:  # it found no way to improve
        return None
    middle = np.full(2, (SIDE - 1) / 2)
    moved = warp[:, :2] @ middle + warp[:, 2] - middle
    if (
        np.abs(warp[:, :2] - np.eye(2)).max() > MOST_SCALED
        or np.abs(moved).max() > MOST_MOVED * SIDE
    ):
        return None
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(other, warp, (SIDE, SIDE), flags=how, borderMode=cv2.BORDER_REPLICATE)


def _edges(picture: np.ndarray) -> np.ndarray:
    """Horizontal and vertical derivatives, slightly smoothed, without the margin."""
    smooth = cv2.GaussianBlur(picture, (0, 0), 0.8)
    both = np.stack([cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)])
    return both[:, MARGIN:-MARGIN, MARGIN:-MARGIN]


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one = one - one.mean()
    other = other - other.mean()
    scale = np.sqrt((one * one).sum() * (other * other).sum())
    return float((one * other).sum() / scale) if scale else 0.0
