"""A 64-bit perceptual hash: the signs of an image's 64 lowest spatial frequencies.

Copies of one picture (recompressed, resized, greyed, slightly cropped) differ in few bits,
different pictures in about half of them. A mirrored picture has the same hash but for the bits of
`MIRROR`, because mirroring changes the sign of just those frequencies; so one hash per image serves
to look up both. `shards/README.md` has measured rates.

Everything after the reduction to 32 × 32 pixels is integer arithmetic, so equal pixels give equal
bits on any machine.
"""

import cv2
import numpy as np

SIDE = 32  # pixels that the hash is computed from, each way
SAMPLED = 192  # of a larger picture so many points each way are looked at: averaging all of it would cost 4 times more
LUMA = np.array([77, 150, 29])  # Rec. 601 weights of red, green and blue, in 256ths
LEAST_CONTRAST = (
    1.5  # grey levels of mean absolute deviation; below it the signs would be those of noise
)
FEATURELESS = 0  # the hash of a picture without contrast; it is near to none

# Frequencies (vertical, horizontal) as half periods per picture, the lowest first, without the
# mean.
FREQUENCIES = sorted(
    ((u, v) for u in range(SIDE) for v in range(SIDE)), key=lambda uv: (uv[0] ** 2 + uv[1] ** 2, uv)
)
FREQUENCIES = FREQUENCIES[1:65]
U, V = np.array(FREQUENCIES).T
WEIGHTS = np.left_shift(np.uint64(1), np.arange(64, dtype=np.uint64))
# Horizontal frequencies with an odd number of half periods.
MIRROR = WEIGHTS[V % 2 == 1].sum(dtype=np.uint64)


def _basis() -> np.ndarray:
    """`(frequencies, SIDE)` int64: cosines, faded out towards the edges, which a crop moves most."""
    centres = (np.arange(SIDE) + 0.5) / SIDE
    waves = np.cos(np.pi * np.arange(V.max() + 1)[:, None] * centres)
    return np.rint(4096 * waves * np.sin(np.pi * centres) ** 0.5).astype(np.int64)


BASIS = _basis()


def phash(pixels: np.ndarray) -> int:
    """The hash of `(H, W, 3)` uint8 RGB; `FEATURELESS` for a picture without contrast."""
    height, width = pixels.shape[:2]
    if max(height, width) > SAMPLED:
        sampled = (min(width, SAMPLED), min(height, SAMPLED))
        pixels = cv2.resize(pixels, sampled, interpolation=cv2.INTER_LINEAR)
    small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    luma = small.astype(np.int64) @ LUMA
    centred = luma * luma.size - luma.sum()
    contrast = np.abs(centred).sum()
    if contrast < LEAST_CONTRAST * LUMA.sum() * luma.size**2:
        return FEATURELESS
    spectrum = BASIS @ centred @ BASIS.T
    bits = WEIGHTS[spectrum[U, V] > 0]
    return int(bits.sum(dtype=np.uint64))


def canonical(hashes: np.ndarray) -> np.ndarray:
    """uint64 hashes, of a hash and its mirror image's the smaller one: a picture and its reflection
    become equal.
    """
    return np.minimum(hashes, hashes ^ MIRROR)


def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Bits in which two uint64 hashes differ, 0 to 64, or one and the other's mirror image if these
    are fewer.
    """
    difference = one ^ other
    return np.minimum(np.bitwise_count(difference), np.bitwise_count(difference ^ MIRROR))
