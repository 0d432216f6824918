import cv2
import numpy as np
import pytest

from shards.dedup.alike import SIDE, alike, thumbnail
from tests.shards.sources.test_phash import COPIES, cropped, photos

GROUND = np.full((480, 640, 3), 40, np.uint8)


def logo(draw) -> np.ndarray:
    """A small bright thing in the middle of a plain ground: what perceptual hashes of few bits
    confuse.
    """
    picture = GROUND.copy()
    draw(picture)
    return picture


LOGOS = [
    logo(lambda picture: cv2.circle(picture, (320, 240), 40, (240, 240, 240), -1)),
    logo(
        lambda picture: cv2.putText(
            picture, "seer", (250, 260), cv2.FONT_HERSHEY_SIMPLEX, 2, (250, 200, 90), 5
        )
    ),
    logo(lambda picture: cv2.rectangle(picture, (270, 180), (370, 300), (90, 200, 240), 6)),
    logo(
        lambda picture: cv2.fillPoly(
            picture, [np.array([[320, 190], [265, 280], [375, 280]])], (120, 240, 120)
        )
    ),
]


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_alike(kind):
    thumbnails = [
        (thumbnail(photo), thumbnail(np.ascontiguousarray(COPIES[kind](photo))))
        for photo in photos()
    ]
    assert sum(alike(*pair) for pair in thumbnails) >= (13 if kind == "cropped" else 14)
    assert sum(alike(copy, original) for original, copy in thumbnails) >= (
        13 if kind == "cropped" else 14
    )


def test_different_pictures_are_not():
    thumbnails = [thumbnail(picture) for picture in [*photos(), *LOGOS]]
    for i, one in enumerate(thumbnails):
        assert [alike(one, other) for other in thumbnails] == [
            i == j for j in range(len(thumbnails))
        ]


def test_a_large_crop_is_another_picture():
    assert sum(alike(thumbnail(photo), thumbnail(cropped(photo, 0.6))) for photo in photos()) <= 1


def test_plain_pictures_are_like_nothing():
    plain = np.zeros((SIDE, SIDE), np.uint8)
    assert not alike(plain, plain)
    assert not alike(plain, thumbnail(photos()[0]))


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 900, 3), (900, 3, 3)])
def test_thumbnails_of_any_shape(shape):
    assert thumbnail(np.full(shape, 77, np.uint8)).tolist() == np.full((SIDE, SIDE), 77).tolist()
