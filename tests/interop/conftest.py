import json
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from seer.backbones import build
from seer.backbones.base import Backbone
from seer.interop.models import save_backbone
from seer.interop.native import backbone_metadata
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


def pack(header: dict | bytes, body: bytes = b"") -> bytes:
    """A safetensors file of this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def tiny_file(path: Path, about: dict | None = None, **changes) -> Path:
    """A whole file of the backbone `regnety_tiny`; `changes` replace tensors by name, or take them out
    if None.
    """
    backbone = build("regnety_tiny")
    state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()} | changes
    tensors = {name: tensor for name, tensor in state.items() if tensor is not None}
    metadata = backbone_metadata(backbone.config, 32, MEAN, STD, about)
    save_file(tensors, path, metadata)
    return path
