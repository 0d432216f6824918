"""Small coloured pictures in class folders, which raw colour tells apart only in part."""

from pathlib import Path

import pytest
import torch

from seer.interop.models import Model
from tests.kit.networks import ConvNet
from tests.kit.pictures import write_images


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A folder with train/ (3 × 40 images) and test/ (3 × 20)."""
    root = tmp_path_factory.mktemp("images")
    write_images(root / "train", 40, seed=0)
    write_images(root / "test", 20, seed=1)
    return root


def small_model(seed: int = 0, size: int = 16, run_dir: Path | None = None) -> Model:
    """A little random convolutional backbone, which counts the images that it sees."""
    torch.manual_seed(seed)
    return Model(
        ConvNet(12, stride=2).eval(), "net", size, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4], "abc", run_dir
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEER_CACHE", str(tmp_path / "cache"))
