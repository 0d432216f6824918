"""What a backbone is worth beside the same network untrained and the raw pixels, by every task that
is quick.
"""

from pathlib import Path
from typing import Any

from seer.config import parse_overrides, read, resolve
from seer.eval import outcomes
from seer.eval.paired import alike, compare, verdict
from seer.eval.task import evaluate
from seer.eval.tasks import QUICK, options_of
from seer.interop.spec import INIT, RANDOM, library_of, run_of, without_size
from seer.jsonl import Row
from seer.results import at_size, shown
from seer.rundir.names import CONFIG, RESULTS


def evaluate_all(
    model: str, data: Path | str, overrides: list[str], out: Path | str | None = None
) -> list[Row]:
    """Run the quick tasks on a model and its baselines; their results, in the order of measurement.

    Args:
        model: as `evaluate` takes it.
        overrides: options as `key=value`, each for the tasks that have it.
        out: results file; by default that of the model's run, the baselines' results included.

    Raises:
        InputError: as `evaluate` raises it; no task has an option.
    """
    options = {name: options_of(name, overrides) for name in QUICK}
    out = results_file(model, out)
    specs = [model, *baselines(model, size_of(options["knn"]))]
    return [
        row
        for name in QUICK
        for spec in specs
        for row in evaluate(name, spec, data, options[name], out)
    ]


def results_file(model: str, out: Path | str | None = None) -> Path | str:
    """Where the results of a model and its baselines go, unless `out` says it."""
    return out or (run_of(model) or Path()) / RESULTS


def size_of(overrides: list[str]) -> int:
    """The side of the images in pixels that is asked for; 0: each model's own."""
    return resolve(QUICK["knn"].config, [parse_overrides(overrides)]).size


def baselines(model: str, size: int = 0) -> list[str]:
    """What a model is compared with: the weights that its run began with, if it did; the same network
    untrained, where it can be had by a word; and raw pixels, of images of this `size` if it is not 0.
    """
    specs = []
    name, own = without_size(model)
    suffix = f"@{own}" if own else ""
    if run := run_of(model):
        if _began_elsewhere(run):
            specs.append(f"{run}:{INIT}{suffix}")
        specs.append(f"{run}:{RANDOM}{suffix}")
    elif library := library_of(model):
        specs.append(f"{library}:{name.split(':')[1]}:{RANDOM}{suffix}")
    specs.append(f"pixels:{size}" if size else "pixels")
    return [spec for spec in specs if model not in (spec, "pixels")]


def _began_elsewhere(run: Path) -> bool:
    """Whether a run began with weights of another, all of which are known."""
    path = run / CONFIG
    config = read(path) if path.is_file() else {}
    return bool(config.get("init")) and not config.get("init_partial")


def table(rows: list[Row]) -> list[str]:
    """Each task's main value, a line for each model, for a terminal."""
    rows = [row for row in rows if row["headline"]]
    titles = list(dict.fromkeys(row["title"] for row in rows))
    lines = {"": titles}
    for row in rows:
        cells = lines.setdefault(row["model"] + at_size(row), [""] * len(titles))
        cells[titles.index(row["title"])] = _cell(row)
    return _aligned(lines)


def verdicts(rows: list[Row], results: Path | str) -> list[str]:
    """Of each task's main value, the first model against each of the others on the same images, in
    words.
    """
    lines = []
    headlines = [row for row in rows if row["headline"]]
    for title in dict.fromkeys(row["title"] for row in headlines):
        first, *others = [row for row in headlines if row["title"] == title]
        for row in others:
            ours = outcomes.read(results, first)
            theirs = outcomes.read(results, row)
            if row["comparable"] == first["comparable"] and alike(ours, theirs):
                difference = compare(ours, theirs)
                lines.append(f"{title}, {verdict(first['model'], row['model'], difference)}")
    return lines


def _aligned(lines: dict[str, list[str]]) -> list[str]:
    """Names at the left, their cells in columns that end together."""
    names = max(map(len, lines))
    columns = [max(map(len, column)) for column in zip(*lines.values(), strict=True)]
    aligned = []
    for name, cells in lines.items():
        words = [name.ljust(names)]
        for cell, width in zip(cells, columns, strict=True):
            words.append(cell.rjust(width))
        aligned.append("   ".join(words))
    return aligned


def _cell(row: dict[str, Any]) -> str:
    return f"{shown(row)} [{shown(row, 'low', False)}, {shown(row, 'high', False)}]"
