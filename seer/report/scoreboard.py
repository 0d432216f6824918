"""Scores as bars over a scale, with the line of chance."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from seer.jsonl import Row
from seer.report.changes import cut
from seer.report.plots import Axis, nice_ticks, number, style_of
from seer.report.runfiles import RunFiles, common, tails
from seer.report.verdict import CHECKPOINT, is_headline
from seer.results import kind, shown, title_of

MOST_SCORES = 1_000
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


@dataclass
class Board:
    """Scores of one measure on the same data, best first.

    Attributes:
        ticks: `(place in percent, label)` on the scale that all bars share.
        chance: likewise, where the results say it.
        missing: runs that were not measured so.
        headline: whether the measure stands for its task.
    """

    title: str
    data: str
    headline: bool
    ticks: list[tuple[float, str]]
    chance: tuple[float, str] | None
    bars: list[Bar]
    missing: list[str] = field(default_factory=list)


def boards(runs: Sequence[RunFiles]) -> list[Board]:
    """Results by what was measured, measures that stand for their task first."""
    groups: dict[tuple[str, str, str], list[tuple[int, str, Row]]] = {}
    pixels = set()  # the same for every run that measured them
    for place, run in enumerate(runs):
        for row in run.results[-MOST_SCORES:]:
            if kind(row) == "pixels":
                same = (row["task"], row["metric"], row["data"], row["model"], row["value"])
                if same in pixels:
                    continue
                pixels.add(same)
            measure = (row["task"], row["metric"], row["data"])
            item = (place, _name(row, run, len(runs) > 1), row)
            groups.setdefault(measure, []).append(item)
    places = tails(data for _, _, data in groups)
    measured = [_board(items, places, runs) for items in groups.values()]
    return sorted(measured, key=lambda board: not board.headline)


def _board(
    items: list[tuple[int, str, Row]], places: dict[str, str], runs: Sequence[RunFiles]
) -> Board:
    rows = [row for _, _, row in items]
    first = rows[0]
    higher_is_better = first.get("better", "higher") == "higher"
    items.sort(key=lambda item: item[2]["value"], reverse=higher_is_better)
    chances = [row["chance"] for row in rows if row.get("chance") is not None]
    chance = common(chances)  # not where test images were others
    scale, ticks = _scale(rows, chance)
    zero = scale(min(max(0.0, scale.low), scale.high))
    bars = []
    for place, name, row in items:
        style = style_of(place) if kind(row) == "pretrained" else BASELINE
        low, high = (shown(row, end, with_unit=False) for end in ("low", "high"))
        value, bottom, top = (
            min(100.0, max(0.0, scale(row[key]))) for key in ("value", "low", "high")
        )
        begin, end = sorted((zero, value))
        bars.append(Bar(name, style, shown(row), f"{low} – {high}", begin, end, bottom, top))
    measured = {place for place, _, row in items if kind(row) == "pretrained"}
    missing = [cut(run.name, LONGEST) for i, run in enumerate(runs) if i not in measured]
    return Board(
        cut(title_of(first), LONGEST),
        cut(places[first["data"]], LONGEST),
        any(map(is_headline, rows)),
        [(scale(tick), _tick(first, tick)) for tick in ticks],
        _chance(first, chance, scale),
        bars,
        missing if len(runs) > 1 else [],
    )


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
