import numpy as np

from seer.pretrain.picture import GAP, grid


def test_tiles_stand_in_rows_at_their_heights():
    red, blue = np.zeros((10, 20, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    sheet = np.asarray(grid([[red, blue], [blue]], [40, 12]))
    assert sheet.shape == (40 + GAP + 12, 80 + GAP + 40, 4)
    assert (sheet[:40, :80] == (255, 0, 0, 255)).all()
    assert (sheet[:40, 80 + GAP :] == (0, 0, 255, 255)).all()
    assert (sheet[40 + GAP :, :12] == (0, 0, 255, 255)).all()
    assert not sheet[40 + GAP :, 12:].any()
