"""What a score was of each test image, kept beside the results for comparisons.

Imports no torch: the report reads it.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from seer import files, inputs
from seer.data.labelled import ImageSet
from seer.errors import InputError
from seer.eval.paired import Outcomes
from seer.inputs import MEGABYTE, UnreadableError
from seer.interop.modelfile import check_header, reason
from seer.jsonl import Row
from seer.rundir.names import PER_IMAGE

LARGEST = 64 * MEGABYTE  # a file of 50,000 images has 50 kB to 50 MB
# Of each image: whether it was right; a class, or several; how sure the model was of each class; or a
# value. Of each query of few-shot episodes, whether it was right, and its image. An older seer kept
# `accuracies`, of each episode.
KINDS = {
    "hits": "b",
    "labels": "iu",
    "scores": "f",
    "values": "f",
    "images": "iu",
    "accuracies": "f",
}
# Options that say what the fingerprints of the images say, and which model is measured.
ELSEWHERE = {"data", "weights"}
MEASURES = (
    {"hits"},
    {"hits", "labels"},
    {"scores", "labels"},
    {"values"},
    {"hits", "images"},
    {"accuracies"},
)
PAIRS = ({"scores", "labels"}, {"hits", "images"})  # of which both have two dimensions

logger = logging.getLogger("seer.eval")


class Measured(Protocol):
    """Images, as far as scores are compared by them."""

    @property
    def fingerprint(self) -> str: ...

    def listing(self) -> str: ...


def comparability(task: str, options: dict[str, Any], train: ImageSet, test: Measured) -> str:
    """16 hex digits that results share whose protocol, data and split are the same."""
    protocol = {key: value for key, value in options.items() if key not in ELSEWHERE}
    parts = [task, protocol, train.fingerprint, test.fingerprint, train.validation.tolist()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def images_key(train: ImageSet, test: Measured) -> str:
    """16 hex digits that results share whose images have the same names and labels, wherever they lie
    and whenever they were copied there.
    """
    return hashlib.sha256(f"{train.listing()} {test.listing()}".encode()).hexdigest()[:16]


def keep(results: Path | str, row: Row, outcomes: Mapping[str, Any]) -> None:
    """Keep what a row of a results file was of each image, as arrays or tensors on the CPU; a score
    is not lost where that cannot be.
    """
    if not outcomes:
        return
    path = path_of(results, row)
    kept = arrays(outcomes)
    if sum(array.nbytes for array in kept.values()) > LARGEST - MEGABYTE:
        logger.warning("%s: what each image scored is too much to be kept", path)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as beside:
            save_file(kept, beside)
    except (OSError, SafetensorError) as error:
        logger.warning("%s: what each image scored cannot be kept (%s)", path, reason(error))


def arrays(outcomes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays or tensors on the CPU, as they are kept and compared."""
    return {name: np.ascontiguousarray(values) for name, values in outcomes.items()}


def read(results: Path | str, row: Row) -> Outcomes:
    """What was kept of a row; nothing if that is not there, or is not what `keep` writes. A stranger
    may have written it.
    """
    try:
        path = path_of(results, row)
        inputs.inside(Path(results).parent, f"{PER_IMAGE}/{path.name}")
        if path.stat().st_size > LARGEST:
            raise UnreadableError(f"{path}: is too large")
        check_header(path)
        return _checked(load_file(path))
    except (OSError, InputError, SafetensorError, KeyError, TypeError, ValueError):
        return {}


def path_of(results: Path | str, row: Row) -> Path:
    """The file of a row, named by what `results.latest` tells rows apart by, and how it was made."""
    told = [row["comparable"], row["metric"], row["model"], row["config_hash"]]
    name = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:24]
    return Path(results).parent / PER_IMAGE / f"{name}.safetensors"


def _checked(arrays: dict[str, np.ndarray]) -> Outcomes:
    """Arrays of one measure, with a row for each image. Raises ValueError for others."""
    if set(arrays) not in MEASURES or len({len(array) for array in arrays.values()}) > 1:
        raise ValueError("they are of no measure")
    dimensions = 2 if set(arrays) in PAIRS else 1
    for name, array in arrays.items():
        is_kind = array.dtype.kind in KINDS[name] and array.ndim == dimensions
        if not is_kind or not array.size or not np.isfinite(array).all():
            raise ValueError(f"{name} are none")
    if len({array.shape for array in arrays.values()}) > 1:
        raise ValueError("they are not of the same images and classes")
    return arrays
