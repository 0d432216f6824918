"""The rows of `methods.py`, and what becomes of them."""

from dataclasses import asdict, dataclass

from harness import figure


@dataclass
class Result:
    """A row of the table.

    Attributes:
        budget: what all rows are equal in.
        knn, linear: top-1, in percent. cpu_minutes: of one core, the process's start among them.
        samples_per_second: per second of one core. peak_gb: the process's largest resident memory.
    """

    method: str
    system: str
    seed: int
    budget: str
    knn: float
    linear: float
    samples: int = 0
    cpu_minutes: float = 0.0
    samples_per_second: float = 0.0
    peak_gb: float = 0.0


def table(results: list[Result]) -> list[str]:
    """Markdown: a row for each method of each system, the mean over seeds, the best kNN first."""
    lines = [
        "| method | system | seeds | kNN % | linear % | samples/s | core-minutes | peak GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.method, result.system), []).append(result)
    means = {key: _means(rows) for key, rows in groups.items()}
    for key in sorted(means, key=lambda key: -means[key]["knn"]):
        mean = means[key]
        spent = "| | | |"
        if mean["samples"]:
            spent = (
                f"| {mean['samples_per_second']:.0f} | {mean['cpu_minutes']:.2f} "
                f"| {mean['peak_gb']:.2f} |"
            )
        name, system = key
        scores = f"{_spread(groups[key], 'knn')} | {_spread(groups[key], 'linear')}"
        lines.append(f"| {name} | {system} | {len(groups[key])} | {scores} {spent}")
    return lines


def _means(rows: list[Result]) -> dict[str, float]:
    numbers = {key: v for key, v in asdict(rows[0]).items() if isinstance(v, int | float)}
    return {key: sum(getattr(row, key) for row in rows) / len(rows) for key in numbers}


def _spread(rows: list[Result], key: str) -> str:
    values = [getattr(row, key) for row in rows]
    mean = sum(values) / len(values)
    return f"{mean:.1f}" + (f" ± {(max(values) - min(values)) / 2:.1f}" if len(rows) > 1 else "")


def figures(results: list[Result]) -> list[dict]:
    """What `--json` gets: for each method kNN and samples/s, the peer's beside ours."""
    entries = []
    for method in dict.fromkeys(r.method for r in results if r.system == "seer"):
        of_method = [r for r in results if r.method == method]
        ours = _means([r for r in of_method if r.system == "seer"])
        theirs = [r for r in of_method if r.system == "lightly"]
        peer = _means(theirs) if theirs else {}
        for key, unit in {"knn": "%", "linear": "%", "samples_per_second": "samples/s"}.items():
            name = f"{method}, {key.replace('_', ' ')}, {of_method[0].budget}"
            peers = {"lightly": peer[key]} if peer else {}
            peers |= {r.method: getattr(r, key) for r in results if not r.system and unit == "%"}
            entries.append(figure(name, unit, ours[key], peers))
    return entries
