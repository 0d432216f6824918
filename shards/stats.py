"""What is in a data set of shards, read from its manifest, indices and quarantine; no image is opened."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from seer.data.index import MANIFEST, Manifest, index_path, read_index
from shards import quarantine
from shards.quarantine import counts

COLUMNS = ["width", "height", "size", "format", "sha256", "label"]
QUANTILES = {"min": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1.0}
MOST_NAMED = 20  # quarantine entries listed one by one


def stats(directory: str | Path) -> dict[str, Any]:
    """Counts and quantiles of a data set, ready for JSON.

    Keys: directory, shards, samples, bytes (of the tars), samples_per_shard, width, height, aspect_ratio (width /
    height), image_bytes (quantiles each), formats, classes (samples by class, None without labels), unlabelled,
    duplicates (images whose bytes occur earlier), quarantined (by kind of reason), quarantine (the first entries),
    ignored (files that were no images, by suffix).

    Raises:
        InputError: no manifest or a missing index.
    """
    manifest = Manifest.load(directory)
    columns, formats, labels = _gather(manifest)
    entries = quarantine.read(manifest.directory)
    classes = manifest.classes
    return {
        "directory": str(directory),
        "shards": len(manifest.shards),
        "samples": manifest.samples,
        "bytes": sum(pq.read_table(manifest.directory / MANIFEST, columns=["bytes"])["bytes"].to_pylist()),
        "samples_per_shard": _quantiles(manifest.sizes),
        "width": _quantiles(columns["width"]),
        "height": _quantiles(columns["height"]),
        "aspect_ratio": _quantiles(columns["width"] / columns["height"]),
        "image_bytes": _quantiles(columns["size"]),
        "formats": dict(formats.most_common()),
        "classes": None if classes is None else {name: labels[label] for label, name in enumerate(classes)},
        "unlabelled": labels[None],
        "duplicates": len(columns["digest"]) - len(np.unique(columns["digest"])),
        "quarantined": quarantine.tally(entries),
        "quarantine": entries[:MOST_NAMED],
        "ignored": manifest.build.get("ignored", {}),
    }


def _gather(manifest: Manifest) -> tuple[dict[str, np.ndarray], Counter, Counter]:
    """Numeric columns over all shards, and counts by format and by label."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("width", "height", "size", "digest")}
    formats, labels = Counter[str](), Counter[int | None]()
    for shard in manifest.shards:
        table = read_index(index_path(manifest.directory / shard), COLUMNS)
        for name in ("width", "height", "size"):
            parts[name].append(table[name].to_numpy())
        digests = b"".join(digest[:8] for digest in table["sha256"].to_pylist())  # 64 bits tell images apart
        parts["digest"].append(np.frombuffer(digests, np.uint64))
        formats.update(table["format"].to_pylist())
        labels.update(table["label"].to_pylist())
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}, formats, labels


def _quantiles(values: np.ndarray) -> dict[str, float]:
    found = np.quantile(values, list(QUANTILES.values()))
    return {name: round(float(value), 4) for name, value in zip(QUANTILES, found, strict=True)}


def lines(found: dict[str, Any]) -> list[str]:
    """What `stats` found, for a terminal."""
    result = [
        f"{found['samples']:,} images in {found['shards']:,} shards, {found['bytes'] / 1e6:,.1f} MB",
        f"formats: {counts(found['formats'], most=8)}",
    ]
    for name in ("width", "height", "aspect_ratio", "image_bytes"):
        values = ", ".join(f"{quantile} {value:,.4g}" for quantile, value in found[name].items())
        result.append(f"{name.replace('_', ' ')}: {values}")
    if found["classes"]:
        result.append(f"{len(found['classes']):,} classes: {counts(found['classes'], most=5)}")
    if found["classes"] and found["unlabelled"]:
        result.append(f"{found['unlabelled']:,} images without a label")
    if found["duplicates"]:
        result.append(f"{found['duplicates']:,} exact duplicates")
    if found["quarantined"]:
        result.append(f"quarantined: {counts(found['quarantined'], most=8)}")
        result += [f"  {entry['source']}: {entry['reason']}" for entry in found["quarantine"]]
    if found["ignored"]:
        result.append(f"ignored, no images: {counts(found['ignored'], most=8)}")
    return result
