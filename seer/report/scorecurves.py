"""The scores of checkpoints over steps, with lines for what they are compared with."""

from collections.abc import Sequence

from markupsafe import Markup

from seer.eval.curves import BASELINES, Curve, curves
from seer.jsonl import Row
from seer.report.charts import LONGEST_NAME, MOST_CHARTS, Chart, last_step
from seer.report.plots import Mark, Series, line_chart
from seer.report.runfiles import RunFiles, common, tails
from seer.results import shown


def score_charts(runs: Sequence[RunFiles]) -> list[Chart]:
    """A chart for each measure that stands for its task, on each data set."""
    of_runs = [{(curve.title, curve.data): curve for curve in curves(run.scores)} for run in runs]
    measures = list(dict.fromkeys(measure for known in of_runs for measure in known))
    places = tails(data for _, data in measures)
    charts = []
    for measure in measures[:MOST_CHARTS]:
        measured = [known.get(measure) for known in of_runs]
        charts.append(_chart(runs, measured, places[measure[1]]))
    return [chart for chart in charts if chart.svg]


def _chart(runs: Sequence[RunFiles], measured: Sequence[Curve | None], data: str) -> Chart:
    """One measure of several runs; None of those that were not measured so."""
    present = [curve for curve in measured if curve]
    series = []
    lacking = []
    for run, curve in zip(runs, measured, strict=True):
        rows = curve.rows if curve else []
        series.append(Series(run.name, [row["step"] for row in rows], [_height(r) for r in rows]))
        lacking += [] if curve else [run.name]
    first = present[0]
    begin = first.rows[0]
    label = f"{first.title}: {shown(begin)} at step {begin['step']:,}; {first.in_words()}"
    svg = line_chart(series, label, marks=_marks(present), until=last_step(runs))
    last = shown(first.newest) if len(runs) == 1 else ""
    unit = "%" if _is_share(begin) else begin["unit"][:LONGEST_NAME]
    note = f"Not measured: {', '.join(lacking)}." if lacking else ""
    heading = first.title[:LONGEST_NAME]
    return Chart(heading, f"{unit}, {data[:LONGEST_NAME]}", last, Markup(svg), note)


def _marks(measured: Sequence[Curve]) -> list[Mark]:
    """Lines across a chart: what all of its curves are compared with, where that is the same."""
    marks = []
    for which, name in BASELINES.items():
        rows = [curve.baselines[which] for curve in measured if which in curve.baselines]
        value = common([_height(row) for row in rows])
        if value is not None and len(rows) == len(measured):
            marks.append(Mark(value, f"{name} {shown(rows[0])}"))
    return marks


def _height(row: Row) -> float:
    """A score as charts have it: shares in percent."""
    return 100 * row["value"] if _is_share(row) else row["value"]


def _is_share(row: Row) -> bool:
    return row.get("unit", "share") == "share"
