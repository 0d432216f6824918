"""What a run really took from its data: a fingerprint of every sample delivered, a line for every
damaged one, and for every step whose samples were passed over."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from seer import jsonl
from seer.data.hashing import mix
from seer.inputs import read_rows
from seer.rundir.names import DAMAGED, SKIPPED
from seer.schema import Integer, ListOf, Record, Text

if TYPE_CHECKING:
    import torch

# Sums over any number of ranks stay in an int64, and JSON's doubles hold it exactly.
MODULUS = 1 << 48

DAMAGED_ROW = Record(
    {"position": Integer(0), "id": Integer(0), "replacement": Integer(0), "reason": Text(2**16)}
)
SKIPPED_ROW = Record({"step": Integer(1), "why": Text(2**16)}, {"keys": ListOf(Text(2**20))})


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
    """Int64 below `MODULUS` for each sample; their sum names a set of (step, sample) pairs, whoever
    took which.
    """
    return (mix(steps, ids) % np.uint64(MODULUS)).astype(np.int64)


def over_ranks(seen: int, device: "torch.device") -> int:
    """The sum of all ranks' fingerprints. A collective."""
    import torch  # here: whoever reads a ledger needs none of it

    from seer.distributed import all_reduce_sum

    return int(all_reduce_sum(torch.tensor(seen, device=device))) % MODULUS


def write(run_dir: Path, rank: int, entries: list[Damaged]) -> None:
    """Enter damaged samples. A step that is taken again after a kill enters the same lines again."""
    folder = Path(run_dir) / DAMAGED
    folder.mkdir(exist_ok=True)
    jsonl.append(folder / f"rank-{rank:05d}.jsonl", [entry._asdict() for entry in entries])


def read(run_dir: Path, samples: int) -> list[Damaged]:
    """The damaged ones among the first `samples` of the stream, each occurrence once, in the order
    of the stream.

    Raises InputError that names a row which no run wrote.
    """
    entries = set[Damaged]()
    for path in sorted((Path(run_dir) / DAMAGED).glob("rank-*.jsonl")):
        for row in read_rows(path, DAMAGED_ROW, torn=True):
            if row["position"] < samples:
                entries.add(Damaged(*(row[name] for name in Damaged._fields)))
    return sorted(entries)


def skip(
    run_dir: Path, steps: Iterable[int], why: str, keys_of: Callable[[int], list[str]] | None = None
) -> None:
    """Enter steps (from 1) that the run passes over from now on; `keys_of` gives the keys of a
    step's samples.
    """
    rows = [
        {"step": step, "why": why} | ({"keys": keys_of(step)} if keys_of else {}) for step in steps
    ]
    jsonl.append(Path(run_dir) / SKIPPED, rows)


def skipped(run_dir: Path) -> frozenset[int]:
    """The steps (from 0, as the loader counts) that the run passes over. Raises InputError as
    `read`.
    """
    return frozenset(
        row["step"] - 1 for row in read_rows(Path(run_dir) / SKIPPED, SKIPPED_ROW, torn=True)
    )
