"""chains.html: the scores of chains of pretrainings over the steps of their last stage."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from seer import __version__, outputs
from seer.jsonl import Row
from seer.report.changes import cut
from seer.report.diagrams import Line, scores_along
from seer.report.plots import number, style_of
from seer.results import latest, read_results, shown, title_of
from seer.rundir.chains import Chains, Result, read_chains, results_of
from seer.templates import template

LONGEST_NAME = 120


@dataclass
class Cell:
    """A score in the table; "" where it was not measured."""

    value: str = ""
    interval: str = ""


@dataclass
class Strategy:
    """A row of the table: a strategy, and its scores by steps."""

    name: str
    style: str
    cells: list[Cell] = field(default_factory=list)


@dataclass
class Measure:
    """What is shown of one evaluation."""

    title: str
    svg: Markup
    columns: list[str]
    rows: list[Strategy]


def write_chains_page(folder: Path, out: Path) -> Path:
    """Write the page, and return its path. Raises `InputError` where no chains are recorded, or the
    page cannot be written.
    """
    outputs.write(out, render(folder), "the page")
    return out


def render(folder: Path) -> str:
    """The page as a text."""
    chains = read_chains(folder)
    measured = {name: latest(read_results(results_of(folder, name))) for name in chains.measured()}
    page = template(Path(__file__).parent, "chains.html.j2")
    return page.render(
        title=chains.title,
        labelled=cut(chains.labelled, LONGEST_NAME),
        measures=[_measure(chains, task, measured) for task in chains.tasks()],
        remarks=_remarks(chains, measured),
        version=__version__,
    )


def scores_of(
    chains: Chains, task: str, measured: dict[str, list[Row]]
) -> dict[tuple[str, str], dict[int, Row | None]]:
    """By strategy and variant, and by steps, the result that stands for a task; None where it was not
    measured.
    """
    table: dict[tuple[str, str], dict[int, Row | None]] = {}
    for point in chains.points:
        own = [row for row in measured[point.stage] if row["task"] == task and row.get("headline")]
        scores = table.setdefault((point.strategy, point.variant), {})
        scores[point.steps] = own[-1] if own else None
    return table


def _measure(chains: Chains, task: str, measured: dict[str, list[Row]]) -> Measure:
    table = scores_of(chains, task, measured)
    every = [row for scores in table.values() for row in scores.values() if row]
    title = title_of(every[0]) if every else task
    lengths = sorted({point.steps for point in chains.points if point.steps})
    lines = [_line(key, place, scores) for place, (key, scores) in enumerate(table.items())]
    svg = scores_along(lines, _in_words(title, table), "steps of the last stage", title)
    rows = []
    for place, (key, scores) in enumerate(table.items()):
        flat = scores.get(0)
        cells = [_cell(flat if 0 in scores else scores.get(steps)) for steps in lengths or [0]]
        rows.append(Strategy(_name(key), style_of(place), cells))
    columns = [f"{number(steps)} steps" for steps in lengths or [0]]
    return Measure(cut(title, LONGEST_NAME), Markup(svg), columns, rows)


def _line(key: tuple[str, str], place: int, scores: dict[int, Row | None]) -> Line:
    """A strategy's shares; one that does not depend on steps as a level."""
    present = {
        steps: (row["value"], row["low"], row["high"])
        for steps, row in scores.items()
        if row and row.get("unit", "share") == "share"
    }
    flat = present.pop(0, None)
    points = [(float(steps), present[steps]) for steps in sorted(present)]
    return Line(_name(key), place, points, flat[0] if flat else None)


def _cell(row: Row | None) -> Cell:
    if row is None:
        return Cell()
    low = shown(row, "low", with_unit=False)
    return Cell(shown(row), f"{low} – {shown(row, 'high', with_unit=False)}")


def _name(key: tuple[str, str]) -> str:
    strategy, variant = key
    return f"{strategy}, {variant}" if variant else strategy


def _in_words(title: str, table: dict[tuple[str, str], dict[int, Row | None]]) -> str:
    """The diagram for those who do not see it."""
    courses = []
    for key, scores in table.items():
        values = [
            shown(row) + (f" after {steps:,}" if steps else "")
            for steps, row in scores.items()
            if row
        ]
        if values:
            courses.append(f"{_name(key)} {', '.join(values)}")
    return f"{title}: {'; '.join(courses)}"


def _remarks(chains: Chains, measured: dict[str, list[Row]]) -> list[str]:
    """What is to be known before the scores are believed."""
    remarks = []
    for task in chains.tasks():
        missing = [
            name for name, rows in measured.items() if all(row["task"] != task for row in rows)
        ]
        if missing:
            remarks.append(f"Not measured by {task}: {', '.join(missing)}.")
    shared = _same_trainings(chains.points)
    if shared:
        remarks.append(f"One training under two names: {', '.join(shared)}.")
    return [cut(text, 4 * LONGEST_NAME) for text in remarks]


def _same_trainings(points: Sequence[Result]) -> list[str]:
    """The strategies that are the same chain."""
    names: dict[str, list[str]] = {}
    for point in points:
        names.setdefault(point.stage, []).append(point.strategy)
    return sorted({" and ".join(several) for several in names.values() if len(several) > 1})
