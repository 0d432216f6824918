"""How shards were made: the options of their build, and what it kept out for evaluation's sake."""

import os
from collections import Counter
from typing import Any

from seer.data.storage.index import Manifest
from shards.options import BuildOptions, DedupOptions
from shards.records import quarantine


def made_by(manifest: Manifest) -> dict[str, Any]:
    """`options` of the build, `changed`: the names of those that are not the default, `sources`,
    and `excluded`: for each evaluation set that was kept out, how many images had to go for it,
    which may be none. All are empty where shards were not built by `seer shards build`.
    """
    options = manifest.build.get("options", {})
    # What is kept out for evaluation is looked for by hashes: their distance goes with it.
    defaults = BuildOptions().identity()
    if options.get("distance") == DedupOptions().distance:
        defaults["distance"] = options["distance"]
    changed = [name for name, value in options.items() if value != defaults.get(name)]
    excluded = options.get("exclude")
    sets = [path for path in excluded if isinstance(path, str)] if excluded else []
    return {
        "options": options,
        "changed": changed,
        "sources": [str(source) for source in manifest.build.get("sources", [])],
        "excluded": _excluded(manifest, sets),
    }


def _excluded(manifest: Manifest, sets: list[str]) -> dict[str, int]:
    """How many images were left out because of each evaluation set."""
    left_out = Counter(
        entry["dataset"] for entry in quarantine.read_contamination(manifest.directory)
    )
    counts = dict.fromkeys(sets, 0)
    for dataset, count in left_out.items():
        path = next((path for path in sets if _is_tail(dataset, path)), dataset)
        counts[path] = counts.get(path, 0) + count
    return counts


def _is_tail(given: str, path: str) -> bool:
    """Whether a path as it was given may be this absolute one; from where it was given is not
    known.
    """
    parts = [part for part in os.path.normpath(given).split(os.sep) if part != os.pardir]
    return f"{os.sep}{path}".endswith(os.sep + os.sep.join(filter(None, parts)))
