"""Models as points: two quantities with error bars, and mean ranks with those joined that are not told
apart.
"""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from seer.errors import printable
from seer.report.plots import Axis, log_ticks, nice_ticks, number, style_of
from seer.report.point_names import LETTER, TALL, Box, apart, labels_of

WIDTH = 480  # of the view boxes
HEIGHT = 300
LEFT = 52
RIGHT = 16
TOP = 30
BOTTOM = 44
SIDE = 168.0  # of a diagram of ranks, for names
ROW = 18  # of a name beside a scale of ranks
MOST_NAMED = 28  # letters
NAME_GAP = 9.0  # before a name at a line's end


@dataclass(frozen=True)
class Point:
    """A model; each value with the ends of its interval.

    Attributes:
        place: among all models of a page, which gives its colour.
    """

    name: str
    place: int
    x: tuple[float, float, float]
    y: tuple[float, float, float]


def scatter(points: Sequence[Point], label: str, x_title: str, y_title: str) -> str:
    """Shares, in per cent, as an `<svg>` element; "" without points."""
    if not points:
        return ""
    x, x_ticks = _axis([value for point in points for value in point.x], LEFT, WIDTH - RIGHT)
    y, y_ticks = _axis([value for point in points for value in point.y], HEIGHT - BOTTOM, TOP)
    parts = _grid(x, x_ticks, y, y_ticks, _percent)
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 8, f"{x_title} →", "end"))
    parts.append(_text(0, 12, f"↑ {y_title}", "start"))
    crosses, height = _crosses(points, x, y)
    return _svg(label, height, parts + crosses)


def rank_diagram(
    names: Sequence[tuple[str, int]],
    ranks: Sequence[float],
    groups: Sequence[Sequence[int]],
    critical: float,
    label: str,
) -> str:
    """Mean ranks, 1 at the left, as an `<svg>` element: models that are not told apart are joined by a
    bar, as in Demšar's critical-difference plot.

    Args:
        names: of the models and their places among all of the page, the best first, as the ranks are.
        groups: numbers of models that are not told apart.
    """
    count = len(names)
    scale = Axis(1.0, float(count), SIDE, WIDTH - SIDE)
    base = 52.0 + 10 * len(groups)
    half = (count + 1) // 2
    height = base + ROW * (max(half, count - half) + 1)
    parts = [f'<line class="reference" x1="{SIDE}" x2="{WIDTH - SIDE}" y1="36" y2="36"/>']
    for tick in range(1, count + 1):
        parts.append(_rule(scale(tick), scale(tick), 32, 40))
        parts.append(_text(scale(tick), 26, str(tick), "middle"))
    reach = min(scale(1 + critical) - scale(1), WIDTH - 2 * SIDE)
    parts.append(f'<line class="span" x1="{SIDE}" x2="{SIDE + reach:.1f}" y1="8" y2="8"/>')
    parts.append(
        _text(SIDE + reach + 6, 8, f"critical difference {critical:.2f}", "start", 'dy=".32em"')
    )
    for row, group in enumerate(groups):
        level = 48.0 + 10 * row
        begin = scale(min(ranks[i] for i in group)) - 4
        end = scale(max(ranks[i] for i in group)) + 4
        parts.append(
            f'<line class="span" x1="{begin:.1f}" x2="{end:.1f}" y1="{level}" y2="{level}"/>'
        )
    for i, ((name, place), rank) in enumerate(zip(names, ranks, strict=True)):
        at_left = i < half
        level = base + ROW * (i + 1 if at_left else count - i)
        end = SIDE - 6 if at_left else WIDTH - SIDE + 6
        style = style_of(place)
        path = f"{scale(rank):.1f},36 {scale(rank):.1f},{level:.1f} {end},{level:.1f}"
        parts.append(f'<polyline class="{style}" points="{path}"/>')
        anchor = "end" if at_left else "start"
        text = f"{short(name, 15)} {rank:.2f}"
        parts.append(_text(end + (-5 if at_left else 5), level, text, anchor, 'dy=".32em"', "note"))
    return _svg(label, height, parts)


def scores_over(
    points: Sequence[Point], hollow: Sequence[Point], label: str, x_title: str, y_title: str
) -> str:
    """Shares, in per cent, over amounts on a logarithmic scale (even where one is 0), or, without
    `x_title`, over names side by side, as an `<svg>` element; "" without points.

    Args:
        points: with the same amount thrice as x; side by side it is the number of the place, from 0.
        hollow: published ones, which have no intervals.
    """
    drawn = [*points, *hollow]
    if not drawn:
        return ""
    y, y_ticks = _axis([value for point in drawn for value in point.y], HEIGHT - BOTTOM, TOP)
    x, x_ticks = _amounts([point.x[0] for point in drawn], x_title)
    parts = _grid(x, x_ticks, y, y_ticks, number)
    if x_title:
        parts.append(_text(WIDTH - RIGHT, HEIGHT - 8, f"{x_title} →", "end"))
    parts.append(_text(0, 12, f"↑ {y_title}", "start"))
    for point in hollow:
        place = f'cx="{x(point.x[0]):.1f}" cy="{y(point.y[0]):.1f}" r="4.5"'
        title = f"<title>{_escaped(point.name)}</title>"
        parts.append(f'<g>{title}<circle class="reference" fill="none" {place}/></g>')
    crosses, height = _crosses(points, x, y, hollow)
    return _svg(label, height, parts + crosses)


@dataclass(frozen=True)
class Line:
    """Points of one kind, drawn as a line; without points its `level` is drawn across.

    Attributes:
        place: among all lines of a page, which gives its colour.
        points: an amount, and a score with the ends of its interval, in the order of amounts.
    """

    name: str
    place: int
    points: Sequence[tuple[float, tuple[float, float, float]]]
    level: float | None = None


def scores_along(lines: Sequence[Line], label: str, x_title: str, y_title: str) -> str:
    """Shares, in per cent, over amounts on a logarithmic scale, with the names at their ends, as an
    `<svg>` element; "" without any score.
    """
    drawn = [line for line in lines if line.points or line.level is not None]
    scores = [value for line in drawn for _, score in line.points for value in score]
    levels = [line.level for line in drawn if line.level is not None]
    if not drawn:
        return ""
    names = _names_of(drawn)
    end = WIDTH - LETTER * max(len(name) for name, _ in names) - 2 * NAME_GAP
    y, y_ticks = _axis(scores + levels, HEIGHT - BOTTOM, TOP)
    amounts = [amount for line in drawn for amount, _ in line.points] or [1.0]
    x, x_ticks = _amounts(amounts, x_title, end)
    parts = _grid(x, x_ticks, y, y_ticks, number)
    parts.append(_text(end, HEIGHT - 8, f"{x_title} →", "end"))
    parts.append(_text(0, 12, f"↑ {y_title}", "start"))
    parts += [_along(line, x, y) for line in drawn]
    ends = [y(_last(line)) for _, line in names]
    places = apart(ends, TALL, TOP, HEIGHT - BOTTOM)
    for (name, line), place in zip(names, places, strict=True):
        parts.append(_text(end + NAME_GAP, place + 4, name, "start", kind=_named(line)))
    return _svg(label, max(HEIGHT, max(places) + TALL), parts)


def _names_of(lines: Sequence[Line]) -> list[tuple[str, Line]]:
    """The name at each line's end; lines that lie on each other share one, of the uppermost."""
    groups: dict[object, list[Line]] = {}
    for line in lines:
        groups.setdefault((tuple(line.points), line.level), []).append(line)
    return [(short(", ".join(line.name for line in group)), group[-1]) for group in groups.values()]


def _last(line: Line) -> float:
    """The score at a line's end."""
    if line.level is not None:
        return line.level
    _, (value, _, _) = line.points[-1]
    return value


def _named(line: Line) -> str:
    return f"note named {style_of(line.place)}"


def _along(line: Line, x: Axis, y: Axis) -> str:
    """A line with its points' intervals."""
    style = style_of(line.place)
    title = f"<title>{_escaped(line.name)}</title>"
    if line.level is not None:
        across = _rule(x.begin, x.end, y(line.level), y(line.level), f"error {style}")
        return f"<g>{title}{across}</g>"
    path = " ".join(f"{x(amount):.1f},{y(score[0]):.1f}" for amount, score in line.points)
    parts = [f'<polyline class="curve {style}" points="{path}"/>']
    for amount, (value, low, high) in line.points:
        parts.append(_rule(x(amount), x(amount), y(low), y(high), f"error {style}"))
        place = f'cx="{x(amount):.1f}" cy="{y(value):.1f}" r="4"'
        parts.append(f'<circle class="dot {style}" {place}/>')
    return f"<g>{title}{''.join(parts)}</g>"


def _grid(
    x: Axis,
    x_ticks: Sequence[float],
    y: Axis,
    y_ticks: Sequence[float],
    words: Callable[[float], str],
) -> list[str]:
    """Lines at the ticks, with shares at the left and `words` of x below."""
    parts = []
    for tick in y_ticks:
        parts.append(_rule(x.begin, x.end, y(tick), y(tick)))
        parts.append(_text(LEFT - 8, y(tick), _percent(tick), "end", 'dy=".32em"'))
    for tick in x_ticks:
        parts.append(_rule(x(tick), x(tick), TOP, HEIGHT - BOTTOM))
        parts.append(_text(x(tick), HEIGHT - BOTTOM + 17, words(tick), "middle"))
    return parts


def _amounts(
    values: Sequence[float], title: str, end: float = WIDTH - RIGHT
) -> tuple[Axis, list[float]]:
    """A scale of amounts that has all values, and its ticks; of places without any."""
    if not title:
        return Axis(-0.5, max(values) + 0.5, LEFT, end), []
    above = [value for value in values if value > 0] or [1.0]
    low = min(above) / 1.5
    high = max(above) * 2
    ticks = [tick for tick in log_ticks(low, high) if low <= tick <= high]
    return Axis(low, high, LEFT, end, log=True), ticks


def short(name: str, longest: int = MOST_NAMED) -> str:
    """Begin and end of a long name."""
    if len(name) <= longest:
        return name
    begin = longest // 2
    return f"{name[:begin]}…{name[begin + 1 - longest :]}"


def _crosses(
    points: Sequence[Point], x: Axis, y: Axis, others: Sequence[Point] = ()
) -> tuple[list[str], float]:
    """Points with their names, which cover none of them, and the height of the diagram with the names
    below that found no place beside theirs.
    """
    dots, nameless = ([(x(p.x[0]), y(p.y[0])) for p in group] for group in (points, others))
    room = Box(LEFT, 16, WIDTH, HEIGHT - BOTTOM + 4)
    bars = [bar for point in points for bar in _bars(point, x, y)]
    labels, legend = labels_of([short(p.name) for p in points], dots, room, nameless, bars)
    parts = [_cross(point, x, y) for point in points]  # names above all of them
    for point, at in zip(points, labels, strict=True):
        kind = f"note named {style_of(point.place)}"
        parts.append(_text(at.x, at.y, at.text, at.anchor, kind=kind))
    for row, line in enumerate(legend):
        parts.append(_text(LEFT, HEIGHT + 4 + ROW * row, line, "start", kind="note"))
    return parts, HEIGHT + ROW * len(legend)


def _bars(point: Point, x: Axis, y: Axis) -> list[Box]:
    """Where its error bars lie."""
    middle = x(point.x[0])
    level = y(point.y[0])
    return [
        Box(x(point.x[1]), level, x(point.x[2]), level),
        Box(middle, y(point.y[2]), middle, y(point.y[1])),
    ]


def _cross(point: Point, x: Axis, y: Axis) -> str:
    style = style_of(point.place)
    across = _rule(x(point.x[1]), x(point.x[2]), y(point.y[0]), y(point.y[0]), f"error {style}")
    along = _rule(x(point.x[0]), x(point.x[0]), y(point.y[1]), y(point.y[2]), f"error {style}")
    dot = f'<circle class="dot {style}" cx="{x(point.x[0]):.1f}" cy="{y(point.y[0]):.1f}" r="4"/>'
    title = f"<title>{_escaped(point.name)}</title>"
    return f"<g>{title}{across}{along}{dot}</g>"


def _axis(values: Sequence[float], begin: float, end: float) -> tuple[Axis, list[float]]:
    """A scale of shares that has all values, and its ticks."""
    low = min(values)
    high = max(values)
    room = max(0.04 * (high - low), 0.005)
    ticks = nice_ticks(max(0.0, low - room), min(1.0, high + room), 5)
    return Axis(ticks[0], ticks[-1], begin, end), ticks


def _percent(value: float) -> str:
    return f"{100 * value:.4g} %"


def _rule(x1: float, x2: float, y1: float, y2: float, kind: str = "grid") -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, more: str = "", kind: str = "tick") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}'
    return f'<text class="{kind}" {place}>{_escaped(text)}</text>'


def _svg(label: str, height: float, parts: Sequence[str]) -> str:
    box = f'viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{_escaped(label)}"'
    return f'<svg class="diagram" {box}>{"".join(parts)}</svg>'


def _escaped(text: str) -> str:
    return html.escape(printable(text), quote=True)
