import numpy as np
import pytest
from scipy import stats

from seer.errors import InputError
from seer.eval.analyses.correlation import FEW, average_ranks, correlate, kendall, logit

RANDOM = np.random.default_rng(0)
MANY = RANDOM.normal(size=(2, 30))
# Values that several models share, as accuracies on small test sets are.
TIED = RANDOM.integers(0, 4, size=(2, 25)).astype(float)


@pytest.mark.parametrize("values", [MANY, TIED, np.array([[1.0, 2, 3], [3.0, 1, 2]])])
def test_the_coefficients_are_those_of_scipy(values):
    x, y = values
    found = correlate(x, y)
    assert found.models == len(x)
    assert found.pearson.value == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found.spearman.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.kendall.value == pytest.approx(stats.kendalltau(x, y).statistic)
    for coefficient in (found.pearson, found.spearman, found.kendall):
        assert -1 <= coefficient.low <= coefficient.value <= coefficient.high <= 1


def test_the_interval_is_near_the_one_by_fishers_transformation():
    x = RANDOM.normal(size=100)
    y = x + RANDOM.normal(size=100)
    found = correlate(x, y).pearson
    expected = stats.pearsonr(x, y).confidence_interval()
    assert (found.low, found.high) == pytest.approx(expected, abs=0.03)


def test_intervals_are_the_same_each_time_and_others_by_another_seed():
    x, y = MANY
    assert correlate(x, y) == correlate(x, y)
    assert correlate(x, y).pearson.low != correlate(x, y, seed=1).pearson.low


def test_ties_have_the_mean_of_their_ranks():
    values = np.array([[3.0, 1.0, 3.0, 2.0, 3.0]])
    assert average_ranks(values).tolist() == [[4.0, 1.0, 4.0, 2.0, 4.0]]
    assert (average_ranks(TIED) == stats.rankdata(TIED, axis=1)).all()


def test_a_quantity_that_is_the_same_for_all_has_no_coefficient():
    found = correlate(np.full(5, 0.1 + 0.2), np.arange(5.0))
    assert np.isnan([found.pearson.value, found.spearman.value, found.kendall.low]).all()
    assert np.isnan(kendall(np.zeros((1, 4)), np.arange(4.0)[None])).all()


def test_three_models_are_said_to_mean_little_and_two_refused():
    few = correlate(np.array([1.0, 2, 4]), np.array([1.0, 2, 3]))
    assert few.remark == (
        "3 models say little of others, and the interval, which resamples these, hardly more"
    )
    assert not correlate(MANY[0][:FEW], MANY[1][:FEW]).remark
    with pytest.raises(InputError, match="over 2 models says nothing"):
        correlate(np.array([1.0, 2]), np.array([1.0, 2]))
    with pytest.raises(InputError, match="NaN"):
        correlate(np.array([1.0, 2, np.nan]), np.array([1.0, 2, 3]))


def test_shares_are_compared_by_their_logits():
    shares = np.array([0.5, 0.9, 1e-9])
    assert logit(shares, "these") == pytest.approx(np.log(shares / (1 - shares)))
    for end in (0.0, 1.0, 1.5):
        with pytest.raises(InputError, match=f"^these: {end:g} has no finite logit"):
            logit(np.array([0.5, end]), "these")
