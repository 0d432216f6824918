"""Metrics of dense predictions against plain loops."""

import math

import numpy as np
import pytest

from seer.eval.dense.pixel_errors import Confusion, angles_between, angular_errors, depth_errors


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


def test_angular_errors_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(6, 5, 3))
    guess = truth + 0.3 * rng.normal(size=(6, 5, 3))
    truth[0, 0] = np.nan
    truth[1, 1] = 0
    errors = []
    for first, second in zip(truth.reshape(-1, 3), guess.reshape(-1, 3), strict=True):
        if np.isfinite(first).all() and first.any():
            dot = sum(a * b for a, b in zip(first, second, strict=True))
            errors.append(math.degrees(math.acos(dot / math.hypot(*first) / math.hypot(*second))))
    result = angular_errors(angles_between(truth, guess))
    assert len(errors) == 28
    assert result["mean"] == pytest.approx(sum(errors) / 28)
    assert result["median"] == pytest.approx(sum(sorted(errors)[13:15]) / 2)
    assert result["rms"] == pytest.approx(math.sqrt(sum(e * e for e in errors) / 28))
    assert result["within_11.25"] == pytest.approx(sum(e < 11.25 for e in errors) / 28)
    assert result["within_30"] == pytest.approx(sum(e < 30 for e in errors) / 28)


def test_depth_errors_by_hand_and_holes_are_left_out() -> None:
    truth = np.array([1.0, 2.0, 4.0, 0.0, np.nan])
    guess = np.array([1.1, 2.0, 2.0, 9.0, 9.0])
    errors = depth_errors(truth, guess)
    assert errors["abs_rel"] == pytest.approx((0.1 + 0 + 0.5) / 3)
    assert errors["rmse"] == pytest.approx(math.sqrt((0.01 + 4) / 3))
    assert errors["delta1"] == pytest.approx(2 / 3)
