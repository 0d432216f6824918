from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap

from seer.eval.paired import Difference, alike, compare, corrected, mcnemar, two_sided, verdict
from seer.eval.ranking import mean_precision
from seer.eval.scores import mean_per_class


@given(st.integers(0, 3000), st.data())
def test_p_is_scipys(trials, data):
    fewer = data.draw(st.integers(0, trials // 2))
    expected = binomtest(fewer, trials).pvalue if trials else 1.0
    assert two_sided(fewer, trials) == pytest.approx(expected, rel=1e-6)


def test_a_case_by_hand():
    """Of 10 images, 5 were right only with the first, 1 only with the second: p = 14/64."""
    first = np.array([1, 1, 1, 1, 1, 0, 1, 1, 0, 0], bool)
    second = np.array([0, 0, 0, 0, 0, 1, 1, 1, 0, 0], bool)
    difference = compare({"hits": first}, {"hits": second})
    assert difference.value == pytest.approx(0.4)
    assert difference.p == pytest.approx(14 / 64)
    assert difference.low < 0 < difference.high
    back = compare({"hits": second}, {"hits": first})
    assert (back.value, back.low, back.high) == pytest.approx(
        (-difference.value, -difference.high, -difference.low)
    )


def test_the_same_answers_differ_by_nothing():
    hits = np.arange(50) % 3 == 0
    difference = mcnemar(hits, hits)
    assert (difference.value, difference.p) == (0.0, 1.0)
    assert difference.low < 0 < difference.high


def test_the_interval_holds_the_true_difference_nineteen_times_in_twenty():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(500):
        cells = random.choice(4, 80, p=[0.6, 0.2, 0.1, 0.1])
        difference = mcnemar(cells < 2, (cells == 0) | (cells == 2))
        held += difference.low <= 0.1 <= difference.high
    assert 0.93 <= held / 500 <= 0.99


def answers(images: int, share: float, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {"hits": random.random(images) < share, "labels": np.arange(images) % 4}


def test_episodes_are_paired():
    """Few-shot accuracies vary more between episodes than between models."""
    episodes = np.random.default_rng(0).uniform(0.5, 0.9, 300)
    random = np.random.default_rng(1)
    first = {"accuracies": episodes + 0.01}
    second = {"accuracies": episodes + random.normal(0, 0.02, 300)}
    difference = compare(first, second)
    margins = first["accuracies"] - second["accuracies"]
    expected = bootstrap((margins,), np.mean, rng=random).confidence_interval
    assert difference.value == pytest.approx(margins.mean())
    assert (difference.low, difference.high) == pytest.approx(expected, abs=5e-4)
    assert difference.beyond_chance
    assert not alike(first, {"accuracies": episodes[1:]})


def test_means_per_class_are_resampled_as_scipy_does():
    first, second = answers(200, 0.8, 0), answers(200, 0.7, 1)
    difference = compare(first, second)
    means = [
        mean_per_class("", "", *map(torch.from_numpy, part.values())).value
        for part in (first, second)
    ]
    assert difference.value == pytest.approx(means[0] - means[1])

    def statistic(rows: np.ndarray) -> float:
        labels = first["labels"][rows]
        gains = first["hits"][rows] * 1.0 - second["hits"][rows]
        return float(np.mean([gains[labels == c].mean() for c in np.unique(labels)]))

    oracle = bootstrap(
        (np.arange(200),), statistic, vectorized=False, n_resamples=1000,
        method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert (difference.low, difference.high) == pytest.approx(tuple(oracle), abs=0.015)
    assert compare(first, first).p == 1.0


def test_mean_average_precisions():
    random = np.random.default_rng(0)
    labels = (random.random((300, 3)) < 0.4).astype(np.int64)
    noise = random.normal(size=(2, 300, 3))
    good, bad = ({"scores": labels * f + noise[i], "labels": labels} for i, f in ((0, 2), (1, 1)))
    difference = compare(good, bad)
    whole = np.ones((1, 300))
    expected = mean_precision(good["scores"], labels, whole)
    expected -= mean_precision(bad["scores"], labels, whole)
    assert difference.value == pytest.approx(float(expected[0]))
    assert 0 < difference.low < difference.value < difference.high
    assert difference.p < 0.01


@pytest.mark.parametrize("ps", [[0.01, 0.04, 0.03, 0.005], [0.2, 0.9, 0.5], [0.03], [0.02, 0.02]])
def test_holm_is_the_closed_test_of_bonferronis(ps):
    """By the definition: the largest over all sets with one, of their size times their least p."""
    expected = []
    for one in range(len(ps)):
        sets = [s for n in range(1, 5) for s in combinations(range(len(ps)), n) if one in s]
        expected.append(max(min(1, len(s) * min(ps[i] for i in s)) for s in sets))
    differences = [Difference(0.1, 0.0, 0.2, p) for p in ps]
    assert [d.p for d in corrected(differences)] == pytest.approx(expected)
    assert corrected([]) == []


def test_verdicts_in_words():
    large = Difference(0.052, 0.031, 0.073, 0.00001)
    small = Difference(-0.002, -0.02, 0.018, 0.8123)
    assert verdict("a", "b", large) == (
        "a against b: +5.2 points [+3.1, +7.3], larger than chance (p < 0.0001)"
    )
    assert verdict("a", "b", small) == (
        "a against b: -0.2 points [-2.0, +1.8], no larger than chance (p = 0.81)"
    )


def test_other_images_or_measures_are_not_alike():
    first = answers(20, 0.5, 0)
    assert alike(first, answers(20, 0.5, 1))
    assert not alike({}, {})
    assert not alike(first, {"hits": first["hits"]})
    assert not alike(first, answers(21, 0.5, 0))
    assert not alike(first, first | {"labels": first["labels"][::-1]})
