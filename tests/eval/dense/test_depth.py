"""The linear depth probe."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from seer.errors import InputError
from seer.eval.data.mapfiles import NO_DEPTH
from seer.eval.data.surfaces import train_and_test
from seer.eval.dense import depth, frozen_maps, least_squares
from seer.eval.dense.depth import Fit, fitted, means_of, run
from seer.eval.dense.options import DepthConfig
from seer.interop.models import load_model
from tests.kit import rooms

CONFIG = DepthConfig(size=64, levels=[2], device="cpu", batch_size=3)


def test_means_of_places_are_those_of_their_known_pixels():
    metres = np.array([[1, 3, 5, np.nan], [1, 3, np.nan, np.nan], [2, 2, 2, 4], [2, 2, 2, 4]])
    means, weights = means_of(metres, (2, 2))
    assert weights.tolist() == [4, 1, 4, 4]
    assert means.tolist() == [2, 5, 2, 3]
    assert means_of(np.full((2, 2), np.nan), (1, 1))[1].tolist() == [0]


def test_a_guess_is_enlarged_and_stays_between_the_depths_that_were_seen():
    coefficients = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    fit = Fit(coefficients, 0.1, 1.0, 3.5)
    guess = fit.predict(torch.tensor([[[-5.0, 0.5, 9.0]]]), (2, 3))
    assert guess.tolist() == [[1.0, 2.5, 3.5]] * 2


def test_the_map_is_least_squares_on_every_known_pixel(tmp_path, monkeypatch):
    """Against numpy's on pixels, each with the features of its place."""
    rooms.frames(tmp_path, 8)
    train, _ = train_and_test(tmp_path)
    torch.manual_seed(0)
    features = torch.randn(len(train), 3, 6, 8, dtype=torch.float64)

    def streamed(model, count, load, config, name):
        for number in range(count):
            yield number, features[number], load(number)[1]

    monkeypatch.setattr(depth, "streamed", streamed)
    monkeypatch.setattr(least_squares, "RIDGES", [0.0])
    fit = fitted(SimpleNamespace(), train, CONFIG)
    rows, metres = [], []
    for number in range(len(train)):
        truth = train.depth(number)
        for (y, x), value in np.ndenumerate(truth):
            if np.isfinite(value):
                rows.append([*features[number, :, y // 8, x // 8].tolist(), 1])
                metres.append(value)
    wanted = np.linalg.lstsq(np.array(rows), np.array(metres), rcond=None)[0]
    assert fit.coefficients[:, 0].numpy() == pytest.approx(wanted, rel=1e-6)
    assert 0.5 < fit.nearest < fit.farthest < 4


def test_depth_is_learned_and_holes_are_counted(tmp_path):
    made = rooms.frames(tmp_path, 10)
    for number, each in enumerate(made):  # what is far is bright
        grey = np.clip(120 * (each.depth - 1.2), 0, 255).astype(np.uint8)
        rooms.picture(tmp_path / f"frame-{number:06d}.color.png", np.stack([grey] * 3, -1))
    train, test = train_and_test(tmp_path)
    torch.manual_seed(0)
    close, rmse, relative = run(load_model("regnety_tiny:random"), train, test, CONFIG)
    truth = np.concatenate([test.depth(i) for i in range(2)])
    known = truth[np.isfinite(truth)]
    # Better than the mean of all, whose error is the standard deviation.
    assert rmse.value < 0.5 * known.std()
    assert close.value > 0.8
    assert 0 < relative.value < 0.3
    assert close.headline
    assert close.details["pixels"] == len(known)
    assert close.details["not_scored"] == {NO_DEPTH: 30}
    assert rmse.low <= rmse.value <= rmse.high


def test_what_cannot_be_is_one_line(tmp_path, monkeypatch):
    rooms.pairs(tmp_path / "pairs", 3)
    train, test = train_and_test(tmp_path / "pairs")
    model = load_model("regnety_tiny:random")
    with pytest.raises(InputError, match="has normals and no depth for each image"):
        run(model, train, test, CONFIG)
    rooms.frames(tmp_path / "frames", 3)
    for number in range(3):
        holes = np.zeros((48, 64), np.uint16)
        rooms.picture(tmp_path / f"frames/frame-{number:06d}.depth.png", holes)
    train, test = train_and_test(tmp_path / "frames")
    with pytest.raises(InputError, match="too few of its training images have a depth"):
        run(model, train, test, CONFIG)
    monkeypatch.setattr(
        frozen_maps, "maps_of", lambda *_: lambda x: torch.full((len(x), 2, 2, 2), torch.nan)
    )
    with pytest.raises(InputError, match="features are NaN"):
        run(model, train, test, CONFIG)


def test_levels_are_numbered_by_their_strides():
    """2 to 5 are of strides 4 to 32; coarse ones are enlarged to the finest that is asked for."""
    model = load_model("regnety_tiny:random")
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        maps = model.backbone.eval().forward_features(images)
    for number, stride in enumerate((4, 8, 16, 32)):
        config = DepthConfig(levels=[number + 2], device="cpu")
        computed = frozen_maps.maps_of(model, config)(images)
        assert computed.shape[-2:] == (64 // stride, 64 // stride)
        assert torch.allclose(computed, maps[number])
    both = frozen_maps.maps_of(model, DepthConfig(levels=[5, 3], device="cpu"))(images)
    coarse = torch.nn.functional.interpolate(maps[3], (8, 8), mode="bilinear")
    assert torch.allclose(both, torch.cat([maps[1], coarse], 1))
