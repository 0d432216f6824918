"""What a run is doing, told from its directory while it writes there: `seer watch`."""

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

from seer import jsonl
from seer.jsonl import Row
from seer.report.health import SIGNS, Ailment, ailments, not_applied, read_events
from seer.report.plots import number
from seer.report.run import duration, read_config

TAIL = 1 << 18  # bytes of metrics.jsonl: some hundred rows
RECENT = 30  # rows that rates are taken over
PATIENCE = 10.0  # usual intervals between rows, and
QUIET = 60.0  # seconds at least, before silence is told
FIRST_ROW = 1800.0  # seconds: building and compiling a large model takes its time
ENDS = ("paused", "diverged")
WIDE = 110  # characters that a table with the course of the loss wants
BARS = "▁▂▃▄▅▆▇█"
COLUMNS = ("run", "state", "step", "left", "loss", "course", "images/s", "wait", "health", "of plan")
NUMBERS = ("step", "left", "loss", "images/s", "wait")
COLOURS = {"training": "green", "done": "blue", "silent": "red", "paused": "red", "diverged": "red"}


@dataclass
class Status:
    """One run, as its directory tells it now. What is not known is None.

    Attributes:
        state: `missing`, `empty`, `starting`, `training`, `silent` (no news for longer than it should take: stopped or
            died), `paused` or `diverged` (stopped by its health), `done`.
        silent: seconds since the last news. left: seconds to the end, at the pace of the last rows.
        losses: of the last rows, oldest first. signs: the newest measurement of each sign of health.
        ailments: symptoms that have not gone again.
        not_applied, rollbacks, skipped: steps that were not finite, goings back to a checkpoint, steps passed over.
        of_plan: for each metric that was planned, what it is over what was planned.
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
    ailments: list[Ailment] = field(default_factory=list)
    not_applied: int = 0
    rollbacks: int = 0
    skipped: int = 0
    of_plan: dict[str, float] = field(default_factory=dict)

    def health(self) -> str:
        """Health in a few words."""
        counts = [(self.not_applied, "not applied"), (self.rollbacks, "rolled back"), (self.skipped, "skipped")]
        words = [ailment.title.lower() for ailment in self.ailments]
        words += [f"{count} {what}" for count, what in counts if count]
        return ", ".join(words) or ("well" if self.signs else "")


def status(path: Path | str, now: float | None = None) -> Status:
    """Read what there is: what is missing, torn or half written yet is left out."""
    path, now = Path(path), time.time() if now is None else now
    if not path.is_dir():
        return Status(str(path))
    rows = [row for row in jsonl.tail(path / "metrics.jsonl", TAIL) if "step" in row]
    events = read_events(path)
    found = Status(str(path), "empty", steps=read_config(path / "config.yaml").get("steps"))
    found.checkpoint = _last_checkpoint(path)
    found.ailments, found.not_applied = ailments(events), len(not_applied(events))
    found.rollbacks = sum(row["event"] == "rollback" for row in events)
    found.skipped = len({row["step"] for row in jsonl.read(path / "skipped.jsonl")})
    usual = _describe(found, rows) if rows else FIRST_ROW / PATIENCE
    found.state = _state(path, found, events, usual, now)
    if found.state != "training":
        found.left = None
    return found


def _state(path: Path, found: Status, events: list[Row], usual: float, now: float) -> str:
    written = {file: _written(path / file) for file in ("metrics.jsonl", "health.jsonl", "seer.log", "config.yaml")}
    if not any(written.values()):
        return "empty"
    found.silent = max(0.0, now - max(written.values()))
    if events and events[-1]["event"] in ENDS and written["health.jsonl"] >= written["metrics.jsonl"]:
        return events[-1]["event"]  # also where the last step was logged: it may have diverged
    if found.steps and max(found.step, found.checkpoint or 0) >= found.steps:
        found.step = found.steps
        return "done"
    if found.silent > max(QUIET, PATIENCE * usual):
        return "silent"
    return "training" if found.step else "starting"


def _written(file: Path) -> float:
    """When a file was last written; 0 if there is none."""
    return file.stat().st_mtime if file.is_file() else 0.0


def _last_checkpoint(path: Path) -> int | None:
    found = (path / "checkpoints").glob("step-*/header.json")
    return max((int(header.parent.name.removeprefix("step-")) for header in found), default=None)


def _describe(found: Status, rows: list[Row]) -> float:
    """Fill in what the rows tell; returns the usual seconds between rows."""
    last, first = rows[-1], rows[-RECENT:][0]
    found.step = last["step"]
    found.loss, found.data_wait = last.get("loss"), last.get("data_wait")
    found.losses = [row["loss"] for row in rows[-RECENT:] if row.get("loss") is not None]
    found.signs = {name: row[name] for row in rows for name in SIGNS if row.get(name) is not None}
    steps, seconds = last["step"] - first["step"], last.get("seconds", 0.0) - first.get("seconds", 0.0)
    samples = last.get("samples", 0) - first.get("samples", 0)
    if steps > 0 and seconds > 0:
        found.images_per_second = samples / seconds
        found.left = (found.steps - found.step) * seconds / steps if found.steps else None
    else:
        found.images_per_second = last.get("images_per_second")
    for name, planned in last.items():
        actual = last.get(name.removeprefix("planned_"))
        if name.startswith("planned_") and planned and actual is not None:
            found.of_plan[name.removeprefix("planned_")] = actual / planned
    return seconds / max(1, len(rows[-RECENT:]) - 1)


def table(found: Sequence[Status], width: int) -> Table:
    """One row a run; a column that is empty for all, or does not fit, is left out."""
    rows = [_cells(one) for one in found]
    shown = [any(row[i] for row in rows) and (name != "course" or width >= WIDE) for i, name in enumerate(COLUMNS)]
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in compress(COLUMNS, shown):
        words = name in ("run", "health", "of plan")
        grid.add_column(name, no_wrap=not words, overflow="fold", justify="right" if name in NUMBERS else "left")
    for row in rows:
        grid.add_row(*compress(row, shown))
    return grid


def _cells(one: Status) -> list[Text]:
    """In the order of `COLUMNS`."""
    share = f" ({one.step / one.steps:.0%})" if one.steps else ""
    known = one.state not in ("missing", "empty")
    return [
        Text(one.run),
        Text(one.state, COLOURS.get(one.state, "yellow")),
        Text(f"{one.step:,}{share}" if known else ""),
        Text(duration(one.left) if one.left is not None else ""),
        Text(f"{one.loss:.4g}" if one.loss is not None else ""),
        Text(sparkline(one.losses)),
        Text(number(one.images_per_second) if one.images_per_second else ""),
        Text(f"{one.data_wait:.0%}" if one.data_wait is not None else ""),
        Text(one.health(), "red" if one.ailments else ""),
        Text(_of_plan(one)),
    ]


def _of_plan(one: Status) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {share:.0%}" for name, share in one.of_plan.items())


def remarks(found: Sequence[Status]) -> list[str]:
    """What a table has no room for: what silence means, what helps against a symptom."""
    lines = []
    for one in found:
        if one.state == "missing":
            lines.append(f"{one.run}: no such directory; a job that waits for its turn has none yet")
        if one.state == "empty":
            lines.append(f"{one.run}: not a run directory, or not yet: it has neither config.yaml nor metrics.jsonl")
        if one.state == "silent" and one.silent is not None:
            start = f"after step {one.checkpoint:,}, its newest checkpoint" if one.checkpoint else "from the beginning"
            silent = f"no news for {duration(one.silent)}: stopped or died"
            lines.append(f"{one.run}: {silent}; the same command continues it {start}")
        for ailment in one.ailments:
            since = f"{ailment.title} since step {ailment.step:,}"
            lines.append(f"{one.run}: {since}: {ailment.why}; {ailment.remedy}")
    return lines


def line(one: Status) -> str:
    """One run in one line of a log."""
    known = one.state not in ("missing", "empty")
    parts = [f"step {one.step:,}" + (f" of {one.steps:,}" if one.steps else "")] if known else []
    parts += [f"loss {one.loss:.4g}"] if one.loss is not None else []
    parts += [f"{number(one.images_per_second)} images/s"] if one.images_per_second else []
    parts += [f"waiting for data {one.data_wait:.0%}"] if one.data_wait is not None else []
    parts += [f"{duration(one.left)} left"] if one.left is not None else []
    parts += [one.health()] if one.health() else []
    parts += [f"of plan: {_of_plan(one)}"] if one.of_plan else []
    return " · ".join([f"{one.run}: {one.state}", *parts])


def sparkline(values: Sequence[float]) -> str:
    """The course of some numbers in as many characters as a table has room for."""
    values = values[-16:]
    low, high = min(values, default=0.0), max(values, default=0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in values)


def watch(runs: Sequence[Path | str], every: float = 2.0, once: bool = False, console: Console | None = None) -> None:
    """Show runs until all are done: a table that follows them on a terminal, in a log a line for every change."""
    console = console or Console()
    if not console.is_terminal:
        console.width = 200  # nobody wraps a log
    if once:
        console.print(_page([status(run) for run in runs], console.width))
    elif console.is_terminal:
        with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
            for found in _news(runs, every):
                live.update(_page(found, console.width), refresh=True)
    else:
        with suppress(KeyboardInterrupt):
            _lines(runs, every)


def _page(found: Sequence[Status], width: int) -> Group:
    return Group(table(found, width), *map(Text, remarks(found)))


def _news(runs: Sequence[Path | str], every: float) -> Iterator[list[Status]]:
    while True:
        found = [status(run) for run in runs]
        yield found
        if all(one.state == "done" for one in found):
            return
        time.sleep(every)


def _lines(runs: Sequence[Path | str], every: float) -> None:
    told: dict[str, tuple[Any, ...]] = {}
    for found in _news(runs, every):
        for one in found:
            what = (one.state, one.step, one.health())
            if told.get(one.run) != what:
                told[one.run] = what
                print(f"{datetime.now():%H:%M:%S} {line(one)}", flush=True)
                print("".join(f"{remark}\n" for remark in remarks([one])), end="", flush=True)
