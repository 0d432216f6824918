"""Pictures as the page shows them: decoded, made small, encoded anew. Bytes of a data set are never
sent as they are.
"""

from collections import OrderedDict
from threading import Lock

import cv2
import numpy as np
import simplejpeg

from seer.browse.collection import Collection
from seer.data.decoding.decode import DamagedImage, decode, probe

SIDES = {"thumb": 160, "image": 1024}  # px of the longer side, at most
QUALITY = 85
KEPT = 128 * 2**20  # bytes of pictures in memory
GREY = np.full((32, 32, 3), 128, np.uint8)  # in place of what can no longer be decoded


class Thumbnails:
    """JPEGs of a collection's images, the last of them kept. Safe to share between threads."""

    def __init__(self, collection: Collection, kept: int = KEPT):
        self._collection = collection
        self._kept = kept
        self._size = 0
        self._pictures: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._lock = Lock()

    def jpeg(self, row: int, side: int) -> bytes:
        """An image with a longer side of at most `side` px."""
        with self._lock:
            if picture := self._pictures.get((row, side)):
                self._pictures.move_to_end((row, side))
                return picture
        picture = self._made(row, side)
        with self._lock:
            if (row, side) not in self._pictures:
                self._size += len(picture)
            self._pictures[row, side] = picture
            while self._size > self._kept:
                _, oldest = self._pictures.popitem(last=False)
                self._size -= len(oldest)
        return picture

    def _made(self, row: int, side: int) -> bytes:
        try:
            content = self._collection.bytes(row)
            info = probe(content)
            longer = max(info.width, info.height)
            reduction = next((r for r in (8, 4, 2) if longer >= r * side), 1)
            return small_jpeg(decode(content, reduction=reduction), side)
        except DamagedImage:
            return small_jpeg(GREY, side)


def small_jpeg(pixels: np.ndarray, side: int) -> bytes:
    """Pixels `(H, W, 3)` as a JPEG with a longer side of at most `side` px, none enlarged."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=QUALITY)
