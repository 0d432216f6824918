from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from seer.data.loader import Loader
from seer.data.storage.index import Manifest
from seer.distributed import World
from seer.pretrain.batches import batches_of
from seer.pretrain.picture import GAP, grid
from seer.pretrain.recipe import load_config
from tests.kit.pictures import coloured_jpeg
from tests.kit.shards import write_shards


@pytest.mark.parametrize("damage", [b"", b"not an image"])
def test_a_first_image_that_is_damaged_is_replaced_as_in_a_step(tiny, tmp_path, damage):
    def batches(damaged: int) -> tuple[Loader, Callable[[], Image.Image]]:
        write_shards(
            tmp_path, [5, 3], lambda i: damage if i == damaged else coloured_jpeg(20 * i, 40)
        )
        config = load_config(tiny, [f"data={tmp_path}", "run_dir=run"])
        return batches_of(config, Manifest.load(tmp_path), World())

    loader, _ = batches(-1)
    (first,) = loader.order.ids(0, 1).tolist()
    _, picture = batches(first)
    grey = np.asarray(picture())[80, 80, 0]  # of the image itself, which is 160 px high
    assert grey == pytest.approx(20 * loader.reader.next_in_shard(first), abs=2)


def test_tiles_stand_in_rows_at_their_heights():
    red, blue = np.zeros((10, 20, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    sheet = np.asarray(grid([[red, blue], [blue]], [40, 12]))
    assert sheet.shape == (40 + GAP + 12, 80 + GAP + 40, 4)
    assert (sheet[:40, :80] == (255, 0, 0, 255)).all()
    assert (sheet[:40, 80 + GAP :] == (0, 0, 255, 255)).all()
    assert (sheet[40 + GAP :, :12] == (0, 0, 255, 255)).all()
    assert not sheet[40 + GAP :, 12:].any()
