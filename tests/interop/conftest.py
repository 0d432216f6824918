from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from seer.backbones import BackboneConfig, build
from seer.interop.models import save_backbone
from tests.backbones.parity import settle

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.1]


def write_checkpoint(run: Path, step: int, name: str = "regnety_002", stem_stride: int = 2) -> torch.nn.Module:
    """A finished checkpoint with a backbone of its own; returns that backbone."""
    config = BackboneConfig(name, stem_stride)
    torch.manual_seed(step)
    backbone = settle(build(config), size=32)
    folder = run / "checkpoints" / f"step-{step:09d}"
    folder.mkdir(parents=True)
    save_backbone(folder / "backbone.safetensors", backbone.state_dict(), config, 64, MEAN, STD, {"step": step})
    return backbone


def write_config(run: Path, **changes) -> None:
    values = {
        "seed": 7,
        "backbone": {"name": "regnety_002", "stem_stride": 2},
        "views": {
            "large": {"size": 64, "count": 2},
            "small": {"size": 32, "count": 4},
            "off": {"size": 99, "count": 0},
        },
        "mean": MEAN,
        "std": STD,
    }
    run.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create({**values, **changes}), run / "config.yaml")


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of two finished checkpoints."""
    path = tmp_path / "my_run"
    write_config(path)
    write_checkpoint(path, 100)
    write_checkpoint(path, 1200)
    return path
