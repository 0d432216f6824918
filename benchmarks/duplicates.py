"""How many planted copies `--dedup near` finds, how many different images it takes for copies, and
what it costs.

    python benchmarks/duplicates.py PHOTOS [OTHERS...] [--distance 8] [--hashes 1000000]

Every photograph of PHOTOS (a folder of any depth) is copied in each way, once; a copy is found if
the perceptual hashes are within the distance and the pixels are alike. False positives are counted
over all pairs of different photographs of PHOTOS and OTHERS; those that turn out to be copies by
eye have to be subtracted by hand, so the pairs are named.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from seer.data.decoding.decode import decode, image_suffixes
from shards.dedup.alike import alike, thumbnail
from shards.dedup.near import choose_blocks, near_duplicates
from shards.sources.phash import distance, phash

DISTANCES = 4, 6, 8, 10, 12


def jpeg(picture: np.ndarray, quality: int = 85) -> np.ndarray:
    return simplejpeg.decode_jpeg(
        simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=quality)
    )


def resized(picture: np.ndarray, scale: float) -> np.ndarray:
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=how)


def cropped(picture: np.ndarray, kept: float, seed: int) -> np.ndarray:
    """A part that has this share of both sides, anywhere in the picture."""
    height, width = (round(kept * side) for side in picture.shape[:2])
    draw = np.random.default_rng(seed)
    top, left = (
        draw.integers(0, picture.shape[0] - height + 1),
        draw.integers(0, picture.shape[1] - width + 1),
    )
    return picture[top : top + height, left : left + width]


def grey(picture: np.ndarray) -> np.ndarray:
    return np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)


COPIES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "JPEG quality 30": lambda picture, seed: jpeg(picture, 30),
    "half size": lambda picture, seed: jpeg(resized(picture, 0.5)),
    "quarter size": lambda picture, seed: jpeg(resized(picture, 0.25)),
    "1.5 times the size": lambda picture, seed: jpeg(resized(picture, 1.5)),
    "flipped": lambda picture, seed: jpeg(picture[:, ::-1]),
    "grey": lambda picture, seed: jpeg(grey(picture)),
    "brighter": lambda picture, seed: jpeg(cv2.convertScaleAbs(picture, alpha=1.2, beta=10)),
    "cropped, 5 % of the area": lambda picture, seed: jpeg(cropped(picture, 0.95**0.5, seed)),
    "cropped, 5 % of both sides": lambda picture, seed: jpeg(cropped(picture, 0.95, seed)),
    "cropped, 10 % of both sides": lambda picture, seed: jpeg(cropped(picture, 0.9, seed)),
}


def pictures(folder: Path) -> dict[Path, np.ndarray]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in image_suffixes())
    return {path: decode(path.read_bytes()) for path in paths}


def hashes(found: list[np.ndarray]) -> np.ndarray:
    return np.array([phash(np.ascontiguousarray(picture)) for picture in found], np.uint64)


def recall(photos: list[np.ndarray]) -> None:
    originals, thumbnails = hashes(photos), [thumbnail(photo) for photo in photos]
    print(
        f"| {len(photos)} photographs, distance ≤ | {' | '.join(map(str, DISTANCES))} | pixels alike |"
    )
    print("|---|" + "---:|" * (len(DISTANCES) + 1))
    for kind, copy in COPIES.items():
        copies = [np.ascontiguousarray(copy(photo, seed)) for seed, photo in enumerate(photos)]
        apart = distance(hashes(copies), originals)
        same = np.array(
            [
                alike(thumbnail(made), original)
                for made, original in zip(copies, thumbnails, strict=True)
            ]
        )
        shares = [f"{100 * ((apart <= most) & same).mean():.1f}" for most in DISTANCES]
        print(f"| {kind} | {' | '.join(shares)} | {100 * same.mean():.1f} |", flush=True)


def false_positives(named: dict[Path, np.ndarray], most: int) -> None:
    paths, values = list(named), hashes(list(named.values()))
    thumbnails = [thumbnail(picture) for picture in named.values()]
    candidates, confirmed = dict.fromkeys(DISTANCES, 0), dict.fromkeys(DISTANCES, 0)
    for i in range(len(values)):
        apart = distance(values[i + 1 :], values[i])
        for j in (i + 1 + np.flatnonzero(apart <= max(DISTANCES))).tolist():
            same, bits = alike(thumbnails[i], thumbnails[j]), int(distance(values[i], values[j]))
            for limit in DISTANCES:
                candidates[limit] += bits <= limit
                confirmed[limit] += same and bits <= limit
            if same and bits <= most:
                print(f"alike: {paths[i]} {paths[j]} (distance {bits})")
    pairs = len(values) * (len(values) - 1) // 2
    print(f"| {pairs:,} pairs of {len(values):,} images | {' | '.join(map(str, DISTANCES))} |")
    print("|---|" + "---:|" * len(DISTANCES))
    print(f"| hashes near | {' | '.join(str(candidates[limit]) for limit in DISTANCES)} |")
    print(
        f"| and pixels alike | {' | '.join(str(confirmed[limit]) for limit in DISTANCES)} |",
        flush=True,
    )


def cost(photos: list[np.ndarray], count: int, most: int) -> None:
    encoded = [simplejpeg.encode_jpeg(np.ascontiguousarray(photo), quality=90) for photo in photos]
    marks = [time.perf_counter()]
    decoded = [simplejpeg.decode_jpeg(data) for data in encoded]
    marks.append(time.perf_counter())
    hashes(decoded)
    marks.append(time.perf_counter())
    decoding, hashing = (later - earlier for earlier, later in pairwise(marks))
    print(
        f"hashing: {1e3 * hashing / len(photos):.3f} ms an image, {100 * hashing / decoding:.1f} % of decoding"
    )
    for size in (count // 10, count):
        random = np.random.default_rng(0).integers(1, 2**64, size, dtype=np.uint64)
        for limit in [bits for bits in DISTANCES if bits <= most]:
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as scratch:
                near_duplicates(random, limit, Path(scratch))
            seconds = time.perf_counter() - start
            print(
                f"look-up among {size:,}, distance {limit}: {seconds:.1f} s, {choose_blocks(2 * size, limit)} blocks"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("others", type=Path, nargs="*")
    parser.add_argument("--distance", type=int, default=8)
    parser.add_argument("--hashes", type=int, default=1_000_000)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    photos = pictures(arguments.photos)
    recall(list(photos.values()))
    false_positives(
        photos | {path: p for other in arguments.others for path, p in pictures(other).items()},
        arguments.distance,
    )
    cost(list(photos.values()), arguments.hashes, arguments.distance)


if __name__ == "__main__":
    main()
