"""What a run really took from its data: a fingerprint of every sample delivered, and a line for every damaged one."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from seer import jsonl
from seer.data.hashing import mix
from seer.distributed import all_reduce_sum

FOLDER = "damaged"  # of a run directory; one file per rank that met damage
MODULUS = 1 << 48  # sums over any number of ranks stay in an int64, and JSON's doubles hold it exactly


class Damaged(NamedTuple):
    """A sample that could not be decoded, and the one that stood in for it.

    Attributes:
        position: its place in the stream of samples; `position // batch_size` is the step (from 0) that took it.
        id: global sample id. replacement: id of the sample shown instead. reason: what the decoder said.
    """

    position: int
    id: int
    replacement: int
    reason: str


def fingerprint(steps: int | np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Int64 below `MODULUS` for each sample; their sum names a set of (step, sample) pairs, whoever took which."""
    return (mix(steps, ids) % np.uint64(MODULUS)).astype(np.int64)


def over_ranks(seen: int, device: torch.device) -> int:
    """The sum of all ranks' fingerprints. A collective."""
    return int(all_reduce_sum(torch.tensor(seen, device=device))) % MODULUS


def write(run_dir: Path, rank: int, entries: list[Damaged]) -> None:
    """Enter damaged samples. A step that is taken again after a kill enters the same lines again."""
    folder = Path(run_dir) / FOLDER
    folder.mkdir(exist_ok=True)
    jsonl.append(folder / f"rank-{rank:05d}.jsonl", [entry._asdict() for entry in entries])


def read(run_dir: Path, samples: int) -> list[Damaged]:
    """The damaged ones among the first `samples` of the stream, each occurrence once, in the order of the stream."""
    files = sorted((Path(run_dir) / FOLDER).glob("rank-*.jsonl"))
    found = {Damaged(**row) for file in files for row in jsonl.read(file) if row["position"] < samples}
    return sorted(found)
