"""transfer.html: several models on several data sets, on one page that needs no network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from markupsafe import Markup

from seer import outputs
from seer.eval.paired import p_in_words
from seer.report.changes import cut
from seer.report.diagrams import Point, rank_diagram, scatter
from seer.report.plots import number, style_of
from seer.templates import template

Row = dict[str, Any]
LONGEST_NAME = 120  # characters
LONGEST_REASON = 400
KINDS = {"untrained": "untrained", "init": "as its run began"}


class Cell(NamedTuple):
    """A score of the table; `mark` is `best`, `alike`, `behind` or "" of what was not measured."""

    model: str
    style: str
    mark: str
    value: str = ""
    interval: str = ""
    beside: str = ""
    picture: str = ""


class Need(NamedTuple):
    """A line of the summary, in the words of the page's verdict."""

    measure: str
    outcome: str
    gain: str
    words: str


def write_transfer(summary: Row, out: Path) -> Path:
    """Write the page of what `seer.eval.transfer.summary` says, and return its path.

    Raises:
        InputError: it cannot be written.
    """
    outputs.write(out, render(summary), "the page")
    return out


def render(summary: Row) -> str:
    """The page as a text."""
    styles = {model["title"]: style_of(i) for i, model in enumerate(summary["models"])}
    places = {title: i for i, title in enumerate(styles)}
    shown = _needs(summary)
    page = template(Path(__file__).parent, "transfer.html.j2")
    return page.render(
        title=f"{_count(summary['models'], 'model')} on {_count(summary['data_sets'], 'data set')}",
        summary=summary,
        verdict=verdict(summary["needs"]),
        tone="better" if shown and all(line.outcome == "better" for line in shown) else "unsure",
        needs=shown,
        models=[(model, styles[model["title"]], about(model)) for model in summary["models"]],
        boards=boards(summary, styles),
        comparisons=comparisons(summary),
        rankings=[(ranking, _ranks(ranking, places)) for ranking in summary["ranks"]],
        remarks=[cut(remark, LONGEST_REASON) for remark in summary["remarks"]],
        few=few(summary["correlations"]),
        pairs=[(pair, _scatter(pair, places)) for pair in summary["correlations"]],
        costs=costs(summary, list(styles)),
        missing=[
            {**gap, "reason": cut(gap["reason"], LONGEST_REASON)} for gap in summary["missing"]
        ],
        coefficient=coefficient,
        when=summary["when"][:10],
    )


def told(summary: Row) -> list[str]:
    """The summary in lines for a terminal."""
    return [
        verdict(summary["needs"]),
        *(f"  {line.measure}: {line.gain}: {line.words}" for line in _needs(summary)),
        *(f"  {remark}" for remark in summary["remarks"]),
    ]


def _needs(summary: Row) -> list[Need]:
    speeds = {model["title"]: model["images_per_second"] for model in summary["models"]}
    return [need(line, speeds) for line in summary["needs"]]


def verdict(needs: Sequence[Row]) -> str:
    """What a reader takes away who reads no further."""
    if not needs:
        return "Nothing to choose between yet: no two models have all scores of a task"
    sure = [line for line in needs if line["better"] and not line["worse"]]
    winners = {line["best"] for line in sure}
    if len(sure) == len(needs) and len(winners) == 1:
        return f"{cut(sure[0]['best'], LONGEST_NAME)} is best for {_every(len(needs))}"
    if not sure:
        return "No need has a model that is significantly better than the next one"
    parts = []
    for winner in winners:
        count = sum(line["best"] == winner for line in sure)
        parts.append(f"{cut(winner, LONGEST_NAME)} for {count}")
    return f"Of {len(needs)} needs, one model is significantly ahead: {', '.join(parts)}"


def need(line: Row, speeds: dict[str, float | None]) -> Need:
    """Which model for a need, by how much, how sure, and what both cost in images/s."""
    best = cut(line["best"], LONGEST_NAME)
    following = cut(line["next"], LONGEST_NAME)
    points = f"{100 * line['difference']:.1f} points"
    measures = ", ".join(line["measures"])
    if line["scores"] == 1:
        value = f"{100 * line['value']:.1f} % ({measures})"
        sure = "significant" if line["better"] else "not significant"
    else:
        value = f"{100 * line['value']:.1f} %, the mean of {line['scores']} scores ({measures})"
        sure = f"significantly more on {line['better']} of {line['scores']}"
        sure += f", significantly less on {line['worse']}" if line["worse"] else ""
    words = f"{value}; {points} more than {following}, {sure}."
    rates = (speeds.get(line["best"]), speeds.get(line["next"]))
    if all(rates):
        rate, following_rate = map(number, rates)  # type: ignore[arg-type]
        words += f" It computes features of {rate} images/s, {following} of {following_rate}."
    if line["better"] and not line["worse"]:
        return Need(line["need"], "better", f"{best}, +{points}", words)
    return Need(line["need"], "not told apart", f"{best} or {following}", words)


def about(model: Row) -> str:
    """What is to be known of a model, in a line."""
    if model["kind"] == "pixels":
        _, _, side = model["spec"].partition(":")
        return f"no network: the image itself, of {side or 'at most 64'} px"
    parts = [KINDS[model["kind"]]] if model["kind"] in KINDS else []
    if model["lineage"]:
        parts.append(model["lineage"])
    if model["size"]:
        parts.append(f"{model['size']} px")
        parts.append(f"{model['dimensions']:,} dimensions")
        parts.append(f"{number(model['images_per_second'])} images/s")
    return " · ".join(parts)


def boards(
    summary: Row, styles: dict[str, str]
) -> list[tuple[str, bool, list[tuple[Row, list[Cell]]]]]:
    """For each task `(title, whether its main measure, lines)`, a line for each data set; the measures
    that stand for their tasks first.
    """
    groups: dict[tuple[str, str, bool], list[tuple[Row, list[Cell]]]] = {}
    for column in summary["columns"]:
        group = (column["task"], column["title"], column["headline"])
        scores = {score["model"]: score for score in column["scores"]}
        cells = [_cell(column, title, style, scores.get(title)) for title, style in styles.items()]
        groups.setdefault(group, []).append((column, cells))
    ordered = sorted(groups.items(), key=lambda item: not item[0][2])
    return [(title, headline, lines) for (_, title, headline), lines in ordered]


def _cell(column: Row, title: str, style: str, score: Row | None) -> Cell:
    name = cut(title, LONGEST_NAME)
    if score is None:
        return Cell(name, style, "")
    interval = f"{_value(column, score['low'], False)} – {_value(column, score['high'], False)}"
    against = score["against_best"]
    beside = ""
    if against is not None:
        points = [100 * against[key] for key in ("value", "low", "high")]
        interval_of_difference = f"[{points[1]:+.1f}, {points[2]:+.1f}]"
        beside = f"{points[0]:+.1f} points {interval_of_difference}, {p_in_words(against['p'])}"
    value = _value(column, score["value"])
    picture = quote(score.get("picture", ""))
    return Cell(name, style, score["standing"], value, interval, beside, picture)


def _value(column: Row, value: float, with_unit: bool = True) -> str:
    if column["unit"] == "share":
        return f"{100 * value:.1f}" + " %" * with_unit
    return number(value) + f" {column['unit']}" * with_unit


def comparisons(summary: Row) -> int:
    """How many differences were tested."""
    scores = [score for column in summary["columns"] for score in column["scores"]]
    return sum(score["against_best"] is not None for score in scores)


def costs(summary: Row, models: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Minutes of each task, a value for each model."""
    tasks = list(dict.fromkeys(line["task"] for line in summary["minutes"]))
    minutes = {(line["task"], line["model"]): line["minutes"] for line in summary["minutes"]}
    rows = []
    for task in tasks:
        rows.append((task, [_minutes(minutes.get((task, model))) for model in models]))
    sums = [sum(round(minutes.get((task, model), 0.0), 2) for task in tasks) for model in models]
    return [*rows, ("together", list(map(_minutes, sums)))] if len(rows) > 1 else rows


def _minutes(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}"


def few(pairs: Sequence[Row]) -> str:
    """What is to be said of too few models, once for all correlations of a page."""
    remarks = [pair.get("remark", "") for pair in pairs if "problem" not in pair]
    return min(filter(None, remarks), default="")


def coefficient(values: Sequence[float | None] | None) -> str:
    """`0.93 [0.84, 0.99]`."""
    if not values or None in values:
        return "–"
    value, low, high = (f"{each:.2f}".replace("-", "−") for each in values if each is not None)
    return f"{value} [{low}, {high}]"


def _ranks(ranking: Row, places: dict[str, int]) -> Markup:
    models = ranking["models"]
    names = [(model, places[model]) for model in models]
    groups = [[models.index(model) for model in group] for group in ranking["alike"]]
    told = (f"{model} {mean:.2f}" for model, mean in zip(models, ranking["mean"], strict=True))
    label = f"Mean ranks, {ranking['title']}: {', '.join(told)}"
    return Markup(rank_diagram(names, ranking["mean"], groups, ranking["critical"], label))


def _scatter(pair: Row, places: dict[str, int]) -> Markup:
    points = [
        Point(point["model"], places[point["model"]], tuple(point["x"]), tuple(point["y"]))
        for point in pair["points"]
    ]
    label = f"{pair['y_title']} against {pair['x_title']} of {len(points)} models"
    return Markup(scatter(points, label, pair["x_title"], pair["y_title"]))


def _count(items: Sequence[Any], name: str) -> str:
    return f"{len(items)} {name}" + "s" * (len(items) != 1)


def _every(count: int) -> str:
    return (
        "the one need that was measured" if count == 1 else f"all {count} needs that were measured"
    )
