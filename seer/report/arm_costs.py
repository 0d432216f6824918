"""What an arm of a study took beside its score: time, memory, and how well it went."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from seer.errors import InputError
from seer.jsonl import Row
from seer.report.diagnosis import alarms, not_applied
from seer.report.plots import number
from seer.report.runfiles import RunFiles, duration, progress, read_run

WELL = "no symptom"


@dataclass
class Costs:
    """Texts for a table, "" where nothing is known.

    Attributes:
        time: of training, and images/s. memory: the most that was allocated; a process's on a CPU.
        stability: steps that were not applied, and rollbacks. health: symptoms that the run ended with.
    """

    time: str = ""
    rate: str = ""
    memory: str = ""
    stability: str = ""
    health: str = ""


def costs_of(run_dir: Path) -> Costs:
    """What a run took; nothing where there is none, or it cannot be read."""
    try:
        run = read_run(run_dir)
    except InputError:
        return Costs()
    rates, memories = (
        [value for value in run.series(key).y if value is not None]
        for key in ("images_per_second", "memory_gib")
    )
    unfinished = progress(run)
    spent = duration(run.last("seconds") or 0.0)
    return Costs(
        time=f"{spent}, {unfinished}" if unfinished else spent,
        rate=f"{number(median(rates))} images/s" if rates else "",
        memory=f"{max(memories):.3g} GiB" if memories else "",
        stability=_stability(run.events),
        health="; ".join(alarms(run.events)) or _unseen(run),
    )


def _stability(events: list[Row]) -> str:
    lost = len(not_applied(events))
    rollbacks = sum(row["event"] == "rollback" for row in events)
    told = [f"{lost:,} steps not applied"] if lost else []
    told += [f"{rollbacks} rollbacks"] if rollbacks else []
    return ", ".join(told) or "all steps applied"


def _unseen(run: RunFiles) -> str:
    return WELL if run.metrics else ""
