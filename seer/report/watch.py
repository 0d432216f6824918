"""What a run is doing, told from its directory while it writes there: `seer watch`."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import compress
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from seer.errors import InputError, printable
from seer.eval.curves import REMEDY, below_pixels, curves
from seer.jsonl import Row
from seer.report.diagnosis import SIGNS, Ailment, ailments, not_applied, unjudged
from seer.report.plots import LARGEST, number
from seer.report.runfiles import duration
from seer.rundir.names import CONFIG, HEALTH, LOG, METRICS
from seer.rundir.rundir import RunDir

TAIL = 1 << 18  # bytes of metrics.jsonl: some hundred rows
RECENT = 30  # rows that rates are taken over
PATIENCE = 10.0  # usual intervals between rows, and
QUIET = 60.0  # seconds at least, before silence is told
FIRST_ROW = 1800.0  # seconds: building and compiling a large model takes its time
NOWHERE = ("missing", "foreign")  # states of what is no run, and will not become one by waiting
NO_RUN = (*NOWHERE, "empty", "unreadable")
WIDE = 110  # characters that a table with the course of the loss wants
BARS = "▁▂▃▄▅▆▇█"
COLUMNS = (
    "run",
    "state",
    "step",
    "left",
    "loss",
    "course",
    "images/s",
    "wait",
    "health",
    "score",
    "of plan",
)
NUMBERS = ("step", "left", "loss", "images/s", "wait")
COLOURS = {"training": "green", "done": "blue", "silent": "red", "paused": "red", "diverged": "red"}


@dataclass
class Status:
    """One run, as its directory tells it now. What is not known is None.

    Attributes:
        state: `missing`, `foreign` (other files than a run's), `empty` (no run yet), `unreadable`, `starting`,
            `training`, `silent` (no news for longer than it should take: stopped or died), `paused` or `diverged`
            (stopped by its health), `done`.
        silent: seconds since the last news. left: seconds to the end, at the pace of the last rows.
        losses: of the last rows, oldest first. signs: the newest measurement of each sign of health.
        judged: whether a collapse would have been told by now: see `seer.report.diagnosis.unjudged`.
        ailments: symptoms that have not gone again.
        scores: the newest score of each task beside its baselines, in words. below_pixels: which are worse than raw
            pixels, late enough in the run to count.
        not_applied, rollbacks, skipped: steps that were not finite, goings back to a checkpoint, steps passed over.
        of_plan: for each metric that was planned, what it is over what was planned.
        unread: what could not be read of the directory, one line each.
    """

    run: str
    state: str = "missing"
    step: int = 0
    steps: int | None = None
    silent: float | None = None
    left: float | None = None
    loss: float | None = None
    losses: list[float] = field(default_factory=list)
    images_per_second: float | None = None
    data_wait: float | None = None
    checkpoint: int | None = None
    signs: dict[str, float] = field(default_factory=dict)
    judged: bool = False
    ailments: list[Ailment] = field(default_factory=list)
    scores: list[str] = field(default_factory=list)
    below_pixels: list[str] = field(default_factory=list)
    not_applied: int = 0
    rollbacks: int = 0
    skipped: int = 0
    of_plan: dict[str, float] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    def health(self) -> str:
        """Health in a few words."""
        counts = [
            (self.not_applied, "not applied"),
            (self.rollbacks, "rolled back"),
            (self.skipped, "skipped"),
        ]
        words = [ailment.title.lower() for ailment in self.ailments]
        words += [f"{count} {what}" for count, what in counts if count]
        if words or not self.signs:
            return ", ".join(words)
        return "well" if self.judged else "not judged yet"


def status(path: Path | str, now: float | None = None) -> Status:
    """Read what there is: what is missing, torn or half written yet is left out."""
    run = RunDir(path)
    found = Status(str(path))
    try:
        found.state = run.state
        if found.state in ("run", "empty"):
            _read(run, found, time.time() if now is None else now)
    except OSError as error:  # removed, or made unreadable, between two looks
        found.state = "unreadable"
        found.unread.append(f"{path}: cannot be read ({error.strerror})")
    return found


def _read(run: RunDir, found: Status, now: float) -> None:
    rows = run.newest_metrics(TAIL)
    events = run.events()
    checkpoints = run.checkpoints()
    config = run.config()
    found.steps = config.get("steps")
    found.judged = not unjudged(config, rows)
    found.checkpoint = checkpoints[-1] if checkpoints else None
    found.ailments = ailments(events)
    measured = curves(run.scores())
    found.scores = [curve.in_words() for curve in measured]
    warnings = [below_pixels(curve.newest, found.steps) for curve in measured]
    found.below_pixels = [warning for warning in warnings if warning]
    found.not_applied = len(not_applied(events))
    found.rollbacks = sum(row["event"] == "rollback" for row in events)
    found.skipped = run.passed_over()
    usual = _describe(found, rows) if rows else FIRST_ROW / PATIENCE
    found.state = _state(run, found, events, usual, now)
    if found.state != "training":
        found.left = None
    found.unread = run.remarks()


def _state(run: RunDir, found: Status, events: list[Row], usual: float, now: float) -> str:
    written = {name: run.written(name) for name in (METRICS, HEALTH, LOG, CONFIG)}
    if not any(written.values()):
        return "empty"
    found.silent = max(0.0, now - max(written.values()))
    if event := run.ended(events):
        return event  # also where the last step was logged: it may have diverged
    if found.steps and max(found.step, found.checkpoint or 0) >= found.steps:
        found.step = found.steps
        return "done"
    if found.silent > max(QUIET, PATIENCE * usual):
        return "silent"
    return "training" if found.step else "starting"


def _describe(status: Status, rows: list[Row]) -> float:
    """Fill in what the rows tell; returns the usual seconds between rows."""
    last = rows[-1]
    recent = rows[-RECENT:]
    first = recent[0]
    status.step = last["step"]
    status.loss = last.get("loss")
    status.data_wait = last.get("data_wait")
    status.losses = [row["loss"] for row in recent if _is_finite(row.get("loss"))]
    for row in rows:
        signs = {name: row[name] for name in SIGNS if row.get(name) is not None}
        status.signs |= signs
    steps = last["step"] - first["step"]
    seconds = (last.get("seconds") or 0.0) - (first.get("seconds") or 0.0)
    samples = (last.get("samples") or 0) - (first.get("samples") or 0)
    if steps > 0 and 0 < seconds < math.inf:
        status.images_per_second = samples / seconds
        if status.steps:
            status.left = (status.steps - status.step) * seconds / steps
    else:
        status.images_per_second = last.get("images_per_second")
        seconds = 0.0
    status.of_plan = _over_plan(last)
    return seconds / max(1, len(recent) - 1)


def _over_plan(row: Row) -> dict[str, float]:
    """For each metric of a row that was planned, what it is over what was planned."""
    shares = {}
    for name, planned in row.items():
        metric = name.removeprefix("planned_")
        if metric != name and _is_finite(planned) and planned > 0 and _is_finite(row.get(metric)):
            shares[metric] = row[metric] / planned
    return shares


def _is_finite(value: float | None) -> bool:
    return value is not None and -LARGEST <= value <= LARGEST


def table(found: Sequence[Status], width: int) -> Table:
    """One row a run; a column that is empty for all, or does not fit, is left out."""
    rows = [_cells(one) for one in found]
    shown = [
        any(row[i] for row in rows) and (name != "course" or width >= WIDE)
        for i, name in enumerate(COLUMNS)
    ]
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in compress(COLUMNS, shown):
        words = name in ("run", "health", "score", "of plan")
        grid.add_column(
            name, no_wrap=not words, overflow="fold", justify="right" if name in NUMBERS else "left"
        )
    for row in rows:
        grid.add_row(*compress(row, shown))
    return grid


def _cells(one: Status) -> list[Text]:
    """In the order of `COLUMNS`."""
    share = f" ({one.step / one.steps:.0%})" if one.steps else ""
    known = one.state not in NO_RUN
    return [
        Text(printable(one.run)),
        Text(one.state, COLOURS.get(one.state, "yellow")),
        Text(f"{one.step:,}{share}" if known else ""),
        Text(duration(one.left) if one.left is not None else ""),
        Text(f"{one.loss:.4g}" if one.loss is not None else ""),
        Text(sparkline(one.losses)),
        Text(number(one.images_per_second) if one.images_per_second else ""),
        Text(_share(one.data_wait) if one.data_wait is not None else ""),
        Text(printable(one.health()), "red" if one.ailments else ""),
        Text(printable("; ".join(one.scores)), "red" if one.below_pixels else ""),
        Text(printable(_of_plan(one))),
    ]


def _of_plan(one: Status) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {_share(share)}" for name, share in one.of_plan.items()
    )


def remarks(found: Sequence[Status]) -> list[str]:
    """What a table has no room for: what silence means, what helps against a symptom."""
    lines = []
    for one in found:
        if one.state == "missing":
            lines.append(
                f"{one.run}: no such directory; a job that waits for its turn has none yet"
            )
        if one.state == "foreign":
            lines.append(
                f"{one.run}: not a run directory: it has other files, and neither {CONFIG} nor {METRICS}"
            )
        if one.state == "empty":
            lines.append(
                f"{one.run}: not a run directory, or not yet: it has neither {CONFIG} nor {METRICS}"
            )
        if one.state == "silent" and one.silent is not None:
            start = (
                f"after step {one.checkpoint:,}, its newest checkpoint"
                if one.checkpoint
                else "from the beginning"
            )
            silent = f"no news for {duration(one.silent)}: stopped or died"
            lines.append(f"{one.run}: {silent}; the same command continues it {start}")
        for ailment in one.ailments:
            since = f"{ailment.title} since step {ailment.step:,}"
            lines.append(f"{one.run}: {since}: {ailment.why}; {ailment.remedy}")
        lines += [f"{one.run}: {warning}; {REMEDY}" for warning in one.below_pixels]
        lines += [line if line.startswith(one.run) else f"{one.run}: {line}" for line in one.unread]
    return [printable(line) for line in lines]


def line(run: Status) -> str:
    """One run in one line of a log."""
    parts = [f"{run.run}: {run.state}"]
    if run.state not in NO_RUN:
        total = f" of {run.steps:,}" if run.steps else ""
        parts.append(f"step {run.step:,}{total}")
    if run.loss is not None:
        parts.append(f"loss {run.loss:.4g}")
    if run.images_per_second:
        parts.append(f"{number(run.images_per_second)} images/s")
    if run.data_wait is not None:
        parts.append(f"waiting for data {_share(run.data_wait)}")
    if run.left is not None:
        parts.append(f"{duration(run.left)} left")
    if health := run.health():
        parts.append(health)
    parts += run.scores
    if run.of_plan:
        parts.append(f"of plan: {_of_plan(run)}")
    return printable(" · ".join(parts))


def sparkline(values: Sequence[float]) -> str:
    """The course of some numbers in as many characters as a table has room for."""
    values = values[-16:]
    low = min(values, default=0.0)
    high = max(values, default=0.0)
    width = (high - low) or 1.0
    return "".join(BARS[round((value - low) / width * (len(BARS) - 1))] for value in values)


def _share(value: float) -> str:
    """A share as a percentage, unless it is absurd."""
    return f"{value:.0%}" if abs(value) < 1e3 else number(value)


def watch(
    runs: Sequence[Path | str],
    every: float = 2.0,
    once: bool = False,
    console: Console | None = None,
) -> list[Status]:
    """Show runs until all are done: a table that follows them on a terminal, in a log a line for
    every change.

    Returns:
        What was shown last.

    Raises:
        InputError: one is no run directory, and is to be followed.
    """
    console = console or Console()
    found = [status(run) for run in runs]
    if not console.is_terminal:
        console.width = 200  # nobody wraps a log
    if once:
        console.print(_page(found, console.width))
        return found
    if nowhere := [one for one in found if one.state in NOWHERE]:
        raise InputError(remarks(nowhere)[0])
    with suppress(KeyboardInterrupt):
        if console.is_terminal:
            with Live(console=console, auto_refresh=False) as live:
                for found in _news(runs, every):
                    live.update(_page(found, console.width), refresh=True)
        else:
            found = _lines(runs, every)
    return found


def _page(found: Sequence[Status], width: int) -> Group:
    return Group(table(found, width), *map(Text, remarks(found)))


def _news(runs: Sequence[Path | str], every: float) -> Iterator[list[Status]]:
    while True:
        found = [status(run) for run in runs]
        yield found
        if all(one.state in ("done", *NOWHERE) for one in found):
            return
        time.sleep(every)


def _lines(runs: Sequence[Path | str], every: float) -> list[Status]:
    told: dict[str, tuple[Any, ...]] = {}
    found: list[Status] = []
    for found in _news(runs, every):
        for one in found:
            what = (one.state, one.step, one.health(), one.scores)
            if told.get(one.run) != what:
                told[one.run] = what
                print(f"{datetime.now():%H:%M:%S} {line(one)}", flush=True)
                print("".join(f"{remark}\n" for remark in remarks([one])), end="", flush=True)
    return found
