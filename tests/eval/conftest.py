"""Small coloured pictures in class folders, which raw colour tells apart only in part."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from seer.interop.models import Model

COLOURS = {"brick": (170, 90, 70), "moss": (100, 140, 80), "slate": (90, 100, 150)}


def write_images(
    folder: Path, per_class: int, seed: int, size: int = 24, noise: float = 40.0
) -> Path:
    """`folder/CLASS/000.png`: the class's colour, a tint of the image's own and noise."""
    random = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = (
                np.array(colour)
                + random.normal(0, noise, 3)
                + random.normal(0, 20, (size, size, 3))
            )
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
                folder / name / f"{i:03d}.png"
            )
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A folder with train/ (3 × 40 images) and test/ (3 × 20)."""
    root = tmp_path_factory.mktemp("images")
    write_images(root / "train", 40, seed=0)
    write_images(root / "test", 20, seed=1)
    return root


class Net(nn.Module):
    """A little random convolutional backbone with BatchNorm; counts the images that it sees."""

    out_dim = 12

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Conv2d(3, 12, 3, 2), nn.BatchNorm2d(12), nn.ReLU())
        self.seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        return self.layers(x).mean((2, 3))


def small_model(seed: int = 0, size: int = 16, run_dir: Path | None = None) -> Model:
    return Model(Net(seed).eval(), "net", size, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4], "abc", run_dir)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEER_CACHE", str(tmp_path / "cache"))
