"""Normals from depth on planes, whose normals are known."""

import numpy as np
import pytest

from seer.eval.dense.depthgeometry import Intrinsics, normals_of

CAMERA = Intrinsics(50, 60, 9.5, 7.5)


def plane(normal: np.ndarray, offset: float) -> np.ndarray:
    """Depth `(16, 20)` of the points p with normal · p = offset."""
    rows, columns = np.indices((16, 20))
    x = (columns - CAMERA.cx) / CAMERA.fx
    y = (rows - CAMERA.cy) / CAMERA.fy
    return np.asarray(offset / (normal[0] * x + normal[1] * y + normal[2]))


@pytest.mark.parametrize("reach", [1, 2])
def test_a_plane_has_its_normal_everywhere_but_at_the_edges(reach: int) -> None:
    normal = np.array([0.3, -0.2, -0.9])
    normal /= np.linalg.norm(normal)
    normals = normals_of(plane(normal, -2.0), CAMERA, reach)
    inner = normals[reach:-reach, reach:-reach]
    assert np.abs(inner - normal).max() < 1e-6
    assert np.isnan(normals[:reach]).all()
    assert np.isnan(normals[:, -reach:]).all()


def test_holes_and_steps_have_no_normal() -> None:
    depth = np.full((16, 20), 2.0)
    depth[5, 5] = 0
    depth[:, 12:] = 4
    normals = normals_of(depth, CAMERA)
    for row, column in [(5, 5), (5, 4), (5, 6), (4, 5), (6, 5), (9, 11), (9, 12)]:
        assert np.isnan(normals[row, column]).all()
    assert normals[9, 8] == pytest.approx([0, 0, -1])
    assert normals[9, 15] == pytest.approx([0, 0, -1])
