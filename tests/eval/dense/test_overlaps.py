"""mIoU, against a plain loop."""

import numpy as np
import pytest

from seer.errors import InputError
from seer.eval.dense.overlaps import overlap_scores, overlaps

NAMES = ["a", "b", "c", "never"]


def pictures(count: int = 6) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    truth = [rng.integers(-1, 3, (5, 7)) for _ in range(count)]
    return [(t, np.where(rng.random((5, 7)) < 0.6, np.abs(t), 1)) for t in truth]


def by_hand(pairs) -> dict[str, float]:
    """Every pixel, one by one."""
    hit, union, of_class, right, known = {}, {}, {}, 0, 0
    for truth, decided in pairs:
        for t, d in zip(truth.flat, decided.flat, strict=True):
            if t < 0:
                continue
            known += 1
            right += t == d
            of_class[t] = of_class.get(t, 0) + 1
            for label in {t, d}:
                union[label] = union.get(label, 0) + 1
            if t == d:
                hit[t] = hit.get(t, 0) + 1
    return {
        "miou": np.mean([hit.get(c, 0) / union[c] for c in union]),
        "pixel_accuracy": right / known,
        "mean_accuracy": np.mean([hit.get(c, 0) / of_class[c] for c in of_class]),
    }


def test_scores_are_those_of_a_plain_loop():
    pairs = pictures()
    rows = [overlaps(t, d, len(NAMES)) for t, d in pairs]
    scores = {score.metric: score for score in overlap_scores(rows, NAMES, {"steps": 3})}
    for name, value in by_hand(pairs).items():
        assert scores[name].value == pytest.approx(value)
        assert scores[name].low <= value <= scores[name].high
    details = scores["miou"].details
    assert details["by_class"]["never"] is None
    assert details["void_pixels"] == sum((t < 0).sum() for t, _ in pairs)
    assert details["pixels"] + details["void_pixels"] == 6 * 35
    assert details["steps"] == 3
    assert [s.metric for s in scores.values() if s.headline] == ["miou"]


def test_of_one_image_the_interval_is_its_value():
    rows = [overlaps(t, d, len(NAMES)) for t, d in pictures(1)]
    for score in overlap_scores(rows, NAMES, {}):
        assert score.low == pytest.approx(score.value) == score.high


def test_nothing_to_score_is_one_line():
    nothing = overlaps(np.full((2, 2), -1), np.zeros((2, 2), int), 2)
    assert nothing.miou() == 1.0
    with pytest.raises(InputError, match="no pixel of the test images has a class"):
        overlap_scores([nothing], NAMES[:2], {})


def test_the_mean_of_an_image_is_over_its_own_classes():
    """What was given a class that is not there is wrong, and no class of its own."""
    image = overlaps(np.array([[0, 0, 0, 1]]), np.array([[0, 2, 2, 1]]), 4)
    assert image.miou() == pytest.approx((1 / 3 + 1) / 2)
