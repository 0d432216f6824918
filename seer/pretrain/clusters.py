"""Features in clusters: a list of images for each, by which experts are trained (Divide and Contrast)."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor

from seer import files
from seer.errors import InputError, first_line
from seer.methods.kmeans import Clusters, spherical_kmeans

ITERATIONS = 20
RESTARTS = 4
SUMMARY = "clusters.json"


@dataclass(frozen=True)
class Features:
    """Keys, and `(N, D)` float32 features, as `seer embed` wrote them."""

    keys: list[str]
    values: Tensor


def read_features(path: Path) -> Features:
    """Features out of a `.parquet` or `.npz`. Raises `InputError`."""
    try:
        keys, values = (_from_npz if path.suffix == ".npz" else _from_parquet)(path)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(
            f"{path}: holds no features ({first_line(error)}); give what seer embed wrote"
        ) from None
    if values.ndim != 2 or len(values) != len(keys):
        raise InputError(f"{path}: holds no features for each key; give what seer embed wrote")
    if not np.isfinite(values).all():
        raise InputError(f"{path}: features are NaN or infinite; embed with another model")
    return Features(keys, torch.from_numpy(np.array(values, dtype=np.float32)))


def _from_parquet(path: Path) -> tuple[list[str], np.ndarray]:
    table = pq.read_table(path, columns=["key", "features"])
    column = table["features"].combine_chunks()
    return table["key"].to_pylist(), column.flatten().to_numpy().reshape(len(table), -1)


def _from_npz(path: Path) -> tuple[list[str], np.ndarray]:
    with np.load(path, allow_pickle=False) as held:
        return held["keys"].tolist(), held["features"]


def cluster(features: Features, count: int, seed: int = 0) -> tuple[Clusters, float]:
    """The best of several spherical k-means, each begun by other images.

    Returns:
        It, and the mean cosine of images with their centroid.

    Raises:
        InputError: fewer images than clusters.
    """
    rows = F.normalize(features.values, dim=1)
    if len(rows) < count:
        raise InputError(f"clusters={count}: more than the {len(rows)} images; give fewer")
    best: tuple[Clusters, float] | None = None
    for attempt in range(RESTARTS):
        begin = _spread(rows, count, np.random.default_rng([seed, attempt]))
        clusters = spherical_kmeans(rows, begin, ITERATIONS, refill=True)
        cosine = float((rows * clusters.centroids[clusters.assignments]).sum(1).mean())
        if best is None or cosine > best[1]:
            best = clusters, cosine
    assert best is not None
    return best


def _spread(rows: Tensor, count: int, draw: np.random.Generator) -> Tensor:
    """Rows to begin with, each drawn the likelier the further from those before it (k-means++; Arthur &
    Vassilvitskii 2007, SODA).
    """
    chosen = rows[draw.integers(len(rows))][None]
    furthest = 1 - rows @ chosen[0]
    while len(chosen) < count:
        weights = furthest.clamp(min=0).double().numpy() + 1e-12
        row = rows[draw.choice(len(rows), p=weights / weights.sum())]
        chosen = torch.cat([chosen, row[None]])
        furthest = torch.minimum(furthest, 1 - rows @ row)
    return chosen


def write_lists(features: Features, clusters: Clusters, cosine: float, out: Path) -> dict:
    """Write `0.txt`, `1.txt`, … with the keys of each cluster, and what they come to; that too."""
    numbers = clusters.assignments.tolist()
    sizes = torch.bincount(clusters.assignments, minlength=len(clusters.centroids)).tolist()
    width = len(str(len(sizes) - 1))
    names = [f"{number:0{width}}.txt" for number in range(len(sizes))]
    lines: list[list[str]] = [[] for _ in names]
    for key, number in zip(features.keys, numbers, strict=True):
        lines[number].append(key)
    summary = {"out": str(out), "lists": names, "sizes": sizes, "cosine": cosine}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, keys in zip(names, lines, strict=True):
            files.write(out / name, "".join(f"{key}\n" for key in keys))
        files.write(out / SUMMARY, json.dumps(summary, indent=2) + "\n")
    except OSError as error:
        raise InputError(
            f"--out {out}: cannot be written ({error.strerror}); give another folder"
        ) from None
    return summary
