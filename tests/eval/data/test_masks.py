"""Polygons as pixels, against the definition pixel by pixel."""

import numpy as np
import pytest

from seer.eval.data.masks import filled, polygons_of


def inside(polygon: np.ndarray, x: float, y: float) -> bool:
    """Whether a ray from the point to the right crosses an odd number of edges."""
    crossings = 0
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if (y0 <= y) != (y1 <= y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) > x:
            crossings += 1
    return crossings % 2 == 1


@pytest.mark.parametrize("seed", range(6))
def test_pixels_whose_centre_is_inside_are_filled(seed):
    """Of polygons that cross themselves and lie beyond the image, too, and of several together."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(5, 20, 2))
    corners = [rng.normal(0.5, 0.6, (int(rng.integers(3, 9)), 2)) for _ in range(2)]
    polygons = [(part * (width, height)).astype(np.float32) for part in corners]
    expected = [
        [any(inside(p.astype(float), x + 0.5, y + 0.5) for p in polygons) for x in range(width)]
        for y in range(height)
    ]
    np.testing.assert_array_equal(filled(polygons, height, width), expected)


def test_a_polygon_beyond_the_image_or_without_area_fills_nothing():
    ring = np.array([[0, 0], [2, 0], [2, 2]], np.float32)
    assert not filled([ring + 50, ring - 50, ring * (1, 0)], 8, 8).any()


@pytest.mark.parametrize(
    "part",
    [None, [1, 1, 5, 5], [1, 1, 5, 5, 9], [1, 1, 5, "5", 9, 9], [1, 1, 5, None, 9, 9]]
    + [[1, 1, 5, value, 9, 9] for value in (10**400, 1e400, float("nan"), 2**24, -(2**24), True)],
)
def test_what_is_no_polygon_is_counted(part):
    polygons, few = polygons_of([[0, 0, 4, 0, 4, 4.5], part])
    assert [polygon.tolist() for polygon in polygons] == [[[0, 0], [4, 0], [4, 4.5]]]
    assert few == 1
