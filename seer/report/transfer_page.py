"""transfer.html: several models on several data sets, on one page that needs no network."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from markupsafe import Markup

from seer import inputs, outputs
from seer.eval.paired import SHARE, Difference, p_of, size_in_words
from seer.inputs import UnreadableError
from seer.report.changes import cut
from seer.report.diagrams import Point, rank_diagram, scatter
from seer.report.gallery import Picture, data_uri
from seer.report.plots import number, style_of
from seer.report.transfer_words import (
    LONGEST_NAME,
    Need,
    about,
    beside_means,
    coefficient,
    count_of,
    few,
    need,
    speeds,
    unsure_ranks,
    verdict,
)
from seer.rundir.rundir import read_png
from seer.templates import template

Row = dict[str, Any]
LONGEST_REASON = 400
# Over what the intervals of a task are, and its tests.
OVER = {"fewshot": "intervals over the images that are asked about and the episodes"}
OVER_IMAGES = "intervals over the test images"
RELIABLE = (
    "Accuracy by confidence, as it is (left) and after the temperature (right); on the diagonal a model is "
    "as sure as it is right; the more solid a bar, the more images."
)
MOST_PICTURES = 60


class Cell(NamedTuple):
    """A score of the table.

    Attributes:
        mark: `best`, `alike`, `behind` or "" of what was not measured.
        beside: by how much it is above the best.
        learned: whether the model has learned from images of this data set.
    """

    model: str
    style: str
    mark: str
    value: str = ""
    interval: str = ""
    beside: str = ""
    learned: bool = False
    picture: str = ""


class Line(NamedTuple):
    """A data set of a table; `about` is how many images its scores are of, and chance."""

    data_set: str
    about: list[str]
    cells: list[Cell]
    published: list[Row]


class Board(NamedTuple):
    """A table of one measure; `over` says over what its intervals are."""

    title: str
    over: str
    headline: bool
    lines: list[Line]


def write_transfer(summary: Row, out: Path) -> Path:
    """Write the page of what `seer.eval.transfer.summary` says, and return its path.

    Raises:
        InputError: it cannot be written.
    """
    outputs.write(out, render(summary, out.parent), "the page")
    return out


def render(summary: Row, folder: Path | None = None) -> str:
    """The page as a text, with the pictures that lie in the folder of the results."""
    styles = {model["title"]: style_of(i) for i, model in enumerate(summary["models"])}
    places = {title: i for i, title in enumerate(styles)}
    shown = _needs(summary)
    page = template(Path(__file__).parent, "transfer.html.j2")
    return page.render(
        title=f"{count_of(summary['models'], 'model')} on {count_of(summary['data_sets'], 'data set')}",
        summary=summary,
        verdict=verdict(summary["needs"]),
        tone="better" if shown and all(line.outcome == "better" for line in shown) else "unsure",
        needs=shown,
        models=[(model, styles[model["title"]], about(model)) for model in summary["models"]],
        speeds=speeds(summary["speeds"]),
        unsure_ranks=unsure_ranks(summary["ranks"]),
        boards=boards(summary, styles),
        comparisons=comparisons(summary),
        unpaired=unpaired(summary),
        pictures=pictures(summary, folder) if folder else [],
        rankings=[
            (ranking, _ranks(ranking, places), beside_means(ranking))
            for ranking in summary["ranks"]
        ],
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
    learned = {
        (model, column["data_set"])
        for column in summary["columns"]
        for model in column["learned_from"]
    }
    return [need(line, speeds, learned) for line in summary["needs"]]


def boards(summary: Row, styles: dict[str, str]) -> list[Board]:
    """A table for each measure, a line for each data set; the measures that stand for their tasks
    first.
    """
    sizes = {place["name"]: place for place in summary["data_sets"]}
    measures: dict[tuple[str, str], list[Row]] = {}
    for column in summary["columns"]:
        measures.setdefault((column["task"], column["title"]), []).append(column)
    tables = [_board(columns, sizes, styles) for columns in measures.values()]
    return sorted(tables, key=lambda board: not board.headline)


def _board(columns: Sequence[Row], sizes: dict[str, Row], styles: dict[str, str]) -> Board:
    """A measure on each of its data sets."""
    first = columns[0]
    over = OVER.get(first["task"], OVER_IMAGES)
    if first["better"] == "lower":
        over = f"less is better; {over}"
    lines = []
    for column in columns:
        scores = {score["model"]: score for score in column["scores"]}
        cells = [_cell(column, title, style, scores.get(title)) for title, style in styles.items()]
        told = of_what(column, sizes.get(column["data_set"], {}))
        lines.append(Line(column["data_set"], told, cells, column["published"]))
    return Board(first["title"], over, first["headline"], lines)


def of_what(column: Row, place: Row) -> list[str]:
    """Of how many images a score is, and of how many classes, with chance; a line each."""
    images = []
    if column["images"] and column["task"] == "fewshot":
        images.append(f"{column['images']:,} images asked about")
    elif column["images"]:
        images.append(f"{column['images']:,} test images")
        if "train" in place:
            images.append(f"{place['train']:,} to learn from")
    classes = [f"{place['classes']} classes"] if "classes" in place else []
    if column["chance"] is not None and column["unit"] == SHARE:
        classes.append(f"chance {100 * column['chance']:.1f} %")
    return [", ".join(line) for line in (images, classes) if line]


def _cell(column: Row, title: str, style: str, score: Row | None) -> Cell:
    name = cut(title, LONGEST_NAME)
    if score is None:
        return Cell(name, style, "")
    interval = f"{_value(column, score['low'], False)} – {_value(column, score['high'], False)}"
    beside = ""
    if score["against_best"] is not None:
        against = Difference(**score["against_best"])
        beside = f"{size_in_words(against, column['unit'])}, {p_of(against)}"
    learned = title in column["learned_from"]
    picture = quote(score.get("picture", ""))
    value = _value(column, score["value"])
    return Cell(name, style, score["standing"], value, interval, beside, learned, picture)


def _value(column: Row, value: float, with_unit: bool = True) -> str:
    if column["unit"] == "share":
        return f"{100 * value:.1f}" + " %" * with_unit
    return number(value) + f" {column['unit']}" * with_unit


def unpaired(summary: Row) -> list[str]:
    """Measures of which some models were compared by their intervals."""
    return list(
        dict.fromkeys(
            column["title"]
            for column in summary["columns"]
            if any(each["against_best"] is None for each in column["scores"][1:])
        )
    )


def pictures(summary: Row, folder: Path) -> list[Picture]:
    """How reliable the models are, as drawn when that was measured; none that is not there."""
    drawn = []
    for each in summary["pictures"][:MOST_PICTURES]:
        with suppress(OSError, UnreadableError):
            source = data_uri(read_png(inputs.inside(folder, each["path"])))
            drawn.append(Picture(f"{each['data_set']}, {each['model']}", RELIABLE, source))
    return drawn


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
