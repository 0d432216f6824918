"""Duplicates with what they are duplicates of, so that people can look at both."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seer.data.storage.index import Manifest
from shards.dedup.near import NONE
from shards.report import sampled

MOST = 12  # pairs of a kind

# `places`: global ids of the earlier image and of its duplicate. `keys`: theirs. `distance`: bits
# between their perceptual hashes; None for equal bytes.
Pair = dict[str, Any]


def exact_pairs(manifest: Manifest, first_of: np.ndarray) -> list[Pair]:
    """The first few exact duplicates.

    Args:
        first_of: `(N,)` the place of the first image with the same bytes, as
            `shards.dedup.find.exact_duplicates` gives it.
    """
    places = np.flatnonzero(first_of != NONE)[:MOST].tolist()
    return _pairs(manifest, [(int(first_of[place]), place, None) for place in places])


def near_pairs(manifest: Manifest, removals: pa.Table) -> list[Pair]:
    """The first few near duplicates of `REMOVALS` (`shards.dedup.find`)."""
    near = removals.filter(pc.is_valid(removals["distance"])).slice(0, MOST)
    rows = near.select(["place", "like", "distance"]).to_pylist()
    places = _places(manifest, [row["like"] for row in rows])
    return _pairs(
        manifest,
        [
            (places[row["like"]], row["place"], row["distance"])
            for row in rows
            if row["like"] in places
        ],
    )


def _pairs(manifest: Manifest, copies: Sequence[tuple[int, int, int | None]]) -> list[Pair]:
    wanted = [place for earlier, later, _ in copies for place in (earlier, later)]
    keys = {place: row["key"] for place, _, row in sampled.rows_at(manifest, wanted, ["key"])}
    return [
        {
            "places": [earlier, later],
            "keys": [keys[earlier], keys[later]],
            "distance": distance,
        }
        for earlier, later, distance in copies
    ]


def _places(manifest: Manifest, keys: Iterable[str]) -> dict[str, int]:
    """Global ids of the samples with these keys."""
    wanted = pa.array(sorted(set(keys)), pa.string())
    places: dict[str, int] = {}
    start = 0
    for number, size in enumerate(manifest.sizes.tolist()):
        if len(places) == len(wanted):
            break
        column = manifest.index(number, ["key"])["key"]
        rows = np.flatnonzero(pc.is_in(column, wanted).to_numpy())
        names = column.take(pa.array(rows)).to_pylist()
        for row, name in zip(rows.tolist(), names, strict=True):
            places.setdefault(name, start + row)
        start += size
    return places
