from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from seer.eval.scores import accuracy, chance, wilson


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
