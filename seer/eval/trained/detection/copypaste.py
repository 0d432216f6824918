"""Simple copy-paste (Ghiasi et al. 2021, arXiv:2012.07177): objects of another image, by their masks, on
an image whose own objects they hide.
"""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Scene:
    """An image and its objects.

    Attributes:
        pixels: `(H, W, 3)` uint8.
        boxes: `(n, 4)` float32 x, y of two corners; labels: `(n,)`; masks: `(n, H, W)` uint8 of 0 and 1, or None.
    """

    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None

    def some(self, chosen: np.ndarray) -> "Scene":
        """With some of the objects, by numbers or `(n,)` bool."""
        masks = None if self.masks is None else self.masks[chosen]
        return replace(self, boxes=self.boxes[chosen], labels=self.labels[chosen], masks=masks)


def pasted(scene: Scene, source: Scene) -> Scene:
    """The objects of `source` on `scene`, of one size: those of `scene` that are hidden are gone, and what
    is left of others is their mask; boxes are those of the masks.
    """
    assert scene.masks is not None
    assert source.masks is not None
    above = np.any(source.masks, axis=0)
    pixels = np.where(above[:, :, None], source.pixels, scene.pixels)
    masks = np.concatenate([scene.masks * ~above, source.masks])
    labels = np.concatenate([scene.labels, source.labels])
    left = Scene(pixels, np.empty((len(masks), 4), np.float32), labels, masks)
    left = left.some(np.any(masks, axis=(1, 2)))
    assert left.masks is not None
    return replace(left, boxes=bounds(left.masks))


def bounds(masks: np.ndarray) -> np.ndarray:
    """`(n, 4)` float32 boxes of masks `(n, H, W)`, each of which has a pixel; their last pixels within."""
    boxes = np.empty((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows = np.flatnonzero(mask.any(1))
        columns = np.flatnonzero(mask.any(0))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def on_canvas(scene: Scene, side: int, colour: np.ndarray) -> Scene:
    """In the upper left corner of a square of one colour."""
    assert scene.masks is not None
    height, width = scene.pixels.shape[:2]
    pixels = np.empty((side, side, 3), np.uint8)
    pixels[:] = colour
    pixels[:height, :width] = scene.pixels
    masks = np.zeros((len(scene.masks), side, side), np.uint8)
    masks[:, :height, :width] = scene.masks
    return replace(scene, pixels=pixels, masks=masks)
