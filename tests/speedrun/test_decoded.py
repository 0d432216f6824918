"""Data sets in memory: what is read, in an order that tells no class, and what is refused."""

import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from seer.errors import InputError
from seer.speedrun import decoded
from tests.kit.pictures import write_images


@pytest.fixture
def data(tmp_path):
    write_images(tmp_path / "train", 4, 0)
    write_images(tmp_path / "test", 2, 1)
    return tmp_path


def test_every_image_is_there_with_its_class(data):
    pixels, labels = decoded.read(data)
    assert pixels.train.shape == (12, 24, 24, 3)
    assert pixels.test.shape == (6, 24, 24, 3)
    assert labels.classes == 3
    expected = {
        (np.asarray(Image.open(path)).tobytes(), number)
        for number, name in enumerate(sorted(path.name for path in (data / "train").iterdir()))
        for path in (data / "train" / name).iterdir()
    }
    made = zip(pixels.train, labels.train.tolist(), strict=True)
    assert {(image.numpy().tobytes(), label) for image, label in made} == expected


def test_images_come_in_one_order_whatever_their_classes_are_called(data):
    pixels, labels = decoded.read(data)
    for split in ("train", "test"):
        (data / split / "brick").rename(data / split / "zinc")
    renamed, others = decoded.read(data)
    assert (renamed.train == pixels.train).all()
    assert (others.train != labels.train).any()


def test_sizes_must_be_one(data):
    write_images(data / "more", 1, 0, size=20)
    shutil.copy(data / "more/moss/000.png", data / "train/moss/x.png")
    with pytest.raises(InputError, match=r"moss/x.png is 20×20 and others are 24×24"):
        decoded.read(data)
    shutil.rmtree(data / "train")
    shutil.move(data / "more", data / "train")
    with pytest.raises(InputError, match="training images are 20×20 and test images 24×24"):
        decoded.read(data)


def test_both_splits_must_be_there_with_the_same_classes(data):
    (data / "train/moss").rename(data / "train/fern")
    with pytest.raises(InputError, match="test class 'moss' has no training images"):
        decoded.read(data)
    shutil.rmtree(data / "test")
    with pytest.raises(InputError, match="has no folder test/ or val/"):
        decoded.read(data)


def test_what_is_larger_than_the_memory_is_refused_before_it_is_decoded(data, monkeypatch):
    sizes = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 50_000}  # of which half are less than the images
    monkeypatch.setattr(decoded.os, "sysconf", sizes.__getitem__)
    with pytest.raises(InputError, match="half of them for the images"):
        decoded.read(data)


def test_a_pickle_that_is_not_the_published_one_is_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    folder = tmp_path / decoded.PICKLED
    folder.mkdir()
    for name in ("batches.meta", "test_batch", *(f"data_batch_{n}" for n in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps(Bomb()))
    for data in (tmp_path, folder):
        with pytest.raises(InputError, match="not CIFAR-10 as published"):
            decoded.read(data)
    assert not (tmp_path / "ran").exists()
