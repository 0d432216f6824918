"""The pictures of the tests, and the files that hold them."""

import io
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image


def photograph(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    """`(H, W, 3)` uint8: smooth colour with an edge, different for every seed; JPEG keeps most of
    it.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    phase, frequency = rng.uniform(0, 6, (2, 3)), rng.uniform(2, 12, (2, 3))
    waves = np.sin(frequency[0] * x[..., None] + phase[0]) + np.sin(
        frequency[1] * y[..., None] + phase[1]
    )
    waves += (x[..., None] > rng.uniform(0.2, 0.8)) * rng.uniform(-1, 1, 3)
    return (127 + 40 * waves).clip(0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, quality: int = 92) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    return out.getvalue()


def pixels(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    """A smooth coloured picture, `(height, width, 3)` uint8."""
    corners = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC))


def encoded(
    seed: int, format: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = (24, 32), **options
) -> bytes:
    """That picture as a file's content."""
    file = io.BytesIO()
    Image.fromarray(pixels(seed, *size)).convert(mode).save(file, format, **options)
    return file.getvalue()


def coloured_jpeg(number: int, size: int = 16) -> bytes:
    """A JPEG of one flat grey that tells which sample it is (`number` modulo 256, to within the
    codec's error).
    """
    return simplejpeg.encode_jpeg(np.full((size, size, 3), number % 256, np.uint8), quality=100)


COLOURS = {"brick": (170, 90, 70), "moss": (100, 140, 80), "slate": (90, 100, 150)}


def write_images(
    folder: Path, per_class: int, seed: int, size: int = 24, noise: float = 40.0
) -> Path:
    """`folder/CLASS/000.png`: the class's colour, a tint of the image's own and noise."""
    random = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = (
                np.array(colour)
                + random.normal(0, noise, 3)
                + random.normal(0, 20, (size, size, 3))
            )
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
                folder / name / f"{i:03d}.png"
            )
    return folder


@cache
def bomb(side: int = 60_000) -> bytes:
    """A valid PNG of `side` × `side` black pixels, one bit each."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    row = bytes(1 + (side + 7) // 8)
    packer = zlib.compressobj(1)
    body = b"".join(packer.compress(row * 1000) for _ in range(side // 1000)) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
