from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from seer.data.labelled import splits
from seer.errors import InputError
from seer.eval import pixels
from seer.eval.probes import knn
from seer.eval.probes.features import extract
from seer.eval.probes.knn import KnnConfig, vote
from seer.eval.probes.neighbours import SIDE
from seer.eval.probes.search import search
from tests.eval.conftest import small_model


def points(seed: int, n: int, classes: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 5, generator=generator), torch.randint(classes, (n,), generator=generator)


@pytest.mark.parametrize("k", [1, 5, 30])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_votes_are_scikit_learns(k, temperature):
    (bank, labels), (queries, _) = points(0, 300), points(1, 200)
    oracle = KNeighborsClassifier(
        k, metric="cosine", weights=lambda d: np.exp((1 - d) / temperature)
    )
    expected = oracle.fit(bank.double(), labels).predict(queries.double())
    similarity, nearest = search(queries.double(), bank.double(), k, torch.device("cpu"))
    assert vote(similarity, labels[nearest], 7, temperature).tolist() == expected.tolist()


def test_euclidean_neighbours_have_a_vote_each_as_scikit_learns(data):
    train, test = splits(data)
    scores = knn.run(small_model(), train, test, KnnConfig(k=[1, 6], metric="euclidean"))
    features = [extract(small_model(), part, KnnConfig()).double() for part in (train, test)]
    for score, k in zip(scores, (1, 6), strict=True):
        oracle = KNeighborsClassifier(k, algorithm="brute").fit(features[0], train.labels)
        assert score.value == pytest.approx(oracle.score(features[1], test.labels))
        assert score.metric == f"top1_euclidean_k{k}"
        assert score.title == f"top-1, Euclidean, k = {k}"


def test_a_tiny_temperature_is_the_nearest_neighbour_and_does_not_overflow():
    (bank, labels), (queries, _) = points(0, 300), points(1, 50)
    similarity, nearest = search(queries, bank, 20, torch.device("cpu"))
    assert vote(similarity, labels[nearest], 7, 1e-6).tolist() == labels[nearest[:, 0]].tolist()


def test_several_ks_score_as_each_alone(data):
    train, test = splits(data)
    model = small_model()
    together = knn.run(model, train, test, KnnConfig(k=[3, 9, 120]))
    alone = [knn.run(model, train, test, KnnConfig(k=[k]))[0] for k in (3, 9, 120)]
    assert [score.headline for score in together] == [False, False, True]
    assert [replace(score, headline=True) for score in together] == alone
    assert [score.metric for score in together] == ["top1_k3", "top1_k9", "top1_k120"]
    # Colour tells these classes apart most of the time; chance is 0.33.
    assert together[0].value > 0.5


def test_where_a_picture_cannot_be_is_said_before_the_work(data, tmp_path):
    model = small_model()
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for name, words in {
        "a.jpg": "ends in",
        "a": "ends in",
        "file/a.png": "cannot be",
        "folder.png": "a folder",
    }.items():
        with pytest.raises(InputError, match=f"neighbours.*{words}"):
            knn.run(model, *splits(data), KnnConfig(neighbours=str(tmp_path / name)))
    assert model.backbone.seen == 0


def test_a_runs_own_picture_costs_no_score(data, tmp_path, caplog):
    (tmp_path / "images").touch()  # in place of a folder
    scores = knn.run(small_model(run_dir=tmp_path), *splits(data), KnnConfig())
    assert len(scores) == 2
    assert "no picture of neighbours" in caplog.text


@pytest.mark.parametrize("name", ["a.png", "deep/b.WEBP"])
def test_pictures(data, tmp_path, name):
    knn.run(small_model(), *splits(data), KnnConfig(neighbours=str(tmp_path / name)))
    assert Image.open(tmp_path / name).size == (6 * 102 + 6, 6 * 102 - 6)


@pytest.mark.parametrize("option", [{"k": [121]}, {"k": [0]}, {"k": []}, {"temperature": 0.0}])
def test_wrong_options_are_named(data, option):
    with pytest.raises(InputError, match=next(iter(option))):
        knn.run(small_model(), *splits(data), KnnConfig(**option))


def test_pixels_are_centred_pixels_at_the_images_own_size(data):
    train, test = splits(data)
    model = pixels.load("pixels", train)
    assert (model.size, model.backbone.out_dim) == (24, 3 * 24 * 24)
    stacked = np.stack([train.image(i) for i in range(len(train))]).transpose(0, 3, 1, 2) / 255
    expected = torch.from_numpy((stacked - stacked.mean(0)).reshape(len(train), -1)).float()
    torch.testing.assert_close(extract(model, train, KnnConfig()), expected, rtol=1e-4, atol=1e-5)
    assert pixels.load("pixels:8", train).backbone.out_dim == 3 * 8 * 8
    assert knn.run(model, train, test, KnnConfig())[0].value > 0.5


@pytest.mark.parametrize("spec", ["pixels:", "pixels:0", "pixels:x", "pixels:4096"])
def test_pixel_sizes_are_checked(data, spec):
    with pytest.raises(InputError, match="pixels:SIZE"):
        pixels.load(spec, splits(data)[0])


def test_neighbours_are_drawn_where_asked_or_into_a_trained_run(data, tmp_path):
    train, test = splits(data)
    knn.run(small_model(), train, test, KnnConfig(neighbours=str(tmp_path / "a" / "n.png")))
    with Image.open(tmp_path / "a" / "n.png") as sheet:
        assert sheet.mode == "RGBA"
        assert sheet.width > 6 * SIDE
        assert sheet.height > 6 * SIDE
        frame = Image.new("RGB", sheet.size)
        frame.paste(sheet, mask=sheet)
        colours = {colour for _, colour in frame.getcolors(2**24)}
    assert colours & {(0x2D, 0xA4, 0x4E), (0xCF, 0x3F, 0x3F)}

    run = small_model(run_dir=tmp_path / "run")
    knn.run(run, train, test, KnnConfig())
    assert (tmp_path / "run" / "images" / "neighbours.png").is_file()
    untrained = small_model(run_dir=tmp_path / "other")
    untrained.label = "net untrained"
    knn.run(untrained, train, test, KnnConfig())
    assert not (tmp_path / "other").exists()
