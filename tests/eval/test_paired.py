from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap

from seer.eval.paired import (
    Difference,
    alike,
    compare,
    corrected,
    crossed_variance,
    in_words,
    mcnemar,
    two_sided,
    verdict,
)
from seer.eval.ranking import mean_precision
from seer.eval.scores import mean_of_episodes, mean_per_class


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


def test_episodes_of_an_older_seer_are_paired():
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


def test_queries_vary_together_where_they_share_an_image_or_an_episode():
    """By the definition: the products of all pairs of queries that share either."""
    random = np.random.default_rng(0)
    images = np.stack([random.permutation(20)[:6] for _ in range(15)])
    deviations = random.normal(size=images.shape)
    deviations += random.normal(size=20)[images] + random.normal(size=(15, 1))
    deviations -= deviations.mean()
    episodes = np.repeat(np.arange(15), 6)
    flat = deviations.ravel()
    share = (images.ravel()[:, None] == images.ravel()) | (episodes[:, None] == episodes)
    expected = (np.outer(flat, flat) * share).sum() / len(flat) ** 2
    assert crossed_variance(deviations, images) == pytest.approx(expected)
    # Of one episode whose queries make up for each other no less than of queries by themselves.
    assert crossed_variance(np.array([[1.0, -1.0]]), np.array([[0, 1]])) == 2 / 4


def drawn(random, models: int, images: int = 60, episodes: int = 80, asked: int = 10):
    """Hits of equal models for which images and episodes are easy or hard, half of them on average."""
    easy = random.choice([0.3, -0.3], size=(images, 1))
    easy = easy + random.choice([0.1, -0.1], size=(images, models))
    numbers = np.stack([random.permutation(images)[:asked] for _ in range(episodes)])
    luck = random.choice([0.1, -0.1], size=(episodes, 1, 1))
    hits = random.random((episodes, asked, models)) < 0.5 + easy[numbers] + luck
    return [hits[:, :, model] for model in range(models)], numbers


def test_intervals_of_episodes_hold_what_other_images_score_nineteen_times_in_twenty():
    """With as many episodes as one likes the mean over them stays as uncertain as 60 images are."""
    random = np.random.default_rng(0)
    held = 0
    by_episodes = 0
    equal = 0
    for _ in range(300):
        (first, second), images = drawn(random, 2)
        score = mean_of_episodes("", "", torch.from_numpy(first), torch.from_numpy(images))
        held += score.low <= 0.5 <= score.high
        half = 1.96 * first.mean(1).std(ddof=1) / np.sqrt(len(first))
        by_episodes += abs(score.value - 0.5) <= half
        outcomes = [{"hits": hits, "images": images} for hits in (first, second)]
        equal += not compare(*outcomes).beyond_chance
    assert 0.92 <= held / 300 <= 0.99
    assert by_episodes / 300 < 0.75
    assert 0.90 <= equal / 300 <= 0.99


def test_episodes_that_are_all_right_are_no_proof():
    """As 30 images that are all right: Wilson's interval of 30 of 30."""
    images = torch.arange(30).repeat(40, 1)
    score = mean_of_episodes("", "", torch.ones(40, 30, dtype=torch.bool), images)
    assert (score.value, score.high) == (1.0, 1.0)
    assert score.low == pytest.approx(1 / (1 + 1.959964**2 / 30))
    right = {"hits": np.ones((40, 30), bool), "images": images.numpy()}
    wrong = {"hits": np.zeros((40, 30), bool), "images": images.numpy()}
    assert compare(right, right).p == 1.0
    assert compare(right, wrong).beyond_chance
    assert not alike(right, {**wrong, "images": wrong["images"][:, ::-1]})


def test_values_of_images_are_paired_and_told_in_their_unit():
    values = np.random.default_rng(0).exponential(size=200)
    difference = compare({"values": values + 0.1}, {"values": values})
    assert (difference.value, difference.low) == pytest.approx((0.1, 0.1))
    assert in_words(difference, "nats").startswith("+0.1 nats [+0.1, +0.1], larger than chance")


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
