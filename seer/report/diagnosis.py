"""A run's health, as the training wrote it down in health.jsonl and in its metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seer.errors import InputError
from seer.jsonl import Row
from seer.report.runfiles import at, count_at, number_at
from seer.steps import whole_steps

# Metrics that are signs of health: how the chart of each is headed, and what it says.
SIGNS = {
    "embedding_std": ("Spread of embeddings", "1 all round, 0 collapsed"),
    "effective_rank": ("Effective rank", "dimensions in use"),
    "perplexity": ("Perplexity of prototypes", "their effective number"),
    "assignment_entropy": ("Entropy of assignments", "nats"),
    "sinkhorn_imbalance": ("Imbalance of prototypes", "share of samples"),
    "grad_norm": ("Norm of the gradient", "before clipping"),
}
JUDGED = SIGNS.keys() - {"grad_norm"}  # by which a collapse is told


@dataclass(frozen=True)
class Ailment:
    """A symptom that a run shows since a step, what it means, and what helps."""

    name: str
    step: int
    why: str
    remedy: str

    @property
    def title(self) -> str:
        return self.name.replace("_", " ").capitalize()


def ailments(events: list[Row]) -> list[Ailment]:
    """The symptoms that have not gone again. A rollback takes back those of the steps that it takes
    back.
    """
    present: dict[str, Ailment] = {}
    for row in events:
        if row["event"] == "symptom":
            present.setdefault(
                row["name"], Ailment(row["name"], row["step"], row["why"], row["remedy"])
            )
        elif row["event"] == "recovered":
            present.pop(row["name"], None)
        elif row["event"] == "rollback":
            present = {name: one for name, one in present.items() if one.step <= row["to"]}
    return [*present.values()]


def alarms(events: list[Row]) -> list[str]:
    """What is wrong with a run, whatever it scores: `Collapse since step 15`."""
    diverged = [row["step"] for row in events if row["event"] == "diverged"]
    lines = [f"Diverged at step {step:,}" for step in diverged]
    return lines + [f"{a.title} since step {a.step:,}" for a in ailments(events)]


def not_applied(events: list[Row]) -> list[int]:
    """The steps that were not applied because they were not finite, each once."""
    return sorted({row["step"] for row in events if row["event"] == "not_applied"})


def judged_from(config: dict[str, Any]) -> int:
    """The step from which a run is judged: its warm-up and the steps of grace are over then."""
    grace = count_at(config, "health", "grace") or 0
    steps = count_at(config, "steps") or 0
    try:
        warmup = whole_steps(at(config, "schedule", "warmup") or 0, steps, "schedule.warmup")
    except InputError:  # of a file that somebody else may have written
        warmup = 0
    return warmup + grace


def unjudged(config: dict[str, Any], rows: Sequence[Row]) -> str:
    """Why nothing can be said of a collapse from a run's metrics; "" where it can be."""
    if number_at(config, "health", "every") == 0:
        return "nothing is measured with health.every=0."
    since = judged_from(config)
    patience = count_at(config, "health", "patience") or 1
    judged = sum(row["step"] >= since and _is_measured(config, row) for row in rows)
    if judged >= patience:
        return ""
    times = "once" if patience == 1 else f"{patience:,} times"
    last = rows[-1]["step"] if rows else 0
    why = f"a collapse is told when it shows {times} in a row from step {since:,} on"
    return f"{why}, after warm-up and health.grace; the last step is {last:,}."


def _is_measured(config: dict[str, Any], row: Row) -> bool:
    """Whether training looked for a collapse in this row."""
    every = count_at(config, "health", "every") or 1
    spacing = count_at(config, "log", "every") or 1
    return row["step"] % every < spacing and any(row.get(sign) is not None for sign in JUDGED)


def in_words(
    events: list[Row], config: dict[str, Any], rows: Sequence[Row]
) -> list[tuple[str, str]]:
    """What befell a run: (what, what it means and what helps)."""
    lines = [
        (a.title, f"since step {a.step:,}: {a.why}. What helps: {a.remedy}.")
        for a in ailments(events)
    ]
    if failed := not_applied(events):
        why = f"loss or gradient was not finite, first at step {failed[0]:,}."
        lines.append((f"{len(failed)} step{'s' if len(failed) > 1 else ''} not applied", why))
    for row in events:
        if row["event"] == "diverged":
            lines.append((f"Diverged at step {row['step']:,}", f"{row['why']}."))
        if row["event"] == "rollback":
            first, last = row["skipped"]
            what = f"{row['why']}; back to step {row['to']:,}, and on without steps {first:,} to {last:,}."
            lines.append((f"Rollback at step {row['step']:,}", what))
    diverged = any(row["event"] == "diverged" for row in events)
    if (why := unjudged(config, rows)) and not diverged:
        steps = count_at(config, "steps")
        ended = bool(rows and steps and rows[-1]["step"] >= steps)
        lines.append(("Not judged" if ended else "Not judged yet", why))
    return lines or [("Well", "no symptom of collapse, and no step was taken back.")]
