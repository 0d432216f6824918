"""Charts as small, crisp SVG that takes its colours from the page's style sheet, light or dark."""

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

# Of the view box.
WIDTH = 480
HEIGHT = 236
# Margins, in its units.
LEFT = 54
RIGHT = 14
TOP = 14
BOTTOM = 34
POINTS = 360  # more than a curve on a screen can show
COLOURS = 6  # classes s0 … s5 of the style sheet
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
    """Values from `low` to `high` onto `begin` … `end` of the view box."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)


def line_chart(
    series: Sequence[Series], label: str, smooth: bool = False, from_zero: bool = False,
    reference: tuple[float, str] | None = None, x_label: str = "step",
) -> str:  # fmt: skip
    """Curves over steps, as an `<svg>` element.

    Args:
        label: what is shown, for screen readers.
        smooth: draw running means, and a single curve's raw values faintly behind.
        from_zero: begin the vertical axis at 0.
        reference: a value to mark by a dashed line, and its name.
    """
    curves = [(i % COLOURS, s) for i, s in enumerate(map(Series.finite, series)) if s.x]
    if not curves:
        return ""
    values = [y for _, s in curves for y in s.y if y is not None]
    low, high = _bounds(
        [*values, *([reference[0]] if reference else []), *([0.0] if from_zero else [])]
    )
    last = max(max(s.x) for _, s in curves)
    ticks = nice_ticks(low, high, 5)
    x = Axis(0.0, last or 1.0, LEFT, WIDTH - RIGHT)
    y = Axis(min(low, ticks[0]), max(high, ticks[-1]), HEIGHT - BOTTOM, TOP)
    parts = [_grid(x, y, ticks, x_label)]
    drawn = []
    for colour, s in curves:
        if smooth and len(curves) == 1:
            parts.append(_path(thin(s), x, y, f"raw s{colour}"))
        s = running_mean(s, POINTS) if smooth else thin(s)
        drawn.append(
            {
                "name": s.name,
                "colour": colour,
                "points": [[_short(a), _short(b)] for a, b in zip(s.x, s.y, strict=True)],
            }
        )
        parts += [_path(s, x, y, f"curve s{colour}"), _dot(x(s.x[-1]), y(s.y[-1] or 0.0), colour)]
    if reference:
        parts.append(_reference(y(reference[0]), reference[1]))
    scales = {
        "x": [x.low, x.high, x.begin, x.end],
        "y": [y.low, y.high, y.begin, y.end],
        "series": drawn,
    }
    data = html.escape(json.dumps(scales, separators=(",", ":")), quote=True)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}" '
        f'data-chart="{data}">{"".join(parts)}</svg>'
    )


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
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if size >= 1e-4 else f"{value:.1e}"


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value, apart even when they agree."""
    low = min(values)
    high = max(values)
    apart = high - low > max(1e-9 * max(abs(low), abs(high)), 1 / LARGEST)
    room = 0.0 if apart else max(abs(high) * 0.05, 1e-3)
    return low - room, high + room


def _grid(x: Axis, y: Axis, ticks: Sequence[float], x_label: str) -> str:
    lines = []
    for tick in ticks:
        level = f"{y(tick):.1f}"
        lines.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level}" y2="{level}"/>'
            f'<text class="tick" x="{LEFT - 8}" y="{level}" dy=".32em" text-anchor="end">'
            f"{number(tick)}</text>"
        )
    last = x.high * (1 + 1e-9)
    steps = [step for step in nice_ticks(x.low, x.high, 5) if step <= last]
    label_begins = WIDTH - RIGHT - 40
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


def _reference(at: float, name: str) -> str:
    text_at = at + (15 if at < TOP + 16 else -6)
    return (
        f'<line class="reference" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<text class="note" x="{WIDTH - RIGHT}" y="{text_at:.1f}" text-anchor="end">{html.escape(name)}</text>'
    )


def _path(series: Series, x: Axis, y: Axis, kind: str) -> str:
    points = " ".join(
        f"{x(a):.1f},{y(b or 0.0):.1f}" for a, b in zip(series.x, series.y, strict=True)
    )
    return f'<polyline class="{kind}" points="{points}"/>'


def _dot(x: float, y: float, colour: int) -> str:
    return f'<circle class="dot s{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>'


def _short(value: float | None) -> float:
    return float(f"{value:.5g}") if value is not None else 0.0
