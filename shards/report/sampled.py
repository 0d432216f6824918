"""A few images of a data set, drawn at random, the same ones each time."""

from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import simplejpeg

from seer.data.decoding.decode import DamagedImage, decode
from seer.data.hashing import mix
from seer.data.storage.index import Manifest
from shards.archives import tars


def draw(manifest: Manifest, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """`(key, pixels)` of up to `count` different images; those that cannot be read or decoded are
    left out.
    """
    drawn = mix(np.arange(2 * count + 16)) % np.uint64(manifest.samples)
    different = list(dict.fromkeys(drawn.tolist()))
    for _, key, pixels in pictures_at(manifest, different[:count]):
        yield key, pixels


def pictures_at(manifest: Manifest, places: Iterable[int]) -> Iterator[tuple[int, str, np.ndarray]]:
    """`(place, key, pixels)` of the images at some global ids, each once, by rising place; those
    that cannot be read or decoded are left out.
    """
    for place, shard, row in rows_at(manifest, places, ["key", "offset", "size"]):
        try:
            data = tars.read_range(shard, row["offset"], row["size"])
            yield place, row["key"], decode(data)
        except (OSError, DamagedImage):
            continue


def rows_at(
    manifest: Manifest, places: Iterable[int], columns: list[str]
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """`(place, path of the shard, row of the index)` of the samples at some global ids, likewise."""
    chosen = np.array(sorted(set(places)), np.int64)
    ends = np.cumsum(manifest.sizes)
    starts = ends - manifest.sizes
    shard_of = np.searchsorted(ends, chosen, side="right")
    for number in np.unique(shard_of).tolist():
        path = str(manifest.directory / manifest.shards[number])
        table = manifest.index(number, columns)
        of_shard = chosen[shard_of == number]
        rows = table.take(pa.array(of_shard - starts[number])).to_pylist()
        for place, row in zip(of_shard.tolist(), rows, strict=True):
            yield place, path, row


def colour(manifest: Manifest, count: int) -> dict[str, Any]:
    """Mean and standard deviation of red, green and blue over the pixels of a sample, each image
    weighing the same.
    """
    moments = []
    for _, pixels in draw(manifest, count):
        mean, deviation = (value[:3, 0] for value in cv2.meanStdDev(pixels))
        moments.append((mean, deviation**2 + mean**2))
    if not moments:
        return {"images": 0, "mean": None, "std": None}
    mean, square = np.mean(moments, axis=0)
    std = np.sqrt(np.maximum(square - mean**2, 0))
    return {
        "images": len(moments),
        "mean": np.round(mean, 2).tolist(),
        "std": np.round(std, 2).tolist(),
    }


def thumbnail(pixels: np.ndarray, side: int) -> bytes:
    """The middle square of an image, `side` pixels each way, as JPEG."""
    height, width = pixels.shape[:2]
    edge = min(height, width)
    top = (height - edge) // 2
    left = (width - edge) // 2
    square = cv2.resize(
        pixels[top : top + edge, left : left + edge], (side, side), interpolation=cv2.INTER_AREA
    )
    return simplejpeg.encode_jpeg(np.ascontiguousarray(square), quality=80)


def reduced(pixels: np.ndarray, side: int) -> bytes:
    """The whole image, its longer side `side` pixels at most, as JPEG."""
    height, width = pixels.shape[:2]
    factor = min(1.0, side / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(small), quality=80)
