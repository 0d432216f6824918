"""Features in clusters: a list of images for each, by which experts are trained (Divide and Contrast)."""

import io
import json
import os
import warnings
import zipfile
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor

from seer import files
from seer.errors import InputError, first_line
from seer.inputs import open_file
from seer.methods.kmeans import Clusters, spherical_kmeans

ITERATIONS = 20
RESTARTS = 4
PACKED = 1000  # values that a byte of a Parquet file stands for at most
SUMMARY = "clusters.json"


@dataclass(frozen=True)
class Features:
    """Keys, and `(N, D)` float32 features, as `seer embed` wrote them."""

    keys: list[str]
    values: Tensor


def read_features(path: Path) -> Features:
    """Features out of a `.parquet` or `.npz`. Raises `InputError`."""
    try:
        with open_file(path) as file:
            keys, values = (_from_npz if path.suffix == ".npz" else _from_parquet)(file)
    except InputError:
        raise
    except Exception as error:  # whatever a library says of bytes
        raise InputError(
            f"{path}: holds no features ({first_line(error)}); give what seer embed wrote"
        ) from None
    wrong = values.ndim != 2 or len(values) != len(keys) or values.dtype.kind not in "fiu"
    if wrong or not values.size or not all(isinstance(key, str) for key in keys):
        raise InputError(f"{path}: holds no features for each key; give what seer embed wrote")
    _check_keys(keys, path)
    with np.errstate(over="ignore"):
        values = np.array(values, dtype=np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{path}: features are NaN or infinite; embed with another model")
    return Features(keys, torch.from_numpy(values))


def _check_keys(keys: list[str], path: Path) -> None:
    """Raise `InputError` unless each is a line of a list, and there once."""
    for key in keys:
        if not key.strip() or not key.isprintable():
            raise InputError(f"{path}: has the key {key!r:.100}, which is no line of a list")
    if len(set(keys)) < len(keys):
        key = next(key for key, count in Counter(keys).items() if count > 1)
        raise InputError(f"{path}: has the key {key!r:.100} twice; give each image once")


def _from_parquet(file: BinaryIO) -> tuple[list[str], np.ndarray]:
    size = os.fstat(file.fileno()).st_size
    with pq.ParquetFile(file) as held:
        groups = [held.metadata.row_group(i) for i in range(held.metadata.num_row_groups)]
        sizes = [g.column(c).num_values for g in groups for c in range(held.metadata.num_columns)]
        if sum(sizes) > PACKED * size:
            raise ValueError("it says that it has more values than its bytes can hold")
        table = held.read(columns=["key", "features"], use_threads=False)
    column = table["features"].combine_chunks()
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) != 1 or column.null_count:
        raise ValueError("rows of features are of different lengths")
    values = column.flatten().to_numpy().reshape(len(table), -1)
    return table["key"].to_pylist(), values


def _from_npz(file: BinaryIO) -> tuple[list[str], np.ndarray]:
    with zipfile.ZipFile(file) as held:
        # So its size bounds what is read: as `numpy.savez` writes it.
        if any(member.compress_type != zipfile.ZIP_STORED for member in held.infolist()):
            raise ValueError("it is compressed; write it by numpy.savez")
        keys = _from_npy(held.read("keys.npy"))
        return keys.tolist(), _from_npy(held.read("features.npy"))


def _from_npy(content: bytes) -> np.ndarray:
    """An array as large as its bytes. Raises ValueError, and whatever else numpy does."""
    formats = np.lib.format
    file = io.BytesIO(content)
    first = formats.read_magic(file) == (1, 0)
    read = formats.read_array_header_1_0 if first else formats.read_array_header_2_0
    with warnings.catch_warnings(action="ignore"):
        shape, _, dtype = read(file)
    if prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError("it has not as many values as it says")
    return formats.read_array(io.BytesIO(content), allow_pickle=False)


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
