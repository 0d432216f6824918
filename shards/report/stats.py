"""What is in a data set of shards, read from its manifest, indices and quarantine, and from a few
of its images.
"""

import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seer.data.storage.index import EXTRAS, Manifest
from shards.dedup.find import exact_duplicates, find
from shards.dedup.known import halves, of_shards
from shards.dedup.near import NONE
from shards.options import DedupOptions
from shards.records import quarantine
from shards.records.quarantine import counts
from shards.report import sampled
from shards.report.origin import made_by
from shards.report.pairs import exact_pairs, near_pairs

COLUMNS = ["width", "height", "size", "format", "sha256", "label", "source", EXTRAS]
QUANTILES = {"min": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1.0}
BINS = 24
OUTSIDE = 0.01  # of the values, at each end of a histogram
MOST_NAMED = 20  # quarantine entries listed one by one
MOST_SOURCES = 30
REST = "…"  # what the rarest are summed up as
SOURCE = re.compile(r"\w+://(?:[^/@]*@)?([^/]+)|(.*?\.(?:tar|zip|parquet))/|(?:\./|/)?([^/]+)/")


def stats(directory: str | Path, near: bool = False, pictures: int = 256) -> dict[str, Any]:
    """Counts and quantiles of a data set, ready for JSON.

    Args:
        near: look for near duplicates, which opens those images that may be some.
        pictures: images that are opened for the mean colour.

    Keys: directory, shards, samples, bytes (of the tars), samples_per_shard, width, height,
    aspect_ratio (width / height), image_bytes (quantiles each), histograms (of width, height,
    aspect_ratio and image_bytes: `edges` and `counts`, in equal steps of the logarithm from the 1st
    to the 99th percentile; `below` and `above`: how many lie outside), formats,
    extras (members besides images and labels by suffix, the rarest summed up as `…`; those of indices of
    earlier versions are not known),
    classes (samples by class, None without labels), unlabelled, duplicates (images whose bytes
    occur earlier), near_duplicates (further ones, as `--dedup near` finds them; None if they were
    not looked for), pairs (the first few of both, see `shards.report.pairs`),
    sources (images by host, archive or first folder; the rarest summed up as `…`),
    colour (`mean` and `std` of red, green and blue, 0 to 255, over the pixels of `images` pictures
    drawn at random, all pictures weighing the same), quarantined (by kind of reason), quarantine
    (the first entries), ignored (files that were no images, by suffix), removed (images taken out
    later), build (how the shards were made, see `shards.report.origin.made_by`).

    Raises:
        InputError: no manifest, a missing index, or no perceptual hashes to look for near duplicates by.
    """
    manifest = Manifest.load(directory)
    columns, counted = _gather(manifest)
    entries = quarantine.read(manifest.directory)
    classes = manifest.classes
    labels = counted["label"]
    first_of = exact_duplicates(columns["digest"])
    removals = _near(manifest) if near else None
    measures = {
        "width": columns["width"],
        "height": columns["height"],
        "aspect_ratio": columns["width"] / columns["height"],
        "image_bytes": columns["size"],
    }
    return {
        "directory": str(directory),
        "shards": len(manifest.shards),
        "samples": manifest.samples,
        "bytes": int(manifest.bytes.sum()),
        "samples_per_shard": _quantiles(manifest.sizes),
        **{name: _quantiles(values) for name, values in measures.items()},
        "histograms": {name: _histogram(values) for name, values in measures.items()},
        "formats": dict(counted["format"].most_common()),
        "extras": _commonest(counted[EXTRAS]),
        "classes": None
        if classes is None
        else {name: labels[label] for label, name in enumerate(classes)},
        "unlabelled": labels[None],
        "duplicates": int((first_of != NONE).sum()),
        "near_duplicates": None if removals is None else _count(removals),
        "pairs": [
            *exact_pairs(manifest, first_of),
            *(near_pairs(manifest, removals) if removals is not None else []),
        ],
        "sources": _commonest(counted["source"]),
        "colour": sampled.colour(manifest, pictures),
        "quarantined": quarantine.tally(entries),
        "quarantine": entries[:MOST_NAMED],
        "ignored": manifest.build.get("ignored", {}),
        "removed": manifest.build.get("removed", 0),
        "build": made_by(manifest),
    }


def _gather(manifest: Manifest) -> tuple[dict[str, np.ndarray], dict[str, Counter]]:
    """Numeric columns over all shards, and counts by format, label, source and suffix."""
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ("width", "height", "size", "digest")
    }
    counted = {name: Counter[Any]() for name in ("format", "label", "source", EXTRAS)}
    for number in range(len(manifest.shards)):
        table = manifest.index(number, COLUMNS)
        for name in ("width", "height", "size"):
            parts[name].append(table[name].to_numpy())
        parts["digest"].append(halves(table["sha256"]))
        counted["format"].update(table["format"].to_pylist())
        counted["label"].update(table["label"].to_pylist())
        counted["source"].update(map(_origin, table["source"].to_pylist()))
        if EXTRAS in table.column_names:
            counted[EXTRAS].update(_suffixes(table[EXTRAS]))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}, counted


def _suffixes(extras: pa.ChunkedArray) -> dict[str, int]:
    """How many members have each suffix."""
    counts = pc.value_counts(pc.struct_field(pc.list_flatten(extras), "suffix"))
    return {count["values"]: count["counts"] for count in counts.to_pylist()}


def _origin(source: str) -> str:
    """The host of a URL, the archive of a member, the first folder of a path; `.` for a file beside
    it.
    """
    found = SOURCE.match(source)
    return next(filter(None, found.groups())) if found else "."


def _commonest(counter: Counter) -> dict[str, int]:
    ranked = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ranked[MOST_SOURCES:])
    return dict(ranked[:MOST_SOURCES]) | ({REST: rest} if rest else {})


def _near(manifest: Manifest) -> pa.Table:
    """What `--dedup near` would take out."""
    known = of_shards(manifest.directory, manifest.shards, manifest.sizes.tolist())
    with tempfile.TemporaryDirectory() as scratch:
        return find(known, DedupOptions("near"), Path(scratch))


def _count(removals: pa.Table) -> int:
    """How many are near duplicates and not exact ones."""
    return len(removals) - removals["distance"].null_count


def _histogram(values: np.ndarray) -> dict[str, Any]:
    """Counts between the 1st and the 99th percentile, which a few freaks would squeeze."""
    low = np.quantile(values, OUTSIDE, method="lower")
    high = np.quantile(values, 1 - OUTSIDE, method="higher")
    edges = np.geomspace(low, max(high, low * 1.01), BINS + 1)
    edges[0] = min(edges[0], low)
    edges[-1] = max(edges[-1], high)
    counts, _ = np.histogram(values, edges)
    return {
        "edges": [float(f"{edge:.4g}") for edge in edges],
        "counts": counts.tolist(),
        "below": int((values < edges[0]).sum()),
        "above": int((values > edges[-1]).sum()),
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    found = np.quantile(values, list(QUANTILES.values()))
    return {name: round(float(value), 4) for name, value in zip(QUANTILES, found, strict=True)}


def lines(found: dict[str, Any]) -> list[str]:
    """What `stats` found, for a terminal."""
    result = [
        f"{found['samples']:,} images in {found['shards']:,} shards, {found['bytes'] / 1e6:,.1f} MB",
        f"formats: {counts(found['formats'], most=8)}",
    ]
    if found["extras"]:
        result.append(f"other members: {counts(found['extras'], most=8)}")
    for name in ("width", "height", "aspect_ratio", "image_bytes"):
        values = ", ".join(f"{quantile} {value:,.4g}" for quantile, value in found[name].items())
        result.append(f"{name.replace('_', ' ')}: {values}")
    if found["classes"]:
        result.append(f"{len(found['classes']):,} classes: {counts(found['classes'], most=5)}")
    if found["classes"] and found["unlabelled"]:
        result.append(f"{found['unlabelled']:,} images without a label")
    if found["duplicates"]:
        result.append(f"{found['duplicates']:,} exact duplicates")
    if found["near_duplicates"]:
        result.append(f"{found['near_duplicates']:,} near duplicates besides")
    result.append(f"sources: {counts(found['sources'], most=5)}")
    if found["colour"]["images"]:
        mean, std = (
            ", ".join(f"{value:.1f}" for value in found["colour"][name]) for name in ("mean", "std")
        )
        result.append(
            f"mean colour of {found['colour']['images']:,} images: {mean}; standard deviation {std}"
        )
    result += [
        f"evaluation set {path}: {count:,} images left out"
        for path, count in found["build"]["excluded"].items()
    ]
    if found["removed"]:
        result.append(f"{found['removed']:,} removed on request")
    if found["quarantined"]:
        result.append(f"quarantined: {counts(found['quarantined'], most=8)}")
        result += [f"  {entry['source']}: {entry['reason']}" for entry in found["quarantine"]]
    if found["ignored"]:
        result.append(f"ignored, no images: {counts(found['ignored'], most=8)}")
    return result
