from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from seer.backbones import Backbone, build
from seer.interop.models import save_backbone
from tests.backbones.parity import settle

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.1]


@cache
def trained(seed: int) -> Backbone:
    """A backbone with weights of its own. Shared: not to be changed."""
    torch.manual_seed(seed)
    return settle(build("regnety_002"))


def write_checkpoint(run: Path, step: int) -> None:
    """A finished checkpoint that holds `trained(step)`."""
    folder = run / "checkpoints" / f"step-{step:09d}"
    folder.mkdir(parents=True)
    backbone, file = trained(step), folder / "backbone.safetensors"
    save_backbone(file, backbone.state_dict(), backbone.config, 64, MEAN, STD, {"step": step})


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
    (run / "config.yaml").write_text(yaml.safe_dump({**values, **changes}))


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of two finished checkpoints."""
    path = tmp_path / "my_run"
    write_config(path)
    write_checkpoint(path, 100)
    write_checkpoint(path, 1200)
    return path
