import numpy as np
import pytest
from scipy import stats

from seer.errors import InputError
from seer.eval.analyses.rank_tests import chi_squared_tail, rank_models, studentized_range

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("scores", [RANDOM.normal(size=(4, 12)), RANDOM.integers(0, 3, (5, 9))])
def test_friedmans_test_is_that_of_scipy_with_and_without_ties(scores):
    scores = scores.astype(float)
    found = rank_models(scores)
    assert found.p == pytest.approx(stats.friedmanchisquare(*scores).pvalue)
    assert (found.ranks == stats.rankdata(-scores, axis=0)).all()
    assert found.mean.sum() == pytest.approx(len(scores) * (len(scores) + 1) / 2)


@pytest.mark.parametrize("degrees", [1, 2, 5, 8, 400])
def test_the_tail_is_that_of_chi_squared(degrees):
    for value in (0.0, 0.3, 4.0, 30.0, 420.0):
        expected = stats.chi2.sf(value, degrees)
        assert chi_squared_tail(value, degrees) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_the_critical_difference_is_demsars():
    # Table 5a of the paper: q at 0.05 for 2 … 10 models.
    printed = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    ours = [studentized_range(models) / np.sqrt(2) for models in range(2, 11)]
    assert ours == pytest.approx(printed, abs=1.1e-3)
    assert studentized_range(14) == pytest.approx(
        stats.studentized_range.ppf(0.95, 14, np.inf), abs=1e-4
    )
    # Section 3.2.2's example: four classifiers, 14 data sets, CD = 1.25 at 0.05.
    assert rank_models(RANDOM.normal(size=(4, 14))).critical == pytest.approx(1.25, abs=0.005)


def test_models_that_are_not_told_apart_are_grouped():
    # One model is best everywhere and one worst; two change places.
    scores = np.array([[4.0] * 20, [3.0, 2.0] * 10, [2.0, 3.0] * 10, [1.0] * 20])
    found = rank_models(scores)
    assert found.mean.tolist() == [1.0, 2.5, 2.5, 4.0]
    assert found.p < 1e-8
    assert found.alike() == [[1, 2]]
    assert rank_models(scores[:, :2]).alike() == [[0, 1, 2, 3]]


def test_where_nothing_differs_or_is_missing():
    assert np.isnan(rank_models(np.ones((3, 4))).p)
    with pytest.raises(InputError, match="1 models on 3 data sets"):
        rank_models(np.ones((1, 3)))
    with pytest.raises(InputError, match="missing or NaN"):
        rank_models(np.array([[1.0, np.nan], [1.0, 2.0]]))
