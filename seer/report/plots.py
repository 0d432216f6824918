"""Charts as small, crisp SVG that takes its colours from the page's style sheet, light or dark."""

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from seer.errors import printable

# Of the view box.
WIDTH = 480
HEIGHT = 236
# Margins, in its units.
LEFT = 58
RIGHT = 14
TOP = 14
BOTTOM = 34
POINTS = 360  # more than a curve on a screen can show
LETTER = 6.5  # width of one, about
COLOURS = 10  # classes s0 … s9 of the style sheet
LOWEST_SHARE = 1e-3  # of its peak, down to which a curve is shown on a logarithmic axis
FARTHEST = 3  # a mark this many times as far up as the curves would press them flat
LARGEST = 1e300  # differences and means of larger values would be infinite


@dataclass
class Series:
    """One curve: where it was measured, and what. `None`, infinite and absurd values leave a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]

    def finite(self) -> "Series":
        pairs = [
            (x, y)
            for x, y in zip(self.x, self.y, strict=True)
            if y is not None and -LARGEST <= y <= LARGEST
        ]
        return Series(self.name, [x for x, _ in pairs], [y for _, y in pairs if y is not None])


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` onto `begin` … `end` of the view box, perhaps by their
    logarithms; lower ones then stand at `low`.
    """

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low = self._scaled(self.low)
        high = self._scaled(self.high)
        share = (self._scaled(value) - low) / (high - low)
        return self.begin + share * (self.end - self.begin)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, self.low)) if self.log else value


@dataclass(frozen=True)
class Mark:
    """A value that is drawn across a chart: what a batch allows at most, or a threshold.

    Attributes:
        name: what stands at the line.
        ill: `above` or `below`: the side on which a run is not well; "" for what is no threshold.
        since: the step from which the threshold counts.
        always: draw it even if it is far above the curves.
    """

    value: float
    name: str
    ill: str = ""
    since: float = 0.0
    always: bool = True


def line_chart(
    series: Sequence[Series], label: str, smooth: bool = False, from_zero: bool = False,
    log: bool = False, marks: Sequence[Mark] = (), until: float = 0.0, x_label: str = "step",
) -> str:  # fmt: skip
    """Curves over steps, as an `<svg>` element; "" where there is nothing to draw.

    Args:
        label: what is shown, for screen readers.
        smooth: draw running means, and a single curve's raw values faintly behind.
        from_zero: begin the vertical axis at 0.
        log: a logarithmic vertical axis, if any value is above 0.
        until: the step that the horizontal axis reaches at least.
    """
    curves = [(i, s) for i, s in enumerate(map(Series.finite, series)) if s.x]
    if not curves:
        return ""
    highest = [max(y for y in s.y if y is not None) for _, s in curves]
    log = log and max(highest) > 0
    marks = [mark for mark in marks if mark.always or mark.value <= FARTHEST * max(highest)]
    last = max(until, *(max(s.x) for _, s in curves))
    x = Axis(0.0, last or 1.0, LEFT, WIDTH - RIGHT)
    if log:
        ticks = log_ticks(min(LOWEST_SHARE * y for y in highest if y > 0), max(highest))
        y = Axis(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP, log)
    else:
        values = [y for _, s in curves for y in s.y if y is not None]
        values += [mark.value for mark in marks] + [0.0] * from_zero
        low, high = _bounds(values)
        ticks = nice_ticks(low, high, 5)
        y = Axis(min(low, ticks[0]), max(high, ticks[-1]), HEIGHT - BOTTOM, TOP)
    parts = [_grid(x, y, ticks, x_label), *(_beyond(mark, x, y) for mark in marks)]
    drawn = []
    for place, s in curves:
        style = style_of(place)
        if smooth and len(curves) == 1:
            parts.append(_path(thin(s), x, y, f"raw {style}"))
        s = running_mean(s, POINTS) if smooth else thin(s)
        points = [[_short(a), _short(b)] for a, b in zip(s.x, s.y, strict=True)]
        drawn.append({"name": printable(s.name), "points": points})
        parts += [_path(s, x, y, f"curve {style}"), _dot(x(s.x[-1]), y(s.y[-1] or 0.0), style)]
    thinned = [thin(s) for _, s in curves]
    parts += [_line(mark, y, _is_clearer_at_left(mark, thinned, x, y)) for mark in marks]
    scales = {
        "x": [x.low, x.high, x.begin, x.end],
        "y": [y.low, y.high, y.begin, y.end],
        "series": drawn,
    }
    data = html.escape(json.dumps(scales, separators=(",", ":")), quote=True)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(printable(label))}" '
        f'data-chart="{data}">{"".join(parts)}</svg>'
    )


def style_of(place: int) -> str:
    """The classes of the run at this place: a colour, and dashes where colours begin anew."""
    return f"s{place % COLOURS}" + (" dashed" if place // COLOURS % 2 else "")


def running_mean(series: Series, most: int | None = None) -> Series:
    """Means over a centred window of about a fortieth of the curve; at its ends the window shrinks
    evenly.

    Each is summed by itself: in differences of running sums, everything after one huge value would
    vanish.

    Args:
        most: how many means, evenly spread over a longer curve; None is one for every point.
    """
    y = [value or 0.0 for value in series.y]
    length = len(y)
    last = length - 1
    count = min(length, most or length)
    intervals = max(1, count - 1)
    points = [round(i * last / intervals) for i in range(count)]
    means: list[float | None] = []
    for point in points:
        reach = min(length // 80, point, last - point)
        window = y[point - reach : point + reach + 1]
        means.append(math.fsum(window) / len(window))
    x = [series.x[point] for point in points]
    return Series(series.name, x, means)


def thin(series: Series) -> Series:
    """At most about `POINTS` points: of every bucket the lowest and the highest, in their order,
    and both ends.
    """
    n = len(series.x)
    if n <= POINTS:
        return series
    keep = {0, n - 1}
    size = 2 * n / POINTS
    for b in range(POINTS // 2):
        bucket = range(int(b * size), min(n, int((b + 1) * size)))
        keep |= {
            min(bucket, key=lambda i: series.y[i] or 0.0),
            max(bucket, key=lambda i: series.y[i] or 0.0),
        }
    chosen = sorted(keep)
    return Series(series.name, [series.x[i] for i in chosen], [series.y[i] for i in chosen])


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers that cover low … high."""
    raw = (high - low) / max(1, count - 1)
    least = raw * 0.999
    power = 10.0 ** math.floor(math.log10(raw))  # `_bounds` are far enough apart for that
    steps = [multiple * power for multiple in (1, 2, 2.5, 5, 10)]
    step = next(step for step in steps if step >= least)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    ticks = range(first, last + 1)
    return [tick * step for tick in ticks]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers whose logarithms cover low … high, both above 0: powers of ten, or of a narrow
    range 1, 2 and 5 times these.
    """
    first = math.floor(math.log10(max(low, 1e-300)))
    last = max(math.ceil(math.log10(max(high, 1e-300)) - 1e-9), first + 1)
    if last - first <= 2:
        ticks = [m * 10.0**power for power in range(first, last) for m in (1, 2, 5)]
        return [*ticks, 10.0**last]
    every = -(-(last - first) // 6)
    return [10.0**power for power in range(first, last + every, every)]


def number(value: float) -> str:
    """A number short enough for a tick or a headline: 12,345 · 1.2M · 0.0048 · 3e-06."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e15:
        return f"{value:.3g}"
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e5, "K")):
        if size >= limit:
            scaled = value / (1e3 if suffix == "K" else limit)
            return f"{scaled:.3g}{suffix}" if abs(scaled) < 1000 else f"{scaled:.0f}{suffix}"
    if size >= 999.5:
        return f"{value:,.0f}"
    return f"{value:.3g}" if size >= 1e-4 else f"{value:.1e}"


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value, apart even when they agree."""
    low = min(values)
    high = max(values)
    apart = high - low > max(1e-9 * max(abs(low), abs(high)), 1 / LARGEST)
    if high == low == 0:
        return 0.0, 1.0
    room = 0.0 if apart else max(abs(high) * 0.05, 1e-3)
    return low - room, high + room


def _grid(x: Axis, y: Axis, ticks: Sequence[float], x_label: str) -> str:
    lines = []
    for tick in ticks:
        level = f"{y(tick):.1f}"
        lines.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level}" y2="{level}"/>'
            f'<text class="tick" x="{LEFT - 8}" y="{level}" dy=".32em" text-anchor="end">'
            f"{_tick(tick)}</text>"
        )
    last = x.high * (1 + 1e-9)
    steps = [step for step in nice_ticks(x.low, x.high, 5) if step <= last]
    label_begins = WIDTH - RIGHT - 64  # with the larger letters of narrow pages
    for step in steps:
        near_end = x(step) > label_begins
        anchor = "end" if near_end else "middle"
        place = f'x="{min(x(step), WIDTH - RIGHT):.1f}" y="{HEIGHT - 12}"'
        name = f"{x_label} " if step == steps[-1] and near_end else ""
        text = f"{name}{number(step)}"
        lines.append(f'<text class="tick" {place} text-anchor="{anchor}">{text}</text>')
    if not steps or x(steps[-1]) <= label_begins:
        place = f'x="{WIDTH - RIGHT}" y="{HEIGHT - 12}"'
        lines.append(f'<text class="tick" {place} text-anchor="end">{x_label}</text>')
    return "".join(lines)


def _tick(value: float) -> str:
    """A number for the narrow margin: 0.0015, but 5e-4."""
    text = number(value)
    if len(text) < len("-0.001"):
        return text
    mantissa, _, power = f"{value:.3e}".partition("e")
    short = f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    return short if len(short) < len(text) else text


def _line(mark: Mark, y: Axis, at_left: bool) -> str:
    level = y(mark.value)
    text_at = level + (15 if level < TOP + 16 else -6)
    kind = "reference threshold" if mark.ill else "reference"
    x, anchor = (LEFT + 4, "start") if at_left else (WIDTH - RIGHT, "end")
    return (
        f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>'
        f'<text class="note" x="{x}" y="{text_at:.1f}" text-anchor="{anchor}">{html.escape(mark.name)}</text>'
    )


def _is_clearer_at_left(mark: Mark, curves: Sequence[Series], x: Axis, y: Axis) -> bool:
    """Whether fewer points lie under a mark's name at its left end than at its right one."""
    level = y(mark.value)
    top, bottom = (level, level + 18) if level < TOP + 16 else (level - 18, level)
    length = LETTER * len(mark.name)
    points = [(x(a), y(b or 0.0)) for s in curves for a, b in zip(s.x, s.y, strict=True)]
    level_with = [a for a, b in points if top <= b <= bottom]
    left = sum(a <= LEFT + length for a in level_with)
    right = sum(a >= WIDTH - RIGHT - length for a in level_with)
    return left < right


def _beyond(mark: Mark, x: Axis, y: Axis) -> str:
    """The part of a chart in which a run is not well; nothing where no step is judged yet."""
    if not mark.ill or mark.since >= x.high:
        return ""
    level = y(mark.value)
    top, bottom = (TOP, level) if mark.ill == "above" else (level, HEIGHT - BOTTOM)
    left = x(max(mark.since, x.low))
    return (
        f'<rect class="beyond" x="{left:.1f}" y="{top:.1f}" width="{WIDTH - RIGHT - left:.1f}" '
        f'height="{max(0.0, bottom - top):.1f}"/>'
    )


def _path(series: Series, x: Axis, y: Axis, kind: str) -> str:
    points = " ".join(
        f"{x(a):.1f},{y(b or 0.0):.1f}" for a, b in zip(series.x, series.y, strict=True)
    )
    return f'<polyline class="{kind}" points="{points}"/>'


def _dot(x: float, y: float, style: str) -> str:
    return f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>'


def _short(value: float | None) -> float:
    return float(f"{value:.5g}") if value is not None else 0.0
