"""What a run saw, told from its run directory: which samples, how often, and that it was what the
order prescribes.

The order is a pure function, so the samples of any step can be named at any time. That the run took
those and no others is shown by fingerprints: while training, every rank adds up a hash of each
(step, sample) that it delivers, and the sum over ranks stands in the log and in the checkpoints.
The audit adds up what the order prescribes and compares. Steps that the run passed over after a
rollback stand in its ledger; they count as accounted for, not as seen.

What cannot be read is named, and the rest is compared; such an audit is not exact.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from seer import inputs, jsonl
from seer.data import ledger
from seer.data.order import Order
from seer.data.storage.index import index_path, read_index
from seer.data.storage.reader import Reader
from seer.data.storage.store import place
from seer.data.storage.subset import load_kept
from seer.engine.checkpoint.header import read_header
from seer.errors import InputError
from seer.inputs import UnreadableError
from seer.jsonl import Row, Unread
from seer.rundir.kinds import HEADER_KIND, is_newer, numbers
from seer.rundir.names import CHOSEN, CONFIG, DAMAGED, HEADER, METRICS, SKIPPED, latest
from seer.rundir.rundir import RunDir
from seer.schema import FileName, Integer, Maybe, MismatchError, Record, Text

CHUNK = 1 << 20  # samples looked at together
REMOVED = "removed.jsonl"  # beside shards that images were taken out of; see shards/README.md
REMOVAL = Record(
    {
        "shard": FileName(".tar"),
        "becomes": Maybe(FileName(".tar")),
        "row": Integer(0),
        "key": Text(1024),
    }
)
LOADER = Record({"lanes": Integer(0, 2**31), "window": Integer(1, 2**31)})
AUDITED = Record(
    {
        "batch_size": Integer(1, 2**24),
        "data": Text(4096, 1),
        "seed": Integer(),
        "steps": Integer(1),
        "loader": LOADER,
    }
)
Progress = Callable[[int, int], Any]  # called with the steps done and in all


@dataclass
class Audit:
    """What was found about one run.

    Attributes:
        steps, samples: taken so far. images: in the data. epochs: completed.
        least, most: how often the images were seen that were seen least and most often.
        skipped: steps (from 1) that were passed over and are entered in the ledger.
        complete: whether every image came up equally often, up to the epoch under way, seen or skipped.
        fingerprints: how many were compared. wrong: steps at which one is not what the order prescribes.
        damaged: samples taken that could not be decoded; another stood in for each.
        unread: what of the run could not be read, one line each.
        found: for each key asked for, the steps (from 1) that it came up in.
    """

    run: str
    steps: int = 0
    samples: int = 0
    images: int = 0
    epochs: int = 0
    least: int = 0
    most: int = 0
    skipped: list[int] = field(default_factory=list)
    complete: bool = True
    fingerprints: int = 0
    wrong: list[int] = field(default_factory=list)
    damaged: int = 0
    unread: list[str] = field(default_factory=list)
    found: dict[str, list[int]] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Whether the run took what the order prescribes: no fingerprint differs, and every image
        is accounted for.

        Only of a run that could be read wholly is that known.
        """
        return not self.wrong and self.complete and not self.unread

    def lines(self) -> list[str]:
        """The audit for a terminal."""
        times = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        taken = self.steps - len(self.skipped)
        lines = [
            f"{self.run}: {taken:,} steps took {self.samples:,} samples of {self.images:,} images; "
            f"each was seen {times} times, {self.epochs} epochs are complete",
            f"{self.fingerprints:,} fingerprints compared: "
            + (
                f"they differ first at step {self.wrong[0]}"
                if self.wrong
                else "what was taken is what the order says"
            ),
        ]
        if self.skipped:
            where = Path(self.run, SKIPPED)
            lines.append(
                f"steps {ranges(self.skipped)}: skipped after a rollback, entered in the ledger {where}"
            )
        lines += [f"not compared: {remark}" for remark in self.unread]
        if self.damaged:
            lines.append(
                f"{self.damaged:,} damaged samples were replaced: see {Path(self.run, DAMAGED)}"
            )
        for key, steps in self.found.items():
            seen, skipped = (
                [s for s in steps if (s in self.skipped) is out] for out in (False, True)
            )
            lines.append(
                f"{key}: " + (f"seen at steps {', '.join(map(str, seen))}" if seen else "not seen")
            )
            lines[-1] += (
                f"; skipped at {', '.join(map(str, skipped))}, entered in the ledger"
                if skipped
                else ""
            )
        return lines


def ranges(steps: Sequence[int]) -> str:
    """`[1, 2, 3, 7]` as `1-3, 7`."""
    starts = [step for step in steps if step - 1 not in steps]
    ends = [step for step in steps if step + 1 not in steps]
    return ", ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in zip(starts, ends, strict=True))


class History:
    """A run directory with the order that the run follows."""

    def __init__(self, run_dir: Path | str):
        run = RunDir(run_dir).check()
        self.path = run.path
        environment = run.environment()
        config = _configuration(run, environment.get("seer", ""))
        self.batch: int = config["batch_size"]
        self.length: int = config["steps"]
        self.data: Any = place(config["data"])
        self.manifest = load_kept(run.path, CHOSEN, self.data)  # of which the run keeps a copy
        if self.batch > self.manifest.samples:
            raise InputError(
                f"{run.file(CONFIG)}: batch_size: {self.batch:,} is more than the "
                f"{self.manifest.samples:,} images of the run, so it is not what it trained with"
            )
        lanes = config["loader"]["lanes"] or self.batch
        self.order = Order(self.manifest.sizes, config["seed"], lanes, config["loader"]["window"])
        self.unread: list[str] = []
        self.seen = self._logged(run, config["steps"])
        self.steps = max(self.seen, default=0)
        self.skipped = sorted(step for step in ledger.skipped(self.path) if step < self.steps)

    def _logged(self, run: RunDir, steps: int) -> dict[int, int]:
        """The fingerprint after each step that has one, from the log and the newest checkpoint."""
        unread = Unread(METRICS)
        check = partial(_within, steps)
        try:
            rows = jsonl.scan(run.file(METRICS), check, unread)
            seen = {row["step"]: row["seen"] for row in rows if "seen" in row}
        except UnreadableError as error:
            seen = {}
            self.unread.append(str(error))
        self.unread += [str(unread)] if unread.rows else []
        try:
            if (checkpoint := latest(run.path)) is not None:
                header = _header(checkpoint, steps)
                seen.setdefault(header["step"], header["seen"])
        except InputError as error:
            self.unread.append(str(error))
        return seen

    @cached_property
    def removals(self) -> dict[str, tuple[str | None, dict[int, str]]]:
        """For each shard that was written anew by a takedown: what it became, and the keys of the
        rows that went.
        """
        found: dict[str, tuple[str | None, dict[int, str]]] = {}
        for row in _removed(self.data / REMOVED):
            found.setdefault(row["shard"], (row["becomes"], {}))[1][row["row"]] = row["key"]
        return found

    def is_replaced(self, shard: str) -> bool:
        """Whether a takedown has put another in the place of a shard."""
        return shard in self.removals and not index_path(self.data / shard).is_file()

    def stream(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """In chunks of whole steps: `(steps,)` numbers from 0, `(steps, batch)` ids, `(steps,)`
        whether taken.
        """
        together = max(1, CHUNK // self.batch)
        for first in range(0, self.steps, together):
            steps = np.arange(first, min(first + together, self.steps))
            count = len(steps)
            ids = self.order.ids(first * self.batch, count * self.batch)
            ids = ids.reshape(count, self.batch)
            is_taken = ~np.isin(steps, self.skipped)
            yield steps, ids, is_taken


def _removed(path: Any) -> Iterator[Row]:
    """The rows of a `removed.jsonl`, in a folder or a store."""
    if isinstance(path, Path):
        yield from inputs.read_rows(path, REMOVAL)
    elif path.is_file():
        for number, line in enumerate(path.read_bytes(inputs.LARGEST_JSON).splitlines(), 1):
            yield inputs.parse_json(line, REMOVAL, f"{path}, line {number}")


def _configuration(run: RunDir, version: str) -> dict[str, Any]:
    """What the order follows from. Raises `InputError` where that is not what a seer writes."""
    path = run.file(CONFIG)
    if not path.exists():
        raise InputError(f"{run.path}: not a run directory that can be audited, it has no {CONFIG}")
    try:
        return inputs.read_yaml(path, AUDITED)  # as it was saved: resolved, and with no base
    except UnreadableError as error:
        newer = f"; written by seer {version}, update seer" if is_newer(version) else ""
        raise UnreadableError(f"{error}{newer}") from None


def _within(steps: int, row: Any) -> Row:
    """A row of numbers of a run of so many steps."""
    row = numbers(row)
    if row["step"] > steps:
        raise MismatchError("step", f"{row['step']:,} is beyond the {steps:,} steps of the run")
    return row


def _header(checkpoint: Path, steps: int) -> dict[str, Any]:
    """The step and the fingerprint of a checkpoint."""
    # A regular file, of plain values.
    inputs.read_json(inputs.inside(checkpoint, HEADER), Record({}))
    try:
        header = HEADER_KIND.check(read_header(checkpoint))
        Integer(1, steps).check(header["step"], "step")
    except MismatchError as error:
        raise UnreadableError(f"{checkpoint / HEADER}: {error}") from None
    return header


def audit(
    run_dir: Path | str, keys: Sequence[str] = (), progress: Progress = lambda done, total: None
) -> Audit:
    """Go through all that a run has taken. Memory: two bytes per image of the data.

    Args:
        keys: of samples; `found` says at which steps each was taken. This reads the indices of the data.

    Raises:
        InputError: no run directory, or a key that is nowhere in the data.
    """
    history = History(run_dir)
    images = history.manifest.samples
    report = Audit(str(run_dir), history.steps, images=images, unread=history.unread)
    report.skipped = [step + 1 for step in history.skipped]
    report.samples = (history.steps - len(report.skipped)) * history.batch
    report.epochs = history.steps * history.batch // images
    report.found = {key: [] for key in keys}
    ids_by_key = ids_of(history, keys) if keys else {}
    counts = _counts(images)
    passed_over = [np.empty(0, np.int64)]
    fingerprint = 0
    for steps, ids, taken in history.stream():
        np.add.at(counts, ids[taken].ravel(), 1)
        passed_over.append(ids[~taken].ravel())
        planned = _fingerprints(steps, ids, taken, fingerprint)
        fingerprint = planned[-1]
        _compare(report, history.seen, int(steps[0]), planned)
        for key, id in ids_by_key.items():
            came_up = steps[(ids == id).any(1)] + 1
            report.found[key] += came_up.tolist()
        progress(int(steps[-1]) + 1, history.steps)
    report.least = int(counts.min())
    report.most = int(counts.max())
    # What was passed over after a rollback has had its turn.
    np.add.at(counts, np.concatenate(passed_over), 1)
    furthest_ahead = int(counts.max()) - report.epochs
    report.complete = int(counts.min()) == report.epochs and furthest_ahead <= 1
    for entry in ledger.read(history.path, history.steps * history.batch):
        step = entry.position // history.batch
        report.damaged += step not in history.skipped
    return report


def _fingerprints(steps: np.ndarray, ids: np.ndarray, taken: np.ndarray, before: int) -> list[int]:
    """The fingerprint of all that was taken, after each of these steps; `before` is that before
    them.
    """
    of_samples = ledger.fingerprint(steps[:, None], ids)
    of_steps = of_samples.sum(1) % ledger.MODULUS * taken
    after = (before + np.cumsum(of_steps)) % ledger.MODULUS
    return after.tolist()


def _compare(report: Audit, seen: dict[int, int], first: int, planned: list[int]) -> None:
    """Enter into the report how the fingerprints that the run left compare with those planned."""
    for step, fingerprint in enumerate(planned, first + 1):
        if step in seen:
            report.fingerprints += 1
            if seen[step] != fingerprint:
                report.wrong.append(step)


def _counts(images: int) -> np.ndarray:
    """A count for each image."""
    try:
        return np.zeros(images, np.uint16)
    except (MemoryError, ValueError):
        raise InputError(
            f"{images:,} images need {2 * images:,} bytes of memory, which is not to be had"
        ) from None


def batch(run_dir: Path | str, step: int) -> list[dict[str, Any]]:
    """The samples of the global batch of `step` (from 1): `{"id", "shard", "row", "key",
    "replacement"}` in order.

    `replacement` is the id of the sample that was shown for a damaged one, else None. Steps to come
    are told, too.
    """
    history = History(run_dir)
    if step < 1:
        raise InputError(f"--step {step}: steps are counted from 1")
    if step > history.length:
        raise InputError(f"--step {step}: {history.path} is a run of {history.length:,} steps")
    first = (step - 1) * history.batch
    ids = history.order.ids(first, history.batch)
    shards, rows = Reader(history.manifest).locate(ids)
    present = np.unique(
        shards
    ).tolist()  # a large batch is of thousands of shards, perhaps in a store
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(partial(_keys, history), present)
        names = dict(zip(present, found, strict=True))
    stand_ins = {
        entry.position: entry.replacement
        for entry in ledger.read(history.path, first + history.batch)
    }
    return [
        {
            "id": id,
            "shard": history.manifest.shards[shard],
            "row": row,
            "key": names[shard][row],
            "replacement": stand_ins.get(first + i),
        }
        for i, (id, shard, row) in enumerate(
            zip(ids.tolist(), shards.tolist(), rows.tolist(), strict=True)
        )
    ]


def ids_of(history: History, keys: Sequence[str]) -> dict[str, int]:
    """The global id of each key, as the run knew it."""
    found = dict[str, int]()
    wanted = set(keys)
    first = 0
    for shard, size in enumerate(history.manifest.sizes.tolist()):
        found |= {
            name: first + row
            for row, name in enumerate(_keys(history, shard)[:size])
            if name in wanted
        }
        first += size
    if missing := [key for key in keys if key not in found]:
        raise InputError(
            f"--key {missing[0]}: no such sample in {history.data}; keys are in its *.index.parquet"
        )
    return found


def _keys(history: History, shard: int) -> list[str]:
    """The keys of a shard, also where images have been taken out of it since the run began."""
    if not history.is_replaced(name := history.manifest.shards[shard]):
        return history.manifest.index(shard, ["key"])["key"].to_pylist()
    return history.manifest.chosen(shard, _replaced(history, name, ()))


def _replaced(history: History, shard: str, followed: tuple[str, ...]) -> list[str]:
    """The keys of a shard out of those of the one that took its place, and of those that were taken
    out.
    """
    becomes, gone = history.removals[shard]
    if becomes in followed:
        raise UnreadableError(f"{history.data / REMOVED}: {becomes} becomes itself")
    if becomes is None:
        rest = []
    elif history.is_replaced(becomes):
        rest = _replaced(history, becomes, (*followed, becomes))
    else:
        rest = read_index(index_path(history.data / becomes), ["key"])["key"].to_pylist()
    if set(gone) - set(range(len(gone) + len(rest))):
        raise UnreadableError(f"{history.data / REMOVED}: rows of {shard} that it never had")
    left = iter(rest)
    return [gone[row] if row in gone else next(left) for row in range(len(gone) + len(rest))]


def keys_of_step(run_dir: Path, step: int) -> list[str]:
    """The keys of the samples of a step (from 1); none where the indices of the data cannot be read
    now.
    """
    try:
        return [sample["key"] for sample in batch(run_dir, step)]
    except (InputError, OSError):
        return []
