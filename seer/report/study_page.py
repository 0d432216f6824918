"""study.html: the scores of a study's arms over what they differ in, beside published ones."""

from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from seer import __version__, outputs
from seer.eval.literature import Reference, beside
from seer.jsonl import Row
from seer.report.arm_costs import Costs, costs_of
from seer.report.changes import cut
from seer.report.diagrams import Point, scores_over
from seer.report.plots import number, style_of
from seer.results import latest, read_results, shown, title_of
from seer.rundir.studies import Arm, Study, read_study, results_of
from seer.templates import template

AMOUNTS = {"parameters": "parameters of the backbone", "images": "images seen", "arm": ""}
LONGEST_NAME = 120


@dataclass
class Line:
    """An arm in the table; `value` is "" of one that was not measured."""

    name: str
    style: str
    amount: str
    about: str
    value: str = ""
    interval: str = ""
    published: str = ""
    costs: Costs = field(default_factory=Costs)


def write_study_page(folder: Path, out: Path) -> Path:
    """Write the page, and return its path. Raises `InputError` where no study is recorded, or the page
    cannot be written.
    """
    outputs.write(out, render(folder), "the page")
    return out


def render(folder: Path) -> str:
    """The page as a text."""
    study = read_study(folder)
    rows = {arm.name: measured(study, read_results(results_of(folder, arm))) for arm in study.arms}
    references = published(study, [row for row in rows.values() if row])
    title = next((title_of(row) for row in rows.values() if row), f"{study.task} {study.metric}")
    page = template(Path(__file__).parent, "study.html.j2")
    return page.render(
        title=study.title,
        measure=cut(f"{title}, {study.dataset or study.labelled}", LONGEST_NAME),
        svg=Markup(chart(study, rows, references, title)),
        lines=lines_of(study, folder, rows, references),
        amount=AMOUNTS[study.x],
        sources=sorted({f"{entry.source}: {entry.about}" for entry in references.values()}),
        remarks=remarks(study, rows, references),
        version=__version__,
    )


def measured(study: Study, rows: list[Row]) -> Row | None:
    """The newest result of the study's measure; where the study names none, of the task's own."""
    fitting = [
        row
        for row in latest(rows)
        if row["task"] == study.task
        and row.get("protocol", "") == study.protocol
        and (row["metric"] == study.metric if study.metric else row.get("headline"))
    ]
    return fitting[-1] if fitting else None


def published(study: Study, rows: list[Row]) -> dict[str, Reference]:
    """By arm, what others published of the same network, measured likewise on the same data set."""
    if any(row.get("dataset", "") != study.dataset for row in rows):
        return {}
    models = {
        reference.model: reference
        for reference in beside(study.task, study.protocol, study.dataset, study.metric)
    }
    return {arm.name: models[arm.published] for arm in study.arms if arm.published in models}


def chart(
    study: Study, rows: dict[str, Row | None], references: dict[str, Reference], title: str
) -> str:
    """Scores with their intervals, and published values as circles."""
    points = []
    hollow = []
    for place, arm in enumerate(study.arms):
        x = 3 * (amount(study, arm, place),)
        row = rows[arm.name]
        if row and row.get("unit", "share") == "share":
            points.append(Point(arm.name, place, x, (row["value"], row["low"], row["high"])))
        if arm.name in references:
            reference = references[arm.name]
            hollow.append(Point(f"published: {reference.model}", place, x, 3 * (reference.value,)))
    told = [f"{point.name} {100 * point.y[0]:.1f} %" for point in [*points, *hollow]]
    return scores_over(points, hollow, f"{title}: {'; '.join(told)}", AMOUNTS[study.x], title)


def amount(study: Study, arm: Arm, place: int) -> float:
    """Where an arm stands on the horizontal axis."""
    return float({"parameters": arm.parameters, "images": arm.images, "arm": place}[study.x])


def lines_of(
    study: Study, folder: Path, rows: dict[str, Row | None], references: dict[str, Reference]
) -> list[Line]:
    """All arms; below those that are seeds of one thing, what they have in common."""
    lines = []
    for place, arm in enumerate(study.arms):
        entry = line(study, arm, place, rows[arm.name], references)
        if not arm.scratch:
            entry.costs = costs_of(folder / arm.name)
        lines.append(entry)
        is_last = arm.group and arm.group not in {a.group for a in study.arms[place + 1 :]}
        if is_last:
            seeds = [a for a in study.arms if a.group == arm.group]
            lines.append(together(arm.group, [rows[a.name] for a in seeds]))
    return lines


def together(name: str, rows: list[Row | None]) -> Line:
    """The mean over seeds, and how far they lie apart: no interval, which few seeds do not give."""
    present = [row for row in rows if row]
    entry = Line(f"{cut(name, LONGEST_NAME)}, mean", "", "", f"{len(present)} of {len(rows)} seeds")
    if present:
        values = [row["value"] for row in present]
        entry.value = shown(present[0] | {"value": sum(values) / len(values)})
        ends = [
            shown(present[0] | {"value": end}, with_unit=False)
            for end in (min(values), max(values))
        ]
        entry.interval = f"seeds {ends[0]} – {ends[1]}"
    return entry


def line(
    study: Study, arm: Arm, place: int, row: Row | None, references: dict[str, Reference]
) -> Line:
    """An arm as the table has it."""
    seen = "not pretrained" if arm.scratch else f"{number(arm.images)} images, {arm.recipe}"
    about = f"{number(arm.parameters)} parameters, {seen}"
    given = "" if study.x == "arm" else number(amount(study, arm, place))
    entry = Line(cut(arm.name, LONGEST_NAME), style_of(place), given, cut(about, LONGEST_NAME))
    if row:
        entry.value = shown(row)
        low = shown(row, "low", with_unit=False)
        entry.interval = f"{low} – {shown(row, 'high', with_unit=False)}"
    if arm.name in references:
        reference = references[arm.name]
        entry.published = f"{reference.model} {100 * reference.value:.1f} %"
    return entry


def remarks(
    study: Study, rows: dict[str, Row | None], references: dict[str, Reference]
) -> list[str]:
    """What is to be known before the scores are believed."""
    told = []
    missing = [name for name, row in rows.items() if not row]
    if missing:
        told.append(f"Not measured: {', '.join(missing)}.")
    present = [row for row in rows.values() if row]
    if len({row.get("images", "") for row in present} | {row["data"] for row in present}) > 2:
        told.append("The arms were not all measured on the same images.")
    amounts = [amount(study, arm, place) for place, arm in enumerate(study.arms)]
    alike = [a.name for a, x in zip(study.arms, amounts, strict=True) if amounts.count(x) > 1]
    if alike:
        told.append(f"Equal in {AMOUNTS[study.x]}, one above the other: {', '.join(alike)}.")
    if not references:
        told.append("No published points: none of these arms is known to have been measured so.")
    return [cut(text, 4 * LONGEST_NAME) for text in told]
