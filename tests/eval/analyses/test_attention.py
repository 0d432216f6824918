"""Attention by hidden squares, compared with a plain loop over them."""

import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from seer.data.labelled import splits
from seer.errors import InputError
from seer.eval.analyses import attention
from seer.eval.analyses.attention import diffusion, map_of, places_of
from seer.eval.analyses.by_image import GAP, SIDE, chosen, mean_over_images
from seer.eval.analyses.image_options import AttentionConfig
from seer.eval.outcomes import arrays
from seer.eval.paired import compare
from seer.eval.task import evaluate
from tests.eval.conftest import small_model


def loop(network: nn.Module, image: torch.Tensor, side: int, stride: int) -> np.ndarray:
    """The definition, one place and one pixel after the other."""
    size = image.shape[1]
    with torch.no_grad():
        whole = network(image[None])[0].double().numpy()
    values = [[[] for _ in range(size)] for _ in range(size)]
    for top in range(-side + 1, size, stride):
        for left in range(-side + 1, size, stride):
            hidden = image.clone()
            inside = [
                (y, x)
                for y in range(top, top + side)
                for x in range(left, left + side)
                if 0 <= y < size and 0 <= x < size
            ]
            for y, x in inside:
                hidden[:, y, x] = 0
            with torch.no_grad():
                features = network(hidden[None])[0].double().numpy()
            squares = ((features - whole) ** 2).sum()
            error = np.sqrt(squares / ((whole - whole.mean()) ** 2).sum())
            for y, x in inside:
                values[y][x].append(error)
    return np.array([[np.mean(errors) for errors in row] for row in values])


@pytest.mark.parametrize(("side", "stride"), [(3, 1), (4, 2), (4, 3), (5, 5)])
def test_a_map_is_that_of_a_plain_loop(side, stride):
    model = small_model(size=11)
    image = torch.randn(3, 11, 11, generator=torch.Generator().manual_seed(side))
    config = AttentionConfig(occluder=side, stride=stride, batch_size=7)
    done = []
    values = map_of(model, image, config, "image", done.append)
    expected = loop(model.backbone, image, side, stride)
    assert values.numpy() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert sum(done) == len(places_of(11, config)) ** 2


def test_the_papers_places_are_as_many_as_it_says_and_hide_every_pixel_equally_often():
    places = np.array(places_of(224, AttentionConfig(stride=1)))
    assert len(places) ** 2 == 233**2  # of an occluder of 10 px within 242
    for stride in (1, 2, 5, 10):
        places = np.array(places_of(224, AttentionConfig(stride=stride)))
        pixels = np.arange(224)[:, None]
        times = ((places <= pixels) & (pixels < places + 10)).sum(1)
        assert set(times) == {10 // stride}


class Peephole(nn.Module):
    """Sees one pixel."""

    out_dim = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, 4, 7]


def test_only_what_a_network_looks_at_is_attended():
    model = replace(small_model(size=12), backbone=Peephole())
    image = torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(1))
    config = AttentionConfig(occluder=3, stride=1)
    values = map_of(model, image, config, "image", lambda more: None)
    assert [int(i) for i in divmod(int(values.argmax()), 12)] == [4, 7]
    near = torch.zeros(12, 12, dtype=torch.bool)
    near[2:7, 5:10] = True  # pixels that some square hides together with the one that is seen
    assert ((values > 0) == near).all()


def test_diffusion_is_the_share_above_the_mean():
    maps = torch.tensor(
        [[[0.0, 0.0], [0.0, 1.0]], [[1.0, 2.0], [3.0, 4.0]], [[0.1, 0.1], [0.1, 0.1]]]
    )
    assert diffusion(maps.double()).tolist() == [0.25, 0.5, 0.0]


def test_the_interval_is_that_of_resampled_images():
    values = torch.rand(40, generator=torch.Generator().manual_seed(0)).double()
    score = mean_over_images("m", "t", values)
    drawn = [np.random.default_rng(i).choice(values.numpy(), 40).mean() for i in range(4000)]
    assert score.value == pytest.approx(float(values.mean()))
    assert [score.low, score.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.01)


def test_scores_are_the_same_whatever_the_batch_and_come_with_a_picture(data, tmp_path, caplog):
    train, test = splits(data)
    model = small_model(size=12, run_dir=tmp_path)
    config = AttentionConfig(images=3, occluder=4, stride=4, seed=1)
    with caplog.at_level(logging.WARNING):
        (score,) = attention.run(model, train, test, config)
    assert "3 images × 4 × 4 places of the occluder = 48 forwards of 12 px" in caplog.text
    assert model.backbone.seen == 3 * (16 + 1)
    again = attention.run(
        small_model(size=12),
        train,
        test,
        replace(config, batch_size=5, picture=str(tmp_path / "a.png")),
    )
    assert again[0] == score
    assert score.low <= score.value <= score.high
    assert (score.unit, score.better, score.details["images"]) == ("share", "higher", 3)
    first, second = (arrays(each.outcomes) for each in (score, again[0]))
    assert compare(first, second).value == 0
    with Image.open(tmp_path / "images/attention.png") as picture:
        assert picture.size == (3 * SIDE + 2 * GAP, 3 * SIDE + 2 * GAP)
    assert chosen(test, 3, 1) == chosen(test, 3, 1) != chosen(test, 3, 2)
    assert chosen(test, 10**6, 1) == list(range(len(test)))


def test_a_row_of_results_has_it(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["images=2", "occluder=4", "stride=4", "size=12"]
    (row,) = evaluate("attention", "regnety_tiny:random", data, options)
    assert (row["metric"], row["title"]) == ("diffusion", "Attention diffusion")
    assert row["options"]["stride"] == 4
    assert "picture" not in row["options"]
    assert (tmp_path / "attention-regnety_tiny-untrained.png").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"occluder": 16}, "occluder=16: the images have 16 px"),
        ({"occluder": 40}, "occluder=40: the images have 16 px"),
        ({"stride": 11}, "stride=11: passes over pixels"),
        ({"picture": "a.jpg"}, "ends in .png"),
        ({"images": 0}, "images"),
    ],
)
def test_what_cannot_be_is_said_before_the_work(data, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = small_model()
    with pytest.raises(InputError, match=message):
        attention.run(model, *splits(data), AttentionConfig(**options))
    assert model.backbone.seen == 0
    assert not list(tmp_path.iterdir())


def test_a_damaged_image_is_told_before_the_work(data, tmp_path):
    shutil.copytree(data, tmp_path / "damaged")
    damaged = sorted((tmp_path / "damaged/test").rglob("*.png"))[-1]
    damaged.write_bytes(b"")
    train, test = splits(tmp_path / "damaged")
    model = small_model(size=12)
    config = AttentionConfig(images=10**6, occluder=4, stride=4, picture=str(tmp_path / "a.png"))
    with pytest.raises(InputError, match=f"{damaged.name} cannot be used"):
        attention.run(model, train, test, config)
    assert model.backbone.seen == 0


def test_features_that_tell_nothing_are_refused_by_the_name_of_the_image(data, tmp_path):
    train, test = splits(data)
    config = AttentionConfig(images=2, occluder=4, stride=4, picture=str(tmp_path / "a.png"))
    model = small_model(size=12)
    nn.init.constant_(model.backbone.bn.weight, float("nan"))
    with pytest.raises(InputError, match=r"its features of .*/\d+\.png are NaN or infinite"):
        attention.run(model, train, test, config)
    nn.init.zeros_(model.backbone.bn.weight)
    with pytest.raises(InputError, match=r"\.png are all equal"):
        attention.run(model, train, test, config)
    assert not list(tmp_path.glob("*.png"))
