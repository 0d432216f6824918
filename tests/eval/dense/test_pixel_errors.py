"""Metrics of dense predictions against plain loops."""

import math

import numpy as np
import pytest

from seer.eval.dense.pixel_errors import Confusion


def test_miou_is_that_of_a_plain_loop_and_void_pixels_are_left_out() -> None:
    rng = np.random.default_rng(0)
    truths = rng.integers(-1, 4, (3, 9, 7))  # class 4 is never there
    guesses = rng.integers(0, 4, (3, 9, 7))
    confusion = Confusion(5)
    for truth, guess in zip(truths, guesses, strict=True):
        confusion.add(truth, guess)

    shares = []
    hits = 0
    for name in range(4):
        both = 0
        either = 0
        for truth, guess in zip(truths.flat, guesses.flat, strict=True):
            if truth >= 0:
                both += truth == guess == name
                either += name in (truth, guess)
        shares.append(both / either)
        hits += both
    void = sum(int(value) < 0 for value in truths.flat)
    assert confusion.by_class()[:4] == pytest.approx(shares)
    assert math.isnan(confusion.by_class()[4])
    assert confusion.miou() == pytest.approx(sum(shares) / 4)
    assert confusion.pixel_accuracy() == pytest.approx(hits / (truths.size - void))
    assert confusion.void == void
