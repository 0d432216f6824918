"""Invariance against networks of which it is known, and alterations against Pillow."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from seer.data.crops.multicrop import MultiCrop
from seer.data.labelled import load_labelled
from seer.errors import InputError
from seer.eval.analyses.image_options import InvarianceConfig
from seer.eval.analyses.invariance import ALTERATIONS, altered, cutters, run
from seer.eval.task import evaluate
from tests.eval.conftest import small_model


class Grey(nn.Module):
    """The sorted brightness of an image's pixels: neither flips nor lost colours change it."""

    out_dim = 16 * 16

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = x.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
        return (x * weights).sum(1).flatten(1).sort(1).values


def model_of(backbone: nn.Module):
    return replace(small_model(), backbone=backbone, size=16, mean=[0.0] * 3, std=[1.0] * 3)


def scores_of(backbone: nn.Module, data, **options):
    train, test = load_labelled(data, "train"), load_labelled(data, "test")
    found = run(model_of(backbone), train, test, InvarianceConfig(images=9, **options))
    return {score.metric: score for score in found}


def test_what_a_network_does_not_see_changes_nothing(data):
    scores = scores_of(Grey(), data)
    assert scores["flip"].value == pytest.approx(1, abs=1e-9)
    assert scores["grey"].value == pytest.approx(1, abs=0.01)
    assert scores["solarize"].value < 0.9
    assert set(scores) == {"mean", *ALTERATIONS, "all", "alignment"}
    mean = np.mean([scores[name].value for name in ALTERATIONS])
    assert scores["mean"].value == pytest.approx(mean)
    assert scores["mean"].headline


def test_another_image_is_what_no_invariance_is_measured_by(data):
    scores = scores_of(Grey(), data)
    different = scores["flip"].details["different"]
    for name in ALTERATIONS:
        cosine = scores[name].details["cosine"]
        assert scores[name].value == pytest.approx((cosine - different) / (1 - different), abs=1e-4)


class Constant(nn.Module):
    """Sees nothing."""

    out_dim = 2

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_full((len(x), 2), self.level)


@pytest.mark.parametrize("level", [0.0, 3.0])
def test_a_network_that_sees_nothing_is_no_invariant_one(data, level):
    with pytest.raises(InputError, match="features of different images are all alike"):
        scores_of(Constant(level), data)


def test_each_alteration_is_the_one_that_it_is_called():
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    kinds = dict(altered(pixels, cutters(model_of(Grey()), 0), np.array([0, 1])))
    levels = {name: 255 * crops.permute(0, 2, 3, 1) for name, crops in kinds.items()}
    whole = torch.from_numpy(pixels.astype(np.float32))
    torch.testing.assert_close(levels["itself"], whole, atol=0.01, rtol=0)
    torch.testing.assert_close(levels["flip"], whole.flip(2), atol=0.01, rtol=0)
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in pixels])
    for channel in range(3):
        assert (levels["grey"][..., channel] - torch.from_numpy(grey)).abs().max() <= 1
    inverted = torch.where(whole >= 128, 255 - whole, whole)
    torch.testing.assert_close(levels["solarize"], inverted, atol=1.01, rtol=0)
    for name in ("crop", "brightness", "contrast", "saturation", "hue", "blur"):
        assert not torch.allclose(levels[name], whole, atol=2), name


def test_the_same_seed_alters_alike(data):
    first = scores_of(Grey(), data, seed=3)
    again = scores_of(Grey(), data, seed=3)
    other = scores_of(Grey(), data, seed=4)
    assert [s.value for s in first.values()] == [s.value for s in again.values()]
    assert first["crop"].value != other["crop"].value


def test_images_are_altered_where_the_network_is(data, monkeypatch):
    where = torch.device("cpu", 0)  # tells itself from "cpu"
    monkeypatch.setattr("seer.eval.analyses.invariance.own_device", lambda name: where)
    devices = []
    finish = MultiCrop.finish

    def spy(self, batch, device):
        devices.append(device)
        return finish(self, batch, device)

    monkeypatch.setattr(MultiCrop, "finish", spy)
    scores_of(Grey(), data)
    assert set(devices) == {where}


def test_the_task(data, tmp_path, monkeypatch):
    monkeypatch.setattr("seer.eval.pixels.load_model", lambda spec: small_model())
    rows = evaluate("invariance", "net", data, ["images=6"], tmp_path / "results.jsonl")
    assert len(rows) == len(ALTERATIONS) + 3
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    with pytest.raises(InputError, match="a single image has no other one"):
        evaluate("invariance", "net", data, ["images=1"], tmp_path / "results.jsonl")
