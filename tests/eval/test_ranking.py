import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_curve

from seer.eval.ranking import average_precision, mean_precision, resampled
from seer.eval.scores import eleven_point


def test_a_case_by_hand():
    """Ranks +, -, +: up to a recall of 1/2 the precision is 1, beyond it 2/3."""
    (value,) = average_precision(np.array([1, 0, 1]), np.ones((1, 3)))
    assert value == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def images(count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = (random.random((count, classes)) < 0.3).astype(np.int64)
    return random.normal(size=(count, classes)) + labels, labels


def by_definition(scores: np.ndarray, truth: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(truth, scores)
    ranks = slice(0, -1)  # without the point that no rank has, a recall of 0 at a precision of 1
    best = [precision[ranks][recall[ranks] >= r - 1e-9].max() for r in np.arange(11) / 10]
    return float(np.mean(best))


def test_precisions_are_those_of_scikit_learns_curve():
    scores, labels = images(200, 7)
    labels[:20, 2] = -1
    expected = []
    for column, truth in zip(scores.T, labels.T, strict=True):
        counted = truth >= 0
        expected.append(by_definition(column[counted], truth[counted]))
    score = eleven_point("map11", "mAP", torch.from_numpy(scores), torch.from_numpy(labels))
    assert score.value == pytest.approx(np.mean(expected))
    assert score.low < score.value < score.high
    assert score.high - score.low < 0.2
    assert score.details == {"images": 200, "classes": 7}


def test_an_image_that_counts_twice_is_there_twice():
    scores, labels = images(40, 3)
    scores += np.arange(40)[:, None] * 1e-9
    counts = np.random.default_rng(1).integers(0, 3, (5, 40))
    together = mean_precision(scores, labels, counts)
    for value, times in zip(together, counts, strict=True):
        rows = np.repeat(np.arange(40), times)
        alone = mean_precision(scores[rows], labels[rows], np.ones((1, len(rows))))
        assert value == pytest.approx(alone[0])


def test_a_class_without_images_is_left_out():
    scores, labels = images(40, 3)
    labels[:, 1] = 0
    once = np.ones((1, 40))
    rest = mean_precision(scores[:, [0, 2]], labels[:, [0, 2]], once)
    assert mean_precision(scores, labels, once) == rest
    labels[:, 1] = -1
    assert mean_precision(scores, labels, once) == rest
    assert np.isnan(mean_precision(scores, np.zeros_like(labels), once))


@pytest.mark.parametrize("images", [1, 7, 40_000])
def test_images_are_drawn_a_thousand_times_with_replacement(images):
    counts = np.concatenate(list(resampled(images)))[:, :50]
    assert len(counts) == 1000
    assert counts.mean() == pytest.approx(1, abs=0.02)
    if images > 1:
        assert counts.var() == pytest.approx(1 - 1 / images, abs=0.04)  # of a binomial
    (first, *_) = resampled(images)
    assert (first.sum(1) == images).all()
    assert (first[0] == next(iter(resampled(images)))[0]).all()
