"""What a run saw, told from its run directory: which samples, how often, and that it was what the order prescribes.

The order is a pure function, so the samples of any step can be named at any time. That the run took those and no others
is shown by fingerprints: while training, every rank adds up a hash of each (step, sample) that it delivers, and the sum
over ranks stands in the log and in the checkpoints. The audit adds up what the order prescribes and compares.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seer import config as configuration
from seer import jsonl
from seer.data import ledger
from seer.data.index import Manifest, index_path, read_index
from seer.data.order import Order
from seer.data.reader import Reader
from seer.data.store import place
from seer.engine.checkpoint import latest, read_header
from seer.errors import InputError

CHUNK = 1 << 20  # samples looked at together
REMOVED = "removed.jsonl"  # beside shards that images were taken out of; see shards/README.md
Progress = Callable[[int, int], Any]  # called with the steps done and in all


@dataclass
class Audit:
    """What was found about one run.

    Attributes:
        steps, samples: taken so far. images: in the data. epochs: completed.
        least, most: how often the images were seen that were seen least and most often.
        fingerprints: how many were compared. wrong: steps at which one is not what the order prescribes.
        damaged: samples taken that could not be decoded; another stood in for each.
        found: for each key asked for, the steps (from 1) that took it.
    """

    run: str
    steps: int = 0
    samples: int = 0
    images: int = 0
    epochs: int = 0
    least: int = 0
    most: int = 0
    fingerprints: int = 0
    wrong: list[int] = field(default_factory=list)
    damaged: int = 0
    found: dict[str, list[int]] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Whether every image was seen equally often, up to the epoch under way, and no fingerprint differs."""
        return not self.wrong and self.least == self.epochs and self.most <= self.epochs + 1

    def lines(self) -> list[str]:
        """The audit for a terminal."""
        times = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        lines = [
            f"{self.run}: {self.steps:,} steps took {self.samples:,} samples of {self.images:,} images; "
            f"each was seen {times} times, {self.epochs} epochs are complete",
            f"{self.fingerprints:,} fingerprints compared: "
            + (f"they differ first at step {self.wrong[0]}" if self.wrong else "what was taken is what the order says"),
        ]
        if self.damaged:
            lines.append(f"{self.damaged:,} damaged samples were replaced: see {Path(self.run, ledger.FOLDER)}")
        for key, steps in self.found.items():
            lines.append(f"{key}: " + (f"seen at steps {', '.join(map(str, steps))}" if steps else "not seen"))
        return lines


class History:
    """A run directory with the order that the run follows."""

    def __init__(self, run_dir: Path | str):
        self.path = Path(run_dir)
        if not (self.path / "config.yaml").is_file():
            raise InputError(f"{run_dir}: not a run directory, it has no config.yaml")
        config = configuration.read(self.path / "config.yaml")
        self.batch = config["batch_size"]
        self.data: Any = place(config["data"])
        self.manifest = Manifest.load(self.path)
        self.order = Order(
            self.manifest.sizes, config["seed"], config["loader"]["lanes"] or self.batch, config["loader"]["window"]
        )
        self.removals = self._removals()
        self.seen = self._logged()
        self.steps = max(self.seen, default=0)

    def _logged(self) -> dict[int, int]:
        """The fingerprint after each step that has one, from the log and the newest checkpoint."""
        seen = {row["step"]: row["seen"] for row in jsonl.read(self.path / "metrics.jsonl") if "seen" in row}
        if (checkpoint := latest(self.path)) is not None:
            header = read_header(checkpoint)
            seen.setdefault(header["step"], header["seen"])
        return seen

    def _removals(self) -> dict[str, tuple[str | None, dict[int, str]]]:
        """For each shard that was written anew by a takedown: what it became, and the keys of the rows that went."""
        found: dict[str, tuple[str | None, dict[int, str]]] = {}
        for row in jsonl.read(self.data / REMOVED):
            found.setdefault(row["shard"], (row["becomes"], {}))[1][row["row"]] = row["key"]
        return found

    def taken(self) -> Iterator[tuple[int, np.ndarray]]:
        """`(first step, ids)` of whole steps, in chunks: ids `(steps, batch)`."""
        together = max(1, CHUNK // self.batch)
        for first in range(0, self.steps, together):
            count = min(together, self.steps - first)
            yield first, self.order.ids(first * self.batch, count * self.batch).reshape(count, self.batch)


def audit(run_dir: Path | str, keys: Sequence[str] = (), progress: Progress = lambda done, total: None) -> Audit:
    """Go through all that a run has taken. Memory: two bytes per image of the data.

    Args:
        keys: of samples; `found` says at which steps each was taken. This reads the indices of the data.

    Raises:
        InputError: no run directory, or a key that is nowhere in the data.
    """
    history = History(run_dir)
    found = Audit(str(run_dir), history.steps, history.steps * history.batch, history.manifest.samples)
    found.epochs = found.samples // found.images
    wanted = ids_of(history, keys) if keys else {}
    found.found = {key: [] for key in keys}
    counts, total = np.zeros(found.images, np.uint16), 0
    for first, ids in history.taken():
        np.add.at(counts, ids.ravel(), 1)
        steps = np.arange(first, first + len(ids))
        totals = (total + np.cumsum(ledger.fingerprint(steps[:, None], ids).sum(1) % ledger.MODULUS)) % ledger.MODULUS
        total = int(totals[-1])
        for step, planned in enumerate(totals.tolist(), first + 1):
            found.fingerprints += step in history.seen
            found.wrong += [step] if history.seen.get(step, planned) != planned else []
        for key, id in wanted.items():
            found.found[key] += (steps[(ids == id).any(1)] + 1).tolist()
        progress(first + len(ids), history.steps)
    found.least, found.most = int(counts.min()), int(counts.max())
    found.damaged = len(ledger.read(history.path, found.samples))
    return found


def batch(run_dir: Path | str, step: int) -> list[dict[str, Any]]:
    """The samples of the global batch of `step` (from 1): `{"id", "shard", "row", "key", "replacement"}` in order.

    `replacement` is the id of the sample that was shown for a damaged one, else None. Steps to come are told, too.
    """
    history = History(run_dir)
    if step < 1:
        raise InputError(f"--step {step}: steps are counted from 1")
    first = (step - 1) * history.batch
    ids = history.order.ids(first, history.batch)
    shards, rows = Reader(history.manifest).locate(ids)
    names = {shard: _keys(history, history.manifest.shards[shard]) for shard in np.unique(shards).tolist()}
    stand_ins = {entry.position: entry.replacement for entry in ledger.read(history.path, first + history.batch)}
    return [
        {
            "id": id,
            "shard": history.manifest.shards[shard],
            "row": row,
            "key": names[shard][row],
            "replacement": stand_ins.get(first + i),
        }
        for i, (id, shard, row) in enumerate(zip(ids.tolist(), shards.tolist(), rows.tolist(), strict=True))
    ]


def ids_of(history: History, keys: Sequence[str]) -> dict[str, int]:
    """The global id of each key, as the run knew it."""
    found, wanted, first = dict[str, int](), set(keys), 0
    for shard, size in zip(history.manifest.shards, history.manifest.sizes.tolist(), strict=True):
        found |= {name: first + row for row, name in enumerate(_keys(history, shard)) if name in wanted}
        first += size
    if missing := [key for key in keys if key not in found]:
        raise InputError(f"--key {missing[0]}: no such sample in {history.data}; keys are in its *.index.parquet")
    return found


def _keys(history: History, shard: str) -> list[str]:
    """The keys of a shard, also where images have been taken out of it since the run began."""
    path = index_path(history.data / shard)
    if path.is_file() or shard not in history.removals:
        return read_index(path, ["key"])["key"].to_pylist()
    becomes, gone = history.removals[shard]
    rest = _keys(history, becomes) if becomes else []
    left = iter(rest)
    return [gone[row] if row in gone else next(left) for row in range(len(gone) + len(rest))]
