"""A histogram over a logarithmic axis as a small SVG, which takes its colours from the page."""

import html
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

# Of the view box.
WIDTH = 480
HEIGHT = 210
# Margins, in its units.
LEFT = 46
RIGHT = 10
TOP = 12
BOTTOM = 30
MOST_TICKS = 6
NEAR_END = 0.94  # of the axis: what is written from there on ends at its tick, within the box


def histogram_svg(
    edges: Sequence[float], counts: Sequence[int], label: str, shown: Callable[[float], str]
) -> str:
    """Bars of equal width, with ticks at round numbers.

    Args:
        edges: in equal steps of the logarithm, one more than counts.
        label: what is shown, for screen readers.
        shown: a value as the axis has it.
    """
    levels = count_ticks(max(counts))
    top = levels[-1]
    floor = HEIGHT - BOTTOM
    parts = []
    for level in levels:
        y = floor - level / top * (floor - TOP)
        parts.append(
            f'<line class="line" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 8}" y="{y:.1f}" dy=".32em" text-anchor="end">{level:,}</text>'
        )
    width = (WIDTH - RIGHT - LEFT) / len(counts)
    for i, ((low, high), count) in enumerate(zip(pairwise(edges), counts, strict=True)):
        height = count / top * (floor - TOP)
        parts.append(
            f'<rect x="{LEFT + i * width + 1:.1f}" y="{floor - height:.1f}" width="{width - 2:.1f}" '
            f'height="{height:.1f}"><title>{shown(low)} to {shown(high)}: {count:,}</title></rect>'
        )
    for tick, place in value_ticks(edges[0], edges[-1]):
        x = LEFT + place * (WIDTH - RIGHT - LEFT)
        anchor = "end" if place > NEAR_END else "middle"
        parts.append(
            f'<line class="notch" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 4}"/>'
            f'<text x="{x:.1f}" y="{HEIGHT - 10}" text-anchor="{anchor}">{html.escape(shown(tick))}</text>'
        )
    return (
        f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(label)}">{"".join(parts)}</svg>'
    )


def count_ticks(most: int) -> list[int]:
    """Whole numbers from 0 that cover `most`, in steps of 1, 2 or 5 times a power of ten."""
    most = max(most, 1)
    raw = max(1.0, most / 4)
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    return list(range(0, most + step, step))


def value_ticks(low: float, high: float) -> list[tuple[float, float]]:
    """`(value, place from 0 to 1)` of round numbers within low … high, both above 0, by their
    logarithms; of a range without two of them, its ends.
    """
    span = math.log10(high / low)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**power for power in powers for m in multiples]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= MOST_TICKS:
            break
    else:
        ticks = ticks[:: -(-len(ticks) // MOST_TICKS)]
    if len(ticks) < 2:
        ticks = [low, high]
    return [(tick, math.log10(tick / low) / span) for tick in ticks]
