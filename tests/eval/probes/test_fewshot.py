import logging

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from seer.data.labelled import splits
from seer.errors import InputError
from seer.eval import outcomes
from seer.eval.data.splitting import joined
from seer.eval.probes import fewshot
from seer.eval.probes.features import extract
from seer.eval.probes.fewshot import Episodes
from seer.eval.probes.options import FewshotConfig
from seer.eval.task import evaluate
from tests.eval.conftest import small_model

FEW = {"shots": [3, 1], "ways": 3, "queries": 4, "episodes": 7}


def test_scores_are_those_of_scikit_learns_nearest_centroids(data):
    train, test = splits(data)
    config = FewshotConfig(**FEW)
    scores = fewshot.run(small_model(), train, test, config)
    images = joined([train, test])
    features = extract(small_model(), images, config).double().numpy()
    for score, shots in zip(scores, config.shots, strict=True):
        episodes = Episodes(images.labels, np.arange(3), shots, config)
        shares = []
        for chosen in episodes.images(np.arange(config.episodes)):
            support = chosen[:, :shots].ravel()
            asked = chosen[:, shots:].ravel()
            oracle = NearestCentroid().fit(features[support], images.labels[support])
            shares.append(oracle.score(features[asked], images.labels[asked]))
        assert score.value == pytest.approx(np.mean(shares))
        half = 1.96 * np.std(shares, ddof=1) / np.sqrt(len(shares))
        assert score.details["half_over_episodes"] == pytest.approx(half, rel=1e-4)
        assert score.low < score.value < score.high
        assert score.chance == pytest.approx(1 / 3)
    assert [score.metric for score in scores] == ["top1_3way_3shot", "top1_3way_1shot"]
    assert [score.headline for score in scores] == [True, False]


def test_episodes_are_of_distinct_images_and_a_function_of_the_seed():
    labels = np.arange(200) % 10
    config = FewshotConfig(ways=4, queries=6)
    episodes = Episodes(labels, np.arange(10), 5, config)
    drawn = episodes.images(np.arange(300))
    assert drawn.shape == (300, 4, 11)
    classes = labels[drawn]
    assert (classes == classes[:, :, :1]).all()
    for images in drawn:
        assert len(np.unique(images)) == images.size
        assert len(np.unique(labels[images[:, 0]])) == 4
    again = Episodes(labels, np.arange(10), 5, config)
    assert (again.images(np.array([17]))[0] == drawn[17]).all()
    other = Episodes(labels, np.arange(10), 5, FewshotConfig(ways=4, queries=6, seed=1))
    assert (other.images(np.arange(300)) != drawn).any()
    # Every class, and every image of a class, is as likely as any other: within 5 deviations.
    per_class = np.bincount(classes[:, :, 0].ravel(), minlength=10)
    assert np.abs(per_class - 120).max() < 5 * np.sqrt(120 * 0.6)
    per_image = np.bincount(drawn.ravel(), minlength=200)
    assert np.abs(per_image - 66).max() < 5 * np.sqrt(66)


def test_the_models_meet_the_same_episodes(data, monkeypatch):
    train, test = splits(data)
    seen = []
    whole = Episodes.images

    def remembered(self: Episodes, numbers: np.ndarray) -> np.ndarray:
        images = whole(self, numbers)
        seen.extend(images.tolist())
        return images

    monkeypatch.setattr(Episodes, "images", remembered)
    config = FewshotConfig(**FEW)
    fewshot.run(small_model(seed=1), train, test, config)
    monkeypatch.setattr(fewshot, "CHUNK", 1)  # an episode at a time
    fewshot.run(small_model(seed=2, size=12), train, test, config)
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]


def test_classes_with_too_few_images_are_left_out_and_named(data, caplog):
    train, test = splits(data)
    # 60 images of each of three classes; of the first 12 remain.
    train.labels[(train.labels == 0) & (np.arange(len(train)) >= 5)] = 1
    test.labels[(test.labels == 0) & (np.arange(len(test)) >= 7)] = 1
    name = train.classes[0]
    with caplog.at_level(logging.WARNING):
        scores = fewshot.run(
            small_model(), train, test, FewshotConfig(shots=[10, 2], ways=2, queries=4, episodes=3)
        )
    assert [score.details["classes"] for score in scores] == [2, 3]
    assert (
        f"10-shot leaves out 1 of 3 classes, which have fewer than 10 + 4 images: {name}"
        in caplog.text
    )
    caplog.clear()
    scores = fewshot.run(
        small_model(), train, test, FewshotConfig(shots=[10, 2], ways=3, queries=4, episodes=3)
    )
    assert [score.metric for score in scores] == ["top1_3way_2shot"]
    assert scores[0].headline
    assert "so it is not measured" in caplog.text


def test_images_that_are_too_few_are_one_line(data):
    train, test = splits(data)
    with pytest.raises(InputError, match=r"no 3 classes have the 50 \+ 15 images"):
        fewshot.run(small_model(), train, test, FewshotConfig(ways=3, shots=[50]))
    with pytest.raises(InputError, match=r"no 5 classes have the 1 \+ 15"):
        fewshot.run(small_model(), train, test, FewshotConfig(shots=[1]))


def test_it_is_a_task(data, tmp_path):
    options = ["ways=3", "queries=5", "episodes=4"]
    out = tmp_path / "results.jsonl"
    rows = evaluate("fewshot", "pixels:8", data, options, out)
    assert [row["title"] for row in rows] == [
        f"Few-shot 3-way {shots}-shot" for shots in (20, 5, 50)
    ]
    kept = outcomes.read(out, rows[0])
    assert kept["hits"].shape == kept["images"].shape == (4, 3 * 5)
    assert kept["hits"].mean() == pytest.approx(rows[0]["value"])
    assert rows[0]["details"]["images"] == len(np.unique(kept["images"]))


def test_it_uses_the_features_that_other_tasks_have_computed(data):
    train, test = splits(data)
    model = small_model()
    config = FewshotConfig(**FEW)
    for images in (train, test):
        extract(model, images, config)
    seen = model.backbone.seen
    fewshot.run(model, train, test, config)
    assert model.backbone.seen == seen == len(train) + len(test)
