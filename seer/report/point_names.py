"""Where names of points stand in a diagram, so that they cover neither other points nor each other,
nor lines if that can be; what finds no place is a number, and its name stands below.
"""

from collections.abc import Sequence
from dataclasses import dataclass

LETTER = 7.4  # width of one, with the larger letters of narrow pages
TALL = 14.0  # of a line of letters
DOT = 6.5  # radius of a point with its rim
# Around a point: how the text stands to its place, and that from the point. The first that is free.
PLACES = (
    ("start", 8.0, -7.0),
    ("end", -8.0, -7.0),
    ("start", 8.0, 16.0),
    ("end", -8.0, 16.0),
    ("start", 11.0, 4.0),
    ("end", -11.0, 4.0),
    ("middle", 0.0, -12.0),
    ("middle", 0.0, 22.0),
    ("start", 14.0, -20.0),
    ("end", -14.0, -20.0),
    ("start", 14.0, 30.0),
    ("end", -14.0, 30.0),
)

Spot = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """From left to right and from top to bottom, as SVG counts."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def within(self, other: "Box") -> bool:
        across = self.left >= other.left and self.right <= other.right
        return across and self.top >= other.top and self.bottom <= other.bottom


@dataclass(frozen=True)
class Label:
    """A text with its `text-anchor` and the baseline's place."""

    text: str
    anchor: str
    x: float
    y: float

    @property
    def box(self) -> Box:
        length = LETTER * len(self.text)
        left = self.x - length * {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor]
        return Box(left, self.y - 0.8 * TALL, left + length, self.y + 0.2 * TALL)


def labels_of(
    names: Sequence[str],
    dots: Sequence[Spot],
    room: Box,
    others: Sequence[Spot] = (),
    bars: Sequence[Box] = (),
) -> tuple[list[Label], list[str]]:
    """A label for each point, and what numbers among them stand for, `1 name`.

    Args:
        names: short ones. dots: of the points, of which `others` have no name.
        bars: lines, which names cross only where there is no other place.
    """
    obstacles = [_around(dot) for dot in (*dots, *others)]
    placed: list[Label] = []
    legend: list[str] = []
    for i, (name, dot) in enumerate(zip(names, dots, strict=True)):
        taken = [*obstacles[:i], *obstacles[i + 1 :], *(label.box for label in placed)]
        label = _free(name, dot, room, taken, bars)
        if label is None:
            number = str(len(legend) + 1)
            legend.append(f"{number} {name}")
            label = _free(number, dot, room, taken, bars) or _freest(number, dot, taken)
        placed.append(label)
    return placed, legend


def _around(dot: Spot) -> Box:
    x, y = dot
    return Box(x - DOT, y - DOT, x + DOT, y + DOT)


def _candidates(text: str, dot: Spot) -> list[Label]:
    return [Label(text, anchor, dot[0] + right, dot[1] + down) for anchor, right, down in PLACES]


def _free(
    text: str, dot: Spot, room: Box, taken: Sequence[Box], bars: Sequence[Box]
) -> Label | None:
    free = [
        label
        for label in _candidates(text, dot)
        if label.box.within(room) and not any(map(label.box.meets, taken))
    ]
    return min(free, key=lambda label: _met(label, bars), default=None)


def _freest(text: str, dot: Spot, taken: Sequence[Box]) -> Label:
    """Of a number among points that lie on each other."""
    return min(_candidates(text, dot), key=lambda label: _met(label, taken))


def _met(label: Label, boxes: Sequence[Box]) -> int:
    return sum(map(label.box.meets, boxes))


def apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The places, in their order, moved as little as possible (by the sum of squares) so that none is nearer
    to another than `gap`: isotonic regression, by pooling neighbours that stand in the wrong order. All are
    from `low` to `high`, or beyond `high` where there is too little room.
    """
    most = max(low, high - gap * (len(places) - 1))
    order = sorted(range(len(places)), key=places.__getitem__)
    pools: list[tuple[float, int]] = []  # a mean, and of how many
    for rank, i in enumerate(order):
        pools.append((places[i] - gap * rank, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (above, before), (below, behind) = pools[-2:]
            count = before + behind
            pools[-2:] = [((before * above + behind * below) / count, count)]
    means = [mean for mean, count in pools for _ in range(count)]
    moved = [0.0] * len(places)
    for rank, (i, mean) in enumerate(zip(order, means, strict=True)):
        moved[i] = min(max(mean, low), most) + gap * rank
    return moved
