"""How long tasks take, told from what they compute."""

from types import SimpleNamespace

import numpy as np
import pytest

from seer.eval.transfer import forecast
from seer.eval.transfer.forecast import KINDS, OVERHEAD, Forecast

RATE = 1e9  # products a second
FORWARDS = 50.0  # images a second
DECODE = 0.03  # seconds an image
SIDE = 224  # of the network's images


class Images:
    def __init__(self, count: int):
        self.count = count
        self.classes = ["a", "b", "c"]

    def __len__(self) -> int:
        return self.count


@pytest.fixture
def estimate(monkeypatch):
    """Of a task on so many training and test images, and so many features: its estimate."""
    monkeypatch.setattr(forecast, "products_per_second", lambda device: RATE)
    monkeypatch.setattr(Forecast, "_seconds_to_decode", lambda *given: DECODE)

    def estimate_of(task: str, train: int, test: int, dimensions: int, *options: str):
        images = SimpleNamespace(train=Images(train), test=Images(test))
        journal = SimpleNamespace(images=lambda place, task: images)
        cell = SimpleNamespace(
            task=task, options=options, model="net", place=SimpleNamespace(data="data")
        )
        model = SimpleNamespace(
            name="net", dimensions=dimensions, images_per_second=FORWARDS, size=SIDE
        )
        return next(Forecast(journal, "cpu").of([(cell, model)]))

    return estimate_of


def test_calibration_searches_as_logistic_regression_does(estimate):
    first = estimate("logreg", 500, 100, 64, "count=9")
    second = estimate("calibration", 500, 100, 64, "count=9")
    assert second.task == pytest.approx(first.task)
    assert second.task > OVERHEAD


def test_geometry_is_of_all_pairs_of_test_images(estimate):
    seconds = [estimate("geometry", 10, count, 8).task - OVERHEAD for count in (10**5, 2 * 10**5)]
    assert np.log2(seconds[1] / seconds[0]) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize(
    ("options", "pixels"),
    [
        ((), 512 * 512),
        (("crop=[]", "short_sides=[300,450,600]"), 450 * 450 * 4 / 3),
    ],
)
def test_a_dense_training_is_of_its_images_pixels(estimate, options, pixels):
    told = estimate("segment", 100, 10, 8, "epochs=2", *options)
    each = pixels / SIDE**2 / FORWARDS + DECODE
    assert told.task == pytest.approx(OVERHEAD + 3 * 2 * 100 * each)
    assert estimate("denselinear", 100, 10, 8).task == pytest.approx(
        OVERHEAD + 110 * (1 / FORWARDS + DECODE)
    )


def test_invariance_passes_each_kind_of_image_forward_and_keeps_none(estimate):
    for images, seen in ((30, 30), (300, 100)):
        told = estimate("invariance", 999, 100, 64, f"images={images}")
        assert told.features == 0
        assert told.task == pytest.approx(OVERHEAD + KINDS * seen * (1 / FORWARDS + DECODE))
