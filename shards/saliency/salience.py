"""From an image to its mask: estimates brought together, smoothed along edges, and cut off."""

import io

import cv2
import numpy as np
from PIL import Image

from shards.saliency.estimators import ESTIMATORS
from shards.saliency.regions import normalised, regions_of, to_lab

SIDE = 256  # px of the longer side, at which it is estimated
SMOOTHED = 8  # px that smoothing reaches to
ROUGHNESS = 1e-3  # variance of grey, from 0 to 1, below which smoothing takes no notice of an edge
FEWEST = 8  # px of a side that can have an object
MOST = 0.98  # quantile of an estimate that counts as 1: so a bright spot does not dim the rest of its object
WHITE = 255


def classical(image: np.ndarray) -> np.ndarray:
    """The mean of `ESTIMATORS`, smoothed: `(h, w)` float64 from 0 to 1, of an `(H, W, 3)` uint8 image
    whose longer side became `SIDE`; zeros for what is too narrow.
    """
    small = shrunk(image)
    if min(small.shape[:2]) < FEWEST:
        return np.zeros(small.shape[:2])
    lab = to_lab(small)
    regions = regions_of(lab)
    if regions.border.all():
        return np.zeros(small.shape[:2])
    each = [stretched(estimate(lab, regions)) for estimate in ESTIMATORS.values()]
    mean = np.mean(each, axis=0)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY) / 255
    return normalised(guided(mean, grey).clip(0, 1))


def stretched(estimate: np.ndarray) -> np.ndarray:
    """With 1 from its quantile `MOST` on, or from a half if that is higher."""
    return (estimate / max(np.quantile(estimate, MOST), 0.5)).clip(0, 1)


def shrunk(image: np.ndarray) -> np.ndarray:
    """The image with a longer side of at most `SIDE`."""
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def guided(values: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """Both `(H, W)`: values smoothed, but not across the edges of the guide (guided filter, He et al.
    2010).
    """

    def mean(of: np.ndarray) -> np.ndarray:
        side = 2 * SMOOTHED + 1
        return cv2.blur(of, (side, side), borderType=cv2.BORDER_REFLECT)

    of_guide = mean(guide)
    of_values = mean(values)
    variance = mean(guide * guide) - of_guide**2
    slope = (mean(guide * values) - of_guide * of_values) / (variance + ROUGHNESS)
    offset = of_values - slope * of_guide
    return mean(slope) * guide + mean(offset)


def cut_off(map: np.ndarray, threshold: float, least_area: float) -> np.ndarray:
    """`(H, W)` bool: where the map is at least the threshold, 0 for Otsu's, without pieces smaller than
    this share of the image, and with no holes that are so small.
    """
    levels = (map * WHITE).round().clip(0, WHITE).astype(np.uint8)
    if levels.min() == levels.max():
        return np.full(map.shape, bool(threshold) and map.flat[0] >= threshold)
    if threshold:
        mask = map >= threshold
    else:
        level, _ = cv2.threshold(levels, 0, WHITE, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        mask = levels > level
    fewest = least_area * mask.size
    mask = _without_pieces(mask, fewest)
    return ~_without_pieces(~mask, fewest)


def _without_pieces(mask: np.ndarray, fewest: float) -> np.ndarray:
    count, labels, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    large = facts[:count, cv2.CC_STAT_AREA] >= fewest
    return mask & large[labels]


def enlarged(map: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The map at an image's `(H, W)`."""
    return cv2.resize(map.astype(np.float32), shape[1::-1], interpolation=cv2.INTER_LINEAR)


def png(mask: np.ndarray) -> bytes:
    """A mask, `(H, W)` bool, as a picture of one bit a pixel, white where the object is."""
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return file.getvalue()
