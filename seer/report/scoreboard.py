"""Scores as bars over a scale, with the line of chance; and whether they differ by more than it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from seer.eval.literature import Reference, beside
from seer.eval.paired import SHARE, Difference, corrected, in_words
from seer.jsonl import Row
from seer.report.changes import cut
from seer.report.comparisons import Scored, difference
from seer.report.plots import Axis, nice_ticks, number, style_of
from seer.report.runfiles import RunFiles, common, role, tails
from seer.report.verdict import CHECKPOINT, is_headline
from seer.results import kind, measure_of, shown, title_of

MOST_SCORES = 1_000
MOST_COMPARED = 20  # of a board, those that are best
LONGEST = 200  # characters of a name
BASELINE = "base"  # its class in the style sheet: grey


@dataclass
class Bar:
    """One model's score; places are in percent of the scale.

    Attributes:
        style: the classes of its colour.
        begin, end: of the bar, from zero to the value. low, high: of the interval.
    """

    model: str
    style: str
    value: str
    interval: str = ""
    begin: float = 0.0
    end: float = 0.0
    low: float = 0.0
    high: float = 0.0


class Compared(NamedTuple):
    """The best pretrained model of a board, beside the others.

    Attributes:
        lines: `(other model, the difference in words)`, p corrected for all of them.
    """

    best: str
    lines: list[tuple[str, str]]


class PublishedMark(NamedTuple):
    """A published value on a board's scale; `source` is the number of its source, from 1."""

    model: str
    value: str
    place: float
    source: int


class Published(NamedTuple):
    """What others have published, best first, and where."""

    marks: list[PublishedMark]
    sources: list[str]


class Item(NamedTuple):
    """A score of a board: the number of its run, and the model's name."""

    place: int
    name: str
    scored: Scored

    @property
    def row(self) -> Row:
        return self.scored.row

    @property
    def role(self) -> str:
        return role(self.scored.run, self.row)


@dataclass
class Board:
    """Scores of one measure on the same data, best first.

    Attributes:
        ticks: `(place in percent, label)` on the scale that all bars share.
        chance: likewise, where the results say it.
        missing: runs that were not measured so.
        headline: whether the measure stands for its task.
        compared: None where nothing is told by the same images.
        published: None of data of one's own, and where nothing is known.
    """

    title: str
    data: str
    headline: bool
    ticks: list[tuple[float, str]]
    chance: tuple[float, str] | None
    bars: list[Bar]
    missing: list[str] = field(default_factory=list)
    compared: Compared | None = None
    published: Published | None = None


def boards(runs: Sequence[RunFiles]) -> list[Board]:
    """Results by what was measured, measures that stand for their task first."""
    groups: dict[tuple[str, ...], list[Item]] = {}
    pixels = set()  # the same for every run that measured them
    for place, run in enumerate(runs):
        for row in run.results[-MOST_SCORES:]:
            if kind(row) == "pixels":
                same = (row["task"], row["metric"], row["data"], row["model"], row["value"])
                if same in pixels:
                    continue
                pixels.add(same)
            item = Item(place, _name(row, run, len(runs) > 1), Scored(run, row))
            groups.setdefault(measure_of(row), []).append(item)
    places = tails(data for *_, data in groups)
    measured = [_board(items, places, runs) for items in groups.values()]
    return sorted(measured, key=lambda board: not board.headline)


def _board(items: list[Item], places: dict[str, str], runs: Sequence[RunFiles]) -> Board:
    rows = [item.row for item in items]
    first = rows[0]
    higher_is_better = first.get("better", "higher") == "higher"
    items.sort(key=lambda item: item.row["value"], reverse=higher_is_better)
    chances = [row["chance"] for row in rows if row.get("chance") is not None]
    chance = common(chances)  # not where test images were others
    scale, ticks = _scale(rows, chance)
    zero = scale(min(max(0.0, scale.low), scale.high))
    bars = []
    for item in items:
        row = item.row
        style = style_of(item.place) if item.role == "pretrained" else BASELINE
        low, high = (shown(row, end, with_unit=False) for end in ("low", "high"))
        value, bottom, top = (
            min(100.0, max(0.0, scale(row[key]))) for key in ("value", "low", "high")
        )
        begin, end = sorted((zero, value))
        bars.append(Bar(item.name, style, shown(row), f"{low} – {high}", begin, end, bottom, top))
    measured = {item.place for item in items if item.role == "pretrained"}
    missing = [cut(run.name, LONGEST) for i, run in enumerate(runs) if i not in measured]
    return Board(
        cut(title_of(first), LONGEST),
        cut(places[first["data"]], LONGEST),
        any(map(is_headline, rows)),
        [(scale(tick), _tick(first, tick)) for tick in ticks],
        _chance(first, chance, scale),
        bars,
        missing if len(runs) > 1 else [],
        _compared(items),
        _published(rows, scale),
    )


def _compared(items: Sequence[Item]) -> Compared | None:
    """The best pretrained model against each other one, by the images that both were measured on."""
    pretrained = [item for item in items if item.role == "pretrained"]
    if not pretrained:
        return None
    best = pretrained[0]
    names: list[str] = []
    differences: list[Difference] = []
    for item in items:
        if item is not best and len(names) < MOST_COMPARED:
            paired = difference(best.scored, item.scored)
            if paired is not None:
                names.append(item.name)
                differences.append(paired)
    unit = best.row.get("unit", SHARE)
    words = [in_words(each, unit) for each in corrected(differences)]
    lines = list(zip(names, words, strict=True))
    return Compared(best.name, lines) if lines else None


def _published(rows: Sequence[Row], scale: Axis) -> Published | None:
    """Values of the same task and protocol on the very data set of the table."""
    first = rows[0]
    dataset = common([row.get("dataset", "") for row in rows])
    protocol = common([row.get("protocol", "") for row in rows])
    if not dataset or protocol is None:
        return None
    references = beside(first["task"], protocol, dataset, first["metric"])
    if not references:
        return None
    references.sort(key=lambda reference: reference.value, reverse=True)
    sources = list(dict.fromkeys(map(_source, references)))
    marks = []
    for reference in references:
        network = f" ({reference.network})" if reference.network else ""
        value = shown({**first, "value": reference.value, "unit": "share"})
        number_of_source = sources.index(_source(reference)) + 1
        model = f"{reference.model}{network}"
        marks.append(PublishedMark(model, value, scale(reference.value), number_of_source))
    return Published(marks, sources)


def _source(reference: Reference) -> str:
    return f"{reference.source}: {reference.about}"


def _scale(rows: Sequence[Row], chance: float | None) -> tuple[Axis, list[float]]:
    """Values onto percent of a bar's width, and the ticks: of shares 0 to 100 %, else round numbers
    from zero.
    """
    if all(row.get("unit", "share") == "share" for row in rows):
        ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    else:
        values = [row[key] for row in rows for key in ("low", "value", "high")]
        values += [0.0] if chance is None else [0.0, chance]
        low = min(values)
        high = max(values)
        ticks = nice_ticks(low, high if high - low > 1e-9 else low + 1.0, 5)
    return Axis(ticks[0], ticks[-1], 0.0, 100.0), ticks


def _chance(row: Row, chance: float | None, scale: Axis) -> tuple[float, str] | None:
    if chance is None or not scale.low <= chance <= scale.high:
        return None
    return scale(chance), shown({**row, "value": chance})


def _tick(row: Row, tick: float) -> str:
    return f"{100 * tick:g} %" if row.get("unit", "share") == "share" else number(tick)


def _name(row: Row, run: RunFiles, several: bool) -> str:
    """A model as a table names it."""
    name = CHECKPOINT.sub(lambda match: f", step {int(match[1]):,}", row["model"])
    if several and kind(row) != "pixels" and run.name not in name:
        name = f"{run.name}: {name}"
    return cut(name, LONGEST)
