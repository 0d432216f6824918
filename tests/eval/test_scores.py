from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score

from seer.eval.scores import accuracy, chance, mean_per_class, wilson


@given(st.integers(1, 5000), st.data())
def test_wilson_is_scipys(trials, data):
    hits = data.draw(st.integers(0, trials))
    interval = binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    assert wilson(hits, trials) == pytest.approx((interval.low, interval.high), abs=1e-6)
    assert 0 <= wilson(hits, trials)[0] <= hits / trials <= wilson(hits, trials)[1] <= 1


def test_accuracy_counts():
    score = accuracy("top1", "top-1", torch.tensor([True, False, True, True]), {"lr": 0.1})
    assert (score.metric, score.value) == ("top1", 0.75)
    assert score.low < 0.75 < score.high
    assert score.details == {"images": 4, "lr": 0.1}


@pytest.mark.parametrize(("guesses", "share"), [(1, 3 / 6), (2, 5 / 6), (3, 1.0), (9, 1.0)])
def test_chance_is_always_naming_the_largest_classes(guesses, share):
    labels = torch.tensor([4, 0, 4, 2, 4, 0])
    assert chance(labels, guesses) == pytest.approx(share)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 6))
def test_no_guesser_who_does_not_look_does_better_than_chance(labels, guesses):
    truth = torch.tensor(labels)
    always = [sum(labels.count(c) for c in named) for named in combinations(range(6), guesses)]
    assert chance(truth, guesses) == pytest.approx(max(always) / len(labels))


def test_the_mean_per_class_is_scikit_learns_balanced_accuracy():
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 7, (300,), generator=random)
    predicted = torch.where(torch.rand(300, generator=random) < 0.6, labels, labels * 0 + 3)
    score = mean_per_class("mean", "mean", predicted == labels, labels, {"lambda": 1.0})
    assert score.value == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert score.details == {"images": 300, "classes": 7, "lambda": 1.0}
    assert score.chance == pytest.approx(1 / 7)


def test_the_interval_of_a_mean_per_class_holds_what_it_says():
    """Of 400 draws of test images, about 95 % have the true mean within."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(5).repeat_interleave(torch.tensor([10, 20, 30, 40, 50]))
    accuracies = torch.tensor([0.9, 0.8, 0.5, 0.3, 0.6])
    held = 0
    for _ in range(400):
        correct = torch.rand(len(labels), generator=random) < accuracies[labels]
        score = mean_per_class("mean", "mean", correct, labels)
        held += score.low <= accuracies.mean() <= score.high
    assert 0.92 <= held / 400 <= 0.99
