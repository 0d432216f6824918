from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
import pytest
import scipy.fft
import simplejpeg

from seer.data.storage.index import Manifest, index_path, read_index
from seer.quickstart.pictures import photographs
from shards.build import BuildOptions, build
from shards.indexing import index
from shards.sources.phash import FEATURELESS, FREQUENCIES, MIRROR, SIDE, canonical, distance, phash
from tests.kit.pictures import pixels


@cache
def photos() -> list[np.ndarray]:
    return list(photographs().values())


def hashes(pictures) -> np.ndarray:
    return np.array([phash(np.ascontiguousarray(picture)) for picture in pictures], np.uint64)


def jpeg(picture: np.ndarray, quality: int = 85) -> np.ndarray:
    return simplejpeg.decode_jpeg(
        simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=quality)
    )


def resized(picture: np.ndarray, scale: float) -> np.ndarray:
    return cv2.resize(
        picture,
        None,
        fx=scale,
        fy=scale,
        interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC,
    )


def cropped(picture: np.ndarray, area: float) -> np.ndarray:
    """The picture less this share of its area, taken off at the right and below."""
    height, width = picture.shape[:2]
    return picture[: round(height * (1 - area) ** 0.5), : round(width * (1 - area) ** 0.5)]


def grey(picture: np.ndarray) -> np.ndarray:
    return np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "recompressed": lambda picture: jpeg(picture, 30),
    "half": lambda picture: jpeg(resized(picture, 0.5)),
    "quarter": lambda picture: jpeg(resized(picture, 0.25)),
    "enlarged": lambda picture: jpeg(resized(picture, 1.5)),
    "flipped": lambda picture: jpeg(picture[:, ::-1]),
    "grey": lambda picture: jpeg(grey(picture)),
    "cropped": lambda picture: jpeg(cropped(picture, 0.05)),
}


@pytest.mark.parametrize("kind", COPIES)
def test_planted_copies_are_near_and_other_photographs_are_not(kind):
    """Recall and false positives on more photographs are in shards/README.md; these come with the
    dependencies.
    """
    originals, copies = hashes(photos()), hashes(map(COPIES[kind], photos()))
    apart = distance(originals[:, None], copies[None])
    own, others = np.diag(apart), apart[~np.eye(len(apart), dtype=bool)]
    assert (own <= 8).mean() >= (0.7 if kind == "cropped" else 1.0)
    assert others.min() >= 16


def test_signs_are_those_of_a_cosine_transform():
    picture = photos()[0]
    small = cv2.resize(
        cv2.resize(picture, (192, 192)), (SIDE, SIDE), interpolation=cv2.INTER_AREA
    ) @ [77, 150, 29]
    window = np.sin(np.pi * (np.arange(SIDE) + 0.5) / SIDE) ** 0.5
    spectrum = scipy.fft.dctn((small - small.mean()) * window * window[:, None], type=2)
    value, clear = phash(picture), 0
    for place, frequency in enumerate(FREQUENCIES):
        if abs(spectrum[frequency]) > np.abs(spectrum).max() / 1000:
            clear += 1
            assert bool(value >> place & 1) == (spectrum[frequency] > 0), frequency
    assert clear > 55


def test_frequencies_are_the_lowest_but_the_mean():
    assert len(set(FREQUENCIES)) == 64
    assert (0, 0) not in FREQUENCIES
    worst = max(u * u + v * v for u, v in FREQUENCIES)
    assert {(u, v) for u in range(12) for v in range(12) if 0 < u * u + v * v < worst} <= set(
        FREQUENCIES
    )


def test_a_mirrored_picture_has_the_mirrored_hash():
    plain, mirrored = hashes(photos()), hashes(picture[:, ::-1] for picture in photos())
    assert (plain ^ mirrored == MIRROR).all()
    assert (canonical(plain) == canonical(mirrored)).all()
    assert (distance(plain, mirrored) == 0).all()


@pytest.mark.parametrize("shape", [(40, 60, 3), (300, 400, 3), (1, 1, 3), (500, 2, 3)])
def test_without_contrast_there_is_no_hash(shape):
    draw = np.random.default_rng(0)
    assert phash(np.full(shape, 255, np.uint8)) == FEATURELESS
    assert phash(jpeg(200 + draw.integers(0, 2, shape, dtype=np.uint8))) == FEATURELESS


def test_pictures_of_any_shape_have_one():
    for height, width in [(1, 500), (500, 1), (2, 2), (33, 31), (191, 193), (20, 4000)]:
        assert phash(pixels(1, height, width)) != FEATURELESS


def test_building_and_indexing_record_it(
    photos, tmp_path
):  # the fixture: small JPEGs in class folders
    build([photos], tmp_path / "out", BuildOptions(workers=1, shard_size=10))
    built = [
        read_index(index_path(tmp_path / "out" / shard))
        for shard in Manifest.load(tmp_path / "out").shards
    ]
    for table in built:
        expected = [
            phash(simplejpeg.decode_jpeg((photos / s).read_bytes()))
            for s in table["source"].to_pylist()
        ]
        assert table["phash"].to_pylist() == expected
    for path in tmp_path.glob("out/*.parquet"):
        path.unlink()
    index([tmp_path / "out"], workers=1, check=False)
    path = index_path(tmp_path / "out" / "shard-000000.tar")
    assert read_index(path)["phash"].null_count == 10
    assert index([tmp_path / "out"], workers=1).indexed == 2  # headers alone do not give it
    assert read_index(path)["phash"].equals(built[0]["phash"])
    assert index([tmp_path / "out"], workers=1).indexed == 0
