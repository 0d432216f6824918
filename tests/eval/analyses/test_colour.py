"""Images made anew from features: what a network keeps of colour and content."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision import models

from seer.backbones import build
from seer.backbones.options import BackboneConfig
from seer.data.labelled import splits
from seer.errors import InputError
from seer.eval import pixels
from seer.eval.analyses import colour
from seer.eval.analyses.by_image import GAP, SIDE
from seer.eval.analyses.colour import invert, normalised, prior_pixels, scores_of
from seer.eval.analyses.deep_image_prior import Prior
from seer.eval.analyses.feature_maps import last_map
from seer.eval.analyses.image_options import ColourConfig
from seer.eval.analyses.perceptual import read_perceptual
from seer.eval.probes.features import to_input
from seer.interop.models import Model, load_model
from tests.eval.conftest import small_model
from tests.kit import networks  # noqa: F401, whose backbone is measured
from tests.kit.pictures import photograph

CPU = torch.device("cpu")


class Same(nn.Module):
    """Keeps everything: its feature map is the image."""

    out_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x).mean((2, 3))


class Grey(Same):
    """Keeps what is light, and no colour."""

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x.mean(1, keepdim=True)).mean((2, 3))


def model_of(network: nn.Module, size: int = 32) -> Model:
    return replace(small_model(size=size), backbone=network.eval(), mean=[0.0] * 3, std=[1.0] * 3)


def remade(network: nn.Module, image: np.ndarray, steps: int) -> tuple[Tensor, float]:
    """What is made of an image's features, `(3, S, S)`, and the loss."""
    model = model_of(network, len(image))
    _, features = last_map(model, CPU)
    prior = Prior(model.size, 0)
    config = ColourConfig(steps=steps, lr=0.01)
    target = torch.from_numpy(image)[None]
    loss = invert(prior, model, features, target, config, "image", lambda more: None)
    return prior_pixels(prior), loss


def test_of_a_network_that_keeps_everything_the_image_comes_back_and_of_one_without_colour_its_greys():
    image = photograph(3, 16, 16)
    original = torch.from_numpy(image).permute(2, 0, 1) / 255
    flat = original.mean((1, 2), keepdim=True)
    variance = float((original - flat).square().mean())
    made, loss = remade(Same(), image, 40)
    _, earlier = remade(Same(), image, 10)
    assert loss < earlier / 4
    assert float((made - original).square().mean()) < 0.1 * variance
    grey, _ = remade(Grey(), image, 40)
    assert float((grey.mean(0) - original.mean(0)).square().mean()) < 0.1 * variance
    assert float((grey - original).square().mean()) > 2 * float((made - original).square().mean())


def test_a_prior_is_the_same_for_the_same_seed_and_makes_images_of_any_size():
    for size in (2, 5, 16, 33, 96):
        prior = Prior(size, 1)
        assert prior().shape == (1, 3, size, size)
        assert torch.equal(prior_pixels(prior), prior_pixels(Prior(size, 1)))
    assert not torch.equal(prior_pixels(Prior(16, 1)), prior_pixels(Prior(16, 2)))
    # Six levels at the size of published networks; widths 16, 32, 64, 128, 128, 128.
    levels = [module for module in Prior(224, 0).modules() if type(module).__name__ == "Level"]
    assert [level.up[1][0].out_channels for level in levels] == [16, 32, 64, 128, 128, 128]


def test_errors_are_of_each_channel_from_0_to_255_squared():
    originals = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([10, 0, -20]).view(3, 1, 1) / 255
    values = {score.metric: score for score in scores_of(originals, originals + shift, None, {})}
    found = {name: score.value for name, score in values.items()}
    assert found == pytest.approx(
        {"mse_red": 100, "mse_green": 0, "mse_blue": 400, "mse": 500 / 3}, abs=1e-3
    )
    assert {score.better for score in values.values()} == {"lower"}
    assert [name for name, score in values.items() if score.headline] == ["mse"]
    assert all(score.low <= score.value <= score.high for score in values.values())


def test_what_a_prior_makes_is_normalised_as_images_are():
    model = small_model()
    made = torch.randint(0, 256, (2, 5, 5, 3), generator=torch.Generator().manual_seed(0))
    expected = to_input(model, made.to(torch.uint8))
    ours = normalised(made.permute(0, 3, 1, 2) / 255, model)
    assert torch.allclose(ours, expected, atol=1e-6)


def test_it_runs_on_images_and_draws_what_it_made(data, tmp_path, caplog):
    train, test = splits(data)
    model = replace(load_model("regnety_tiny:random"), size=32, run_dir=tmp_path)
    model.label = "run step-000010"
    config = ColourConfig(images=2, steps=3, seed=4)
    with caplog.at_level(logging.WARNING):
        scores = colour.run(model, train, test, config)
    assert "colour: 2 images × 3 steps at 32 px, about" in caplog.text
    assert "LPIPS is not measured: nothing is downloaded; give lpips=FILE" in caplog.text
    assert [score.metric for score in scores] == ["mse_red", "mse_green", "mse_blue", "mse"]
    assert scores[0].details["layer"] == "C5"
    with Image.open(tmp_path / "images/colour.png") as picture:
        assert picture.size == (2 * SIDE + GAP, 2 * SIDE + GAP)
    again = colour.run(replace(model), train, test, config)
    assert again == scores


def test_the_map_is_the_last_that_tells_places_apart():
    x = torch.randn(2, 3, 64, 64)
    backbone = build(BackboneConfig("regnety_tiny")).eval()
    name, features = last_map(replace(model_of(backbone, 64)), CPU)
    assert (name, features(x).shape) == ("C5", backbone.forward_features(x)[-1].shape)
    for spec, shape in {
        "torchvision:resnet18:random": (2, 512, 2, 2),
        "torchvision:mobilenet_v2:random": (2, 1280, 2, 2),
        "torchvision:vit_b_32:random": (2, 50, 768),
    }.items():
        model = load_model(spec)
        images = x if "vit" not in spec else torch.randn(2, 3, 224, 224)
        _, features = last_map(replace(model, size=images.shape[-1]), CPU)
        assert features(images).shape == shape, spec


def test_what_cannot_be_is_said_before_the_work(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train, test = splits(data)
    with pytest.raises(InputError, match="pixels:16: has no feature map of several places"):
        colour.run(pixels.load("pixels:16", train), train, test, ColourConfig(steps=1))
    model = small_model()
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    for options, message in {
        ("lpips", "nothing.pth"): "nothing.pth",
        ("lpips", "other.pth"): r"holds no weights of LPIPS.*1 \(fc.weight\)",
        ("picture", "a.gif"): "ends in .png",
        ("steps", 0): "steps",
    }.items():
        with pytest.raises(InputError, match=message):
            colour.run(model, train, test, ColourConfig(**dict([options])))
    assert model.backbone.seen == 0
    nn.init.constant_(model.backbone.bn.bias, float("nan"))
    with pytest.raises(InputError, match=r"its features of the first image are NaN or infinite"):
        colour.run(model, train, test, ColourConfig(steps=1))
    assert {path.name for path in tmp_path.iterdir()} <= {"other.pth", "cache"}


def lpips_alexnet(seed: int) -> dict[str, Tensor]:
    """Random weights as `lpips.LPIPS(net="alex").state_dict()` names them."""
    torch.manual_seed(seed)
    slices = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}
    state = {}
    for number, module in enumerate(models.alexnet(weights=None).features):
        if isinstance(module, nn.Conv2d):
            state[f"net.slice{slices[number]}.{number}.weight"] = module.weight.detach()
            state[f"net.slice{slices[number]}.{number}.bias"] = module.bias.detach()
    for i, width in enumerate((64, 192, 384, 256, 256)):
        state[f"lin{i}.model.1.weight"] = torch.rand(1, width, 1, 1)
        state[f"lins.{i}.model.1.weight"] = state[f"lin{i}.model.1.weight"]
    state["scaling_layer.shift"] = torch.zeros(1, 3, 1, 1)
    return state


def distance(state: dict[str, Tensor], first: Tensor, second: Tensor) -> float:
    """LPIPS by its definition, of images `(3, H, W)` from 0 to 1."""
    layers = [("1.0", 4, 2), ("2.3", 1, 2), ("3.6", 1, 1), ("4.8", 1, 1), ("5.10", 1, 1)]
    mean = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    deviation = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    maps = [((2 * image - 1 - mean) / deviation)[None] for image in (first, second)]
    total = 0.0
    for i, (name, stride, padding) in enumerate(layers):
        weight = state[f"net.slice{name}.weight"]
        bias = state[f"net.slice{name}.bias"]
        maps = [F.conv2d(x, weight, bias, stride, padding).relu() for x in maps]
        unit = [x[0] / x[0].norm(dim=0, keepdim=True).clamp(min=1e-10) for x in maps]
        channels = state[f"lin{i}.model.1.weight"].flatten()
        squares = (unit[0] - unit[1]) ** 2
        total += float((channels.view(-1, 1, 1) * squares).sum(0).mean())
        if i < 2:
            maps = [F.max_pool2d(x, 3, 2) for x in maps]
    return total


def test_the_perceptual_distance_is_that_of_the_definition(tmp_path):
    state = lpips_alexnet(0)
    torch.save(state, tmp_path / "alex.pth")
    perceptual = read_perceptual(tmp_path / "alex.pth")
    first, second = torch.rand(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = [distance(state, a, b) for a, b in zip(first, second, strict=True)]
    assert perceptual(first, second).tolist() == pytest.approx(expected, rel=1e-4)
    assert perceptual(first, first).abs().max() == 0
    scores = scores_of(first, second, perceptual, {})
    assert scores[-1].metric == "lpips_alexnet"
    assert scores[-1].value == pytest.approx(np.mean(expected), rel=1e-4)
    state["lin3.model.1.weight"][0, 0] = float("nan")
    torch.save(state, tmp_path / "damaged.pth")
    with pytest.raises(InputError, match=r"lin3\.model\.1\.weight are NaN"):
        read_perceptual(tmp_path / "damaged.pth")
    del state["net.slice2.3.bias"]
    state["lin3.model.1.weight"][0, 0] = 0.0
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(InputError, match="1 tensors missing"):
        read_perceptual(tmp_path / "part.pth")
