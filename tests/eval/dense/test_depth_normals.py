"""Normals from depth on a plane and a sphere, whose normals are known."""

import numpy as np
import pytest

from seer.eval.dense.depth_normals import Intrinsics, normals_of
from seer.eval.dense.surface_errors import angles_between

CAMERA = Intrinsics(50, 60, 9.5, 7.5)


def rays(height: int, width: int, camera: Intrinsics) -> np.ndarray:
    """`(H, W, 3)`: what a pixel's point is at a depth of 1."""
    rows, columns = np.indices((height, width))
    x = (columns - camera.cx) / camera.fx
    y = (rows - camera.cy) / camera.fy
    return np.stack([x, y, np.ones_like(x)], -1)


def plane(normal: np.ndarray, offset: float) -> np.ndarray:
    """Depth `(16, 20)` of the points p with normal · p = offset."""
    return np.asarray(offset / (rays(16, 20, CAMERA) @ normal))


@pytest.mark.parametrize("reach", [1, 3])
def test_a_plane_has_its_normal_everywhere(reach):
    normal = np.array([0.3, -0.2, -0.9])
    normal /= np.linalg.norm(normal)
    depth = plane(normal, -2.0)
    depth[5:7, 9] = np.nan
    depth[0, 0] = 0
    normals = normals_of(depth, CAMERA, reach)
    known = np.isfinite(depth) & (depth > 0)
    assert np.isnan(normals[~known]).all()
    assert np.abs(normals[known] - normal).max() < 1e-6
    # Millimetres have the normals of metres.
    assert np.abs(normals_of(1000 * depth, CAMERA, reach)[known] - normals[known]).max() < 1e-6


def test_a_sphere_has_its_radii_as_normals():
    camera = Intrinsics(200, 190, 79.5, 59.5)
    centre = np.array([0.1, -0.1, 3.0])
    ray = rays(120, 160, camera)
    # |t · ray − centre| = 1, the nearer of the two.
    squared = (ray**2).sum(-1)
    half = ray @ centre
    root = half**2 - squared * (centre @ centre - 1)
    hit = root > 0
    depth = np.where(hit, (half - np.sqrt(np.where(hit, root, 0))) / squared, 0)
    expected = ray * depth[..., None] - centre
    errors = angles_between(np.where(hit[..., None], expected, np.nan), normals_of(depth, camera))
    facing = hit & (-(expected * ray).sum(-1) / np.sqrt(squared) > 0.3)
    assert facing.sum() > 5000
    known = np.isfinite(errors[facing])
    assert known.mean() > 0.98
    assert np.nanmedian(errors[facing]) < 0.1
    assert np.nanmax(errors[facing]) < 3


def test_walls_have_the_normals_that_one_sees():
    """The floor's points up, which is −y; that of a wall to the right points left."""
    floor = 1 / np.maximum(rays(16, 20, CAMERA)[..., 1], 0.01)
    assert normals_of(floor, CAMERA, 1)[14, 9] == pytest.approx([0, -1, 0], abs=1e-6)
    right = 1 / np.maximum(rays(16, 20, CAMERA)[..., 0], 0.01)
    assert normals_of(right, CAMERA, 1)[8, 18] == pytest.approx([-1, 0, 0], abs=1e-6)


def test_holes_and_steps_have_no_normal():
    depth = np.full((16, 20), 2.0)
    depth[5, 5] = 0
    depth[:, 12:] = 4
    depth[10:13, 2:5] = np.inf
    depth[11, 3] = 2.0  # alone among holes
    normals = normals_of(depth, CAMERA, 1)
    for row, column in [(5, 5), (9, 11), (9, 12), (10, 2), (11, 3)]:
        assert np.isnan(normals[row, column]).all()
    for row, column in [(5, 4), (0, 0), (9, 8), (9, 15), (15, 19)]:
        assert normals[row, column] == pytest.approx([0, 0, -1], abs=1e-6)


def test_noise_of_the_sensor_is_smoothed():
    """Inverse depth in steps, as of a sensor that triangulates: 2 cm at 3 m."""
    camera = Intrinsics(585, 585, 320, 240)
    normal = np.array([0.5, 0.1, -0.85])
    normal /= np.linalg.norm(normal)
    depth = -3.0 / (rays(480, 640, camera) @ normal)
    depth = 1 / (np.round(450 / depth) / 450)
    errors = angles_between(np.broadcast_to(normal, (480, 640, 3)), normals_of(depth, camera))
    assert np.isfinite(errors).mean() > 0.99
    assert np.nanmedian(errors) < 5


def test_images_of_any_size_have_normals_or_none():
    for height, width in [(1, 1), (1, 9), (3, 3), (2, 200)]:
        normals = normals_of(np.full((height, width), 2.0), Intrinsics(10, 10, 1, 1))
        assert normals.shape == (height, width, 3)
        known = normals[np.isfinite(normals).all(-1)]
        assert len(known) == 0 or np.allclose(known, [0, 0, -1], atol=1e-6)
    assert np.isnan(normals_of(np.zeros((4, 4)), Intrinsics(10, 10, 1, 1))).all()


def test_a_step_is_one_in_millimetres_too():
    depth = np.full((16, 20), 2.0)
    depth[:, 12:] = 4
    holes = np.isnan(normals_of(depth, CAMERA, 1))
    assert holes.any()
    assert (np.isnan(normals_of(1000 * depth, CAMERA, 1)) == holes).all()
