import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_curve

from seer.eval.ranking import average_precision, eleven_point, mean_precision


def test_a_case_by_hand():
    """Ranks +, -, +: up to a recall of 1/2 the precision is 1, beyond it 2/3."""
    truth = torch.tensor([1, 0, 1])
    (value,) = average_precision(truth, torch.ones(1, 3)).tolist()
    assert value == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def images(count: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    labels = (torch.rand(count, classes, generator=random) < 0.3).long()
    return torch.randn(count, classes, generator=random) + labels, labels


def by_definition(scores: np.ndarray, truth: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(truth, scores)
    ranks = slice(0, -1)  # without the point that no rank has, a recall of 0 at a precision of 1
    best = [precision[ranks][recall[ranks] >= r - 1e-9].max() for r in np.arange(11) / 10]
    return float(np.mean(best))


def test_precisions_are_those_of_scikit_learns_curve():
    scores, labels = images(200, 7)
    labels[:20, 2] = -1
    expected = []
    for column, truth in zip(scores.T.numpy(), labels.T.numpy(), strict=True):
        counted = truth >= 0
        expected.append(by_definition(column[counted], truth[counted]))
    score = eleven_point("map11", "mAP", scores, labels)
    assert score.value == pytest.approx(np.mean(expected))
    assert score.low < score.value < score.high
    assert score.high - score.low < 0.2
    assert score.details == {"images": 200, "classes": 7}


def test_an_image_that_counts_twice_is_there_twice():
    scores, labels = images(40, 3)
    scores = scores.double() + torch.arange(40)[:, None] * 1e-9
    counts = torch.randint(0, 3, (5, 40), generator=torch.Generator().manual_seed(1)).float()
    together = mean_precision(scores, labels, counts)
    for value, times in zip(together.tolist(), counts.long(), strict=True):
        rows = torch.arange(40).repeat_interleave(times)
        alone = mean_precision(scores[rows], labels[rows], torch.ones(1, len(rows)))
        assert value == pytest.approx(float(alone))


def test_a_class_without_images_is_left_out():
    scores, labels = images(40, 3)
    labels[:, 1] = 0
    rest = mean_precision(scores[:, [0, 2]], labels[:, [0, 2]], torch.ones(1, 40))
    assert torch.equal(mean_precision(scores, labels, torch.ones(1, 40)), rest)
