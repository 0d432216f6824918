import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from seer.eval.scores import accuracy, wilson


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
