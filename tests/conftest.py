"""What many tests share: a small set of shards, and a recipe that trains in seconds."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seer.data.storage.index import index_path, read_index

TINY = """
steps: 5
batch_size: 8
seed: 3
# Residual branches start at zero, else each step multiplies rounding errors a hundredfold.
backbone: {name: regnety_002, stem_stride: 1, zero_init_residual: true}
method: {name: swav, head: [32, 16], prototypes: 12, freeze: 1}
views:
  large: {size: 24, count: 2}
  small: {size: 16, count: 2}
optim: {weight_decay: 1.0e-4, larc_trust: 0.02}
schedule: {peak: 0.1, final: 0.01, start: 0.05, warmup: 2}
loader: {workers: 0}
checkpoint: {every: 100}
log: {every: 1, tensorboard: false}
"""


def pytest_configure() -> None:
    # Tests start processes of their own; each of them with all cores would only get in the others'
    # way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def photograph(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    """`(H, W, 3)` uint8: smooth colour with an edge, different for every seed; JPEG keeps most of
    it.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    phase, frequency = rng.uniform(0, 6, (2, 3)), rng.uniform(2, 12, (2, 3))
    waves = np.sin(frequency[0] * x[..., None] + phase[0]) + np.sin(
        frequency[1] * y[..., None] + phase[1]
    )
    waves += (x[..., None] > rng.uniform(0.2, 0.8)) * rng.uniform(-1, 1, 3)
    return (127 + 40 * waves).clip(0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, quality: int = 92) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    return out.getvalue()


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Class folders: train/{a,b}/*.jpg with 40 images, test/{a,b}/*.jpg with 16."""
    root = tmp_path_factory.mktemp("images")
    for split, count in {"train": 40, "test": 16}.items():
        for i in range(count):
            path = root / split / "ab"[i % 2] / f"{i:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(photograph(1000 * (split == "test") + i)))
    return root


@pytest.fixture(scope="session")
def shards(folder, tmp_path_factory) -> Path:
    """The training images of `folder` as three shards."""
    from shards.build import BuildOptions, build

    out = tmp_path_factory.mktemp("shards")
    build([str(folder / "train")], out, BuildOptions(shard_size=16, workers=1))
    return out


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> str:
    """The path of a recipe that makes five steps of SwAV in a few seconds."""
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


def rows(run_dir: Path) -> list[dict]:
    """The rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]


def losses(run_dir: Path) -> list[float]:
    """The loss of every step, each step exactly once and in order."""
    steps = rows(run_dir)
    assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))
    return [row["loss"] for row in steps]


def spoil(shards: Path, out: Path, rows: dict[str, list[int]]) -> Path:
    """A copy of `shards` in which the images in these rows of each shard can no longer be decoded."""
    shutil.copytree(shards, out)
    for shard, damaged in rows.items():
        index = read_index(index_path(out / shard)).to_pylist()
        with open(out / shard, "r+b") as file:
            for row in damaged:
                file.seek(index[row]["offset"])
                file.write(bytes(min(64, index[row]["size"])))
    return out


LONGEST = {"test_faults", "test_pretrain", "test_rollback", "test_places", "test_equality"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that two processes end together."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)
