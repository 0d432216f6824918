"""What a score was of each test image, kept beside the results for comparisons."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from seer import files
from seer.data.labelled import ImageSet
from seer.interop.weights import reason
from seer.jsonl import Row
from seer.rundir.names import PER_IMAGE

logger = logging.getLogger("seer.eval")


def comparability(task: str, options: dict[str, Any], train: ImageSet, test: ImageSet) -> str:
    """16 hex digits that results share whose protocol, data and split are the same."""
    parts = [task, options, train.fingerprint, test.fingerprint]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def keep(results: Path | str, row: Row, outcomes: dict[str, Tensor]) -> None:
    """Keep what a row of a results file was of each image; a score is not lost where that cannot
    be.
    """
    if not outcomes:
        return
    path = path_of(results, row)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in outcomes.items()}
        with files.replacing(path) as beside:
            save_file(tensors, beside)
    except (OSError, SafetensorError) as error:
        logger.warning("%s: what each image scored cannot be kept (%s)", path, reason(error))


def read(results: Path | str, row: Row) -> dict[str, Tensor]:
    """What was kept of a row; nothing if that is not there, or is not readable."""
    try:
        return load_file(path_of(results, row))
    except (OSError, SafetensorError, KeyError):
        return {}


def path_of(results: Path | str, row: Row) -> Path:
    """The file of a row, named by what `results.latest` tells rows apart by, and how it was made."""
    told = [row["comparable"], row["metric"], row["model"], row["config_hash"]]
    name = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:24]
    return Path(results).parent / PER_IMAGE / f"{name}.safetensors"
