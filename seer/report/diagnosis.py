"""A run's health, as the training wrote it down in health.jsonl and in its metrics."""

from dataclasses import dataclass

from seer.jsonl import Row

# Metrics that are signs of health: how the chart of each is headed, and what it says.
SIGNS = {
    "embedding_std": ("Spread of embeddings", "1 all round, 0 collapsed"),
    "effective_rank": ("Effective rank", "dimensions that embeddings use"),
    "perplexity": ("Perplexity of prototypes", "their effective number"),
    "assignment_entropy": ("Entropy of assignments", "nats"),
    "sinkhorn_imbalance": ("Imbalance of prototypes", "share of samples"),
    "grad_norm": ("Norm of the gradient", "before clipping"),
}


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


def not_applied(events: list[Row]) -> list[int]:
    """The steps that were not applied because they were not finite, each once."""
    return sorted({row["step"] for row in events if row["event"] == "not_applied"})


def in_words(events: list[Row]) -> list[tuple[str, str]]:
    """What befell a run: (what, what it means and what helps)."""
    told = [
        (a.title, f"since step {a.step:,}: {a.why}. What helps: {a.remedy}.")
        for a in ailments(events)
    ]
    if steps := not_applied(events):
        why = f"loss or gradient was not finite, first at step {steps[0]:,}."
        told.append((f"{len(steps)} step{'s' if len(steps) > 1 else ''} not applied", why))
    for row in events:
        if row["event"] == "diverged":
            told.append((f"Diverged at step {row['step']:,}", f"{row['why']}."))
        if row["event"] == "rollback":
            first, last = row["skipped"]
            what = f"{row['why']}; back to step {row['to']:,}, and on without steps {first:,} to {last:,}."
            told.append((f"Rollback at step {row['step']:,}", what))
    return told or [("Well", "no symptom of collapse, and no step was taken back.")]
