"""What a method is shown, as a picture for the report."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from seer.data.crops.multicrop import MultiCrop
from seer.data.decoding.decode import DamagedImage, decode
from seer.data.order import Order
from seer.data.storage.reader import Reader
from seer.pretrain.recipe import Pretrain

GAP = 6  # px


def picture_of_crops(
    reader: Reader, order: Order, crops: MultiCrop, config: Pretrain
) -> Image.Image:
    """The first image, or what replaces it if it is damaged, and what the method sees of it: the
    image with its large crops, then a row for each smaller size.
    """
    number = order.ids(0, 1)
    (sample,) = reader.read_samples(number, crops.suffixes)
    try:
        image, extras = decode(sample.image), sample.extras
    except DamagedImage as damage:
        instead = reader.replacement(int(number[0]), damage.reason, crops.suffixes)
        image, extras = instead.image, instead.extras
    batch = crops([image], np.zeros(1, np.int64), number, [extras])
    views = crops.finish(batch, "cpu")
    mean = torch.tensor(config.mean).view(3, 1, 1)
    std = torch.tensor(config.std).view(3, 1, 1)
    largest = views.crops[0].shape[-1]
    rows = []
    heights = []
    for group in views.crops:
        pixels = (group[:, 0] * std + mean) * 255
        pixels = pixels.round().clamp(0, 255).to(torch.uint8)
        pictures = pixels.permute(0, 2, 3, 1).numpy()
        rows.append(list(pictures))
        heights.append(160 * group.shape[-1] // largest)
    rows[0].insert(0, image)
    return grid(rows, heights)


def grid(rows: Sequence[Sequence[np.ndarray]], heights: Sequence[int]) -> Image.Image:
    """Rows of `(H, W, 3)` uint8 images, each row scaled to its height in pixels, on a transparent
    ground.
    """
    tiles = [
        [_scaled(image, height) for image in row] for row, height in zip(rows, heights, strict=True)
    ]
    width = max(sum(tile.width + GAP for tile in row) for row in tiles) - GAP
    sheet = Image.new("RGBA", (width, sum(height + GAP for height in heights) - GAP), (0, 0, 0, 0))
    y = 0
    for row, height in zip(tiles, heights, strict=True):
        x = 0
        for tile in row:
            sheet.paste(tile, (x, y))
            x += tile.width + GAP
        y += height + GAP
    return sheet


def _scaled(image: np.ndarray, height: int) -> Image.Image:
    enlarged = height > 2 * image.shape[0]  # then show the pixels as they are
    size = max(1, round(image.shape[1] * height / image.shape[0])), height
    return Image.fromarray(image).resize(
        size, Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    )
