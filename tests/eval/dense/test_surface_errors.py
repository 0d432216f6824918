"""Errors of normals and depth against plain loops over pixels, in float64."""

import math

import numpy as np
import pytest

from seer.eval.dense.surface_errors import (
    Angles,
    Depths,
    angles_between,
    depth_scores,
    median_of,
    normal_scores,
)


def guesses(images: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Truths `(6, 5, 3)` with holes, and guesses of other lengths near them."""
    rng = np.random.default_rng(1)
    pairs = []
    for number in range(images):
        truth = rng.normal(size=(6, 5, 3))
        truth /= np.linalg.norm(truth, axis=-1, keepdims=True)
        guess = 2 * truth + 0.2 * (number + 1) * rng.normal(size=(6, 5, 3))
        truth[0, number % 5] = np.nan
        pairs.append((truth, guess))
    return pairs


def degrees(first: np.ndarray, second: np.ndarray) -> float:
    dot = sum(a * b for a, b in zip(first.tolist(), second.tolist(), strict=True))
    cosine = dot / (math.hypot(*first) * math.hypot(*second))
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def test_angular_errors_are_those_of_a_plain_loop():
    pairs = guesses(7)
    errors = []
    for truth, guess in pairs:
        for first, second in zip(truth.reshape(-1, 3), guess.reshape(-1, 3), strict=True):
            if np.isfinite(first).all():
                errors.append(degrees(first, second))
    images = [Angles.of(angles_between(*pair)) for pair in pairs]
    scores = {score.metric: score for score in normal_scores(images, {"steps": 3})}
    count = len(errors)
    assert count == 7 * 29 == sum(image.pixels for image in images)
    assert scores["mean"].value == pytest.approx(sum(errors) / count, abs=1e-9)
    rms = math.sqrt(sum(error**2 for error in errors) / count)
    assert scores["rms"].value == pytest.approx(rms, abs=1e-9)
    assert abs(scores["median"].value - sorted(errors)[count // 2]) < 0.02
    for limit in (11.25, 22.5, 30.0):
        share = sum(error < limit for error in errors) / count
        assert 0 < share < 1
        assert scores[f"within_{limit:g}"].value == share
    for score in scores.values():
        assert score.low < score.value < score.high
        assert score.better == ("higher" if score.unit == "share" else "lower")
        assert score.details == {"steps": 3}
    assert [score.metric for score in scores.values() if score.headline] == ["within_11.25"]


def test_medians_of_many_pixels_are_those_of_numpy():
    rng = np.random.default_rng(0)
    for errors in (rng.uniform(0, 180, 100_001), 20 * rng.rayleigh(size=40_000), np.full(5, 180.0)):
        clipped = np.minimum(errors, 180)
        bins = Angles.of(clipped).bins
        assert abs(median_of(bins[None])[0] - np.median(clipped)) <= 0.02
    halves = [Angles.of(part).bins for part in np.split(clipped, [2])]
    assert median_of(np.sum(halves, 0)[None])[0] == median_of(bins[None])[0]


def test_angles_of_equal_and_opposite_normals_have_all_their_digits():
    normal = np.array([[[0.6, 0.0, -0.8]]], np.float32)
    tilted = normal + np.array([0.8, 0.0, 0.6], np.float32) * 1e-4
    assert angles_between(normal, normal)[0, 0] == 0
    assert angles_between(normal, -normal)[0, 0] == 180
    assert angles_between(normal, tilted)[0, 0] == pytest.approx(math.degrees(1e-4), rel=1e-3)


def test_depth_errors_are_those_of_a_plain_loop():
    rng = np.random.default_rng(2)
    images = []
    square = relative = close = count = 0.0
    for _ in range(5):
        truth = rng.uniform(0.5, 9, (4, 6))
        guess = truth * rng.uniform(0.6, 1.5, (4, 6))
        truth[1, 2] = np.nan
        images.append(Depths.of(truth, guess))
        for metres, predicted in zip(truth.flat, guess.flat, strict=True):
            if math.isfinite(metres):
                count += 1
                square += (predicted - metres) ** 2
                relative += abs(predicted - metres) / metres
                close += max(predicted / metres, metres / predicted) < 1.25
    scores = {score.metric: score for score in depth_scores(images, {})}
    assert count == 5 * 23
    assert scores["rmse"].value == pytest.approx(math.sqrt(square / count))
    assert scores["abs_rel"].value == pytest.approx(relative / count)
    assert scores["delta1"].value == close / count
    assert scores["delta1"].headline


def test_images_without_a_known_pixel_change_nothing():
    pairs = guesses(3)
    images = [Angles.of(angles_between(*pair)) for pair in pairs]
    none = Angles.of(np.full((4, 4), np.nan))
    with_none = normal_scores([*images, none], {})
    for score, wanted in zip(with_none, normal_scores(images, {}), strict=True):
        assert score.value == wanted.value
