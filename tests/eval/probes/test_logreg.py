import logging
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from seer.config import RECIPES, read
from seer.data.labelled import Labelled, part, splits
from seer.errors import InputError
from seer.eval.probes import logreg
from seer.eval.probes.features import extract
from seer.eval.probes.holdout import Choosing, holdout
from seer.eval.probes.options import FeatureConfig, LogregConfig
from seer.eval.task import evaluate
from seer.eval.tasks import TASKS
from seer.results import read_results
from tests.eval.conftest import small_model

FEW = {"lambdas": [1e-3, 10.0], "count": 5}


def oracle(x: np.ndarray, y: np.ndarray, penalty: float) -> LogisticRegression:
    return LogisticRegression(C=1 / penalty, solver="newton-cholesky", tol=1e-9).fit(x, y)


@pytest.mark.parametrize("validation", [0, 30])
def test_scores_are_scikit_learns_by_the_whole_protocol(data, validation):
    train, test = splits(data)
    rows = np.random.default_rng(0).permutation(len(train))
    train.validation = np.sort(rows[:validation])
    config = LogregConfig(**FEW)
    top1, by_class = logreg.run(small_model(), train, test, config)

    x = extract(small_model(), train, FeatureConfig(crop="short_side")).double().numpy()
    z = extract(small_model(), test, FeatureConfig(crop="short_side")).double().numpy()
    kept, held = holdout(train.labels, 0.2, 0)
    if validation:
        held = torch.from_numpy(np.sort(rows[:validation]))
        kept = torch.from_numpy(np.sort(rows[validation:]))
    penalties = np.geomspace(10, 1e-3, 5)
    shares = [
        oracle(x[kept], train.labels[kept], penalty).score(x[held], train.labels[held])
        for penalty in penalties
    ]
    best = int(np.argmax(shares))
    predicted = oracle(x, train.labels, penalties[best]).predict(z)
    assert top1.details["lambda"] == pytest.approx(penalties[best])
    chosen_on = "the 30 validation images" if validation else "24 training images held out"
    assert (top1.details["chosen_on"], top1.details["chosen_by"]) == (chosen_on, "top1")
    assert top1.details["holdout"] == pytest.approx(shares[best], abs=1e-4)
    assert top1.value == pytest.approx((predicted == test.labels).mean())
    assert by_class.value == pytest.approx(balanced_accuracy_score(test.labels, predicted))
    assert (top1.headline, by_class.headline) == (True, False)
    assert top1.value > 0.5


@pytest.mark.parametrize(
    ("reported", "option", "metric"),
    [
        ("", "auto", "top1"),
        ("mean_per_class", "auto", "mean_per_class"),
        ("mean_per_class", "top1", "top1"),
        ("top1", "mean_per_class", "mean_per_class"),
    ],
)
def test_the_metric_is_the_data_sets_own_unless_it_is_given(data, reported, option, metric):
    train, test = splits(data)
    train.metric = reported
    scores = logreg.run(small_model(), train, test, LogregConfig(metric=option, **FEW))
    assert [score.metric for score in scores if score.headline] == [metric]
    assert {score.details["chosen_by"] for score in scores} == {metric}


def test_what_is_chosen_is_best_by_the_metric():
    """Of 11 images to choose by, one is of class 1; to get it right costs three of the others."""
    features = torch.tensor([[-1.0]] * 9 + [[1.0]] + [[-1.0]] * 7 + [[1.1]] * 3 + [[1.0]])
    labels = torch.tensor([0] * 9 + [1] + [0] * 10 + [1])
    by = Choosing(torch.arange(10), torch.arange(10, 21), "")
    config = LogregConfig(lambdas=[1e-3, 1e3], count=7)
    details = {
        metric: logreg.choose(features, labels, 2, by, metric, config)[2]
        for metric in ("top1", "mean_per_class")
    }
    assert details["top1"]["holdout"] == pytest.approx(10 / 11, abs=1e-4)
    assert details["mean_per_class"]["holdout"] == pytest.approx((7 / 10 + 1) / 2, abs=1e-4)
    assert details["top1"]["lambda"] > details["mean_per_class"]["lambda"]


def test_the_penalty_is_chosen_without_the_test_images(data):
    train, test = splits(data)
    score, _ = logreg.run(small_model(), train, test, LogregConfig(**FEW))
    test.labels = (test.labels + 1) % 3
    other, _ = logreg.run(small_model(), train, test, LogregConfig(**FEW))
    assert other.details == score.details
    assert score.value > 0.5 > other.value


def test_images_of_several_classes(data):
    """Class 2 is "brick or moss" now, and an image may count for no class."""
    train, test = splits(data)

    def several(images: Labelled) -> Labelled:
        labels = np.eye(3, dtype=np.int64)[images.labels]
        labels[:, 2] = labels[:, 0] | labels[:, 1]
        labels[:3] = -1
        images.labels = labels
        return images

    (score,) = logreg.run(small_model(), several(train), several(test), LogregConfig(**FEW))
    assert (score.metric, score.headline) == ("map11", True)
    assert 0.6 < score.value < 1
    assert score.details["classes"] == 3


def test_the_protocols_file_is_what_the_options_say_and_goes_into_the_row(data, tmp_path):
    values = read(RECIPES / "eval" / "logreg.yaml")
    assert values == {key: value for key, value in asdict(LogregConfig()).items() if key in values}
    assert TASKS["logreg"].resolve() == LogregConfig()
    out = tmp_path / "results.jsonl"
    rows = evaluate("logreg", "pixels:8", data, ["metric=mean_per_class", "count=3"], out)
    assert read_results(out) == rows
    assert [row["metric"] for row in rows] == ["top1", "mean_per_class"]
    assert [row["headline"] for row in rows] == [False, True]
    assert rows[0]["options"] == {
        "precision": "fp32",
        "size": 0,
        **values,
        "metric": "mean_per_class",
        "count": 3,
        "seed": 0,
    }


def test_searches_that_end_before_the_optimum_are_named(data, caplog):
    train, test = splits(data)
    config = LogregConfig(lambdas=[1e-3, 1e-3], count=1, iterations=1)
    score, _ = logreg.run(small_model(), train, test, config)
    assert score.details["unfinished"] == [1e-3]
    assert "not at the optimum after 1 iterations at λ = 0.001" in caplog.text
    caplog.clear()
    logreg.run(small_model(), train, test, replace(config, iterations=1000))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_one_image_per_class_is_refused(data):
    train, test = splits(data)
    alone = np.unique(train.labels, return_index=True)[1]
    train = part(train, alone)
    with pytest.raises(InputError, match="every class has a single training image"):
        logreg.run(small_model(), train, test, LogregConfig(cache=False, **FEW))


@pytest.mark.parametrize(
    "option",
    [{"lambdas": [1.0, 0.1]}, {"lambdas": [0.0, 1.0]}, {"count": 0}, {"metric": "top5"}],
)
def test_wrong_options_are_named(data, option):
    with pytest.raises(InputError, match=next(iter(option))):
        logreg.run(small_model(), *splits(data), LogregConfig(**option))


def test_equally_good_penalties_give_the_largest():
    features = torch.tensor([[-1.0], [-2.0], [1.0], [2.0], [-3.0], [3.0]])
    labels = torch.tensor([0, 0, 1, 1, 0, 1])
    by = Choosing(*holdout(labels.numpy(), 0.2, 0), "some")
    penalty, _, details = logreg.choose(features, labels, 2, by, "top1", LogregConfig(**FEW))
    assert penalty == pytest.approx(10.0)
    assert details == {
        "lambda": penalty,
        "chosen_on": "some",
        "chosen_by": "top1",
        "holdout": 1.0,
    }
