"""The scores of a run's checkpoints as curves over its steps, with what they are compared with.

Imports no torch: the report and `seer watch` draw them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from seer.eval.paired import Difference, p_of
from seer.jsonl import Row
from seer.results import kind, shown, title_of
from seer.rundir.thresholds import JUDGED_FROM

BASELINES = {"init": "its beginning", "untrained": "untrained", "pixels": "raw pixels"}


@dataclass
class Curve:
    """One measure that stands for its task, on one data set.

    Attributes:
        rows: by rising step, the last measured of each; not empty.
        baselines: what else was measured so, by its `seer.results.kind`.
    """

    title: str
    data: str
    rows: list[Row]
    baselines: dict[str, Row] = field(default_factory=dict)

    @property
    def newest(self) -> Row:
        return self.rows[-1]

    def baselines_in_words(self) -> str:
        """`untrained 31.3 %, raw pixels 45.7 %`."""
        known = [which for which in BASELINES if which in self.baselines]
        return ", ".join(f"{BASELINES[which]} {shown(self.baselines[which])}" for which in known)

    def in_words(self) -> str:
        """The newest score beside its baselines, in a few words."""
        beside = self.baselines_in_words()
        at = f"{self.title} {shown(self.newest)} at step {self.newest['step']:,}"
        return f"{at} ({beside})" if beside else at


def curves(rows: Sequence[Row]) -> list[Curve]:
    """The curves that rows of scores.jsonl make; where protocol or data have changed meanwhile, the
    one that was gone on with last.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.get("headline"):
            key = (row["metric"], row.get("comparable", ""), row["data"])
            groups.setdefault(key, []).append(row)
    newest: dict[tuple[str, str], list[Row]] = {}
    for group in groups.values():
        measure = (title_of(group[0]), group[0]["data"])
        steps = max(row["step"] for row in group)
        if measure not in newest or steps >= max(row["step"] for row in newest[measure]):
            newest[measure] = group
    every = [_curve(*measure, group) for measure, group in newest.items()]
    return [curve for curve in every if curve.rows]


def _curve(title: str, data: str, group: Sequence[Row]) -> Curve:
    by_step = {row["step"]: row for row in group if row["step"]}
    baselines = {kind(row): row for row in group if not row["step"]}
    return Curve(title, data, [by_step[step] for step in sorted(by_step)], baselines)


def newest_rows(rows: Sequence[Row]) -> list[Row]:
    """Of the rows of scores.jsonl, those of the newest step, and of what it is compared with."""
    last = max((row["step"] for row in rows), default=0)
    protocols = {row.get("comparable") for row in rows if row["step"] == last}
    return [row for row in rows if row["step"] in (0, last) and row.get("comparable") in protocols]


def below_pixels(row: Row, steps: int | None) -> str:
    """That a checkpoint is worse than raw pixels by more than chance, in words; "" where it is not,
    and so early in a run of so many steps that it says nothing.
    """
    against = row.get("against", {}).get("pixels")
    if against is None or row["step"] < JUDGED_FROM * (steps or 0):
        return ""
    difference = Difference.of_row(against)
    worse = difference.value < 0
    if row.get("better", "higher") == "lower":
        worse = difference.value > 0
    if not worse or not difference.beyond_chance:
        return ""
    interval = f"[{_points(row, difference.low)}, {_points(row, difference.high)}]"
    return (
        f"{title_of(row)} of step {row['step']:,} is {shown(row)}, below raw pixels by more than chance: "
        f"{_points(row, difference.value)} {interval}, {p_of(difference)}"
    )


# What to do about it, wherever it is told.
REMEDY = (
    "the loss and the signs of health say whether the run learns at all; if it does, look whether its crops show "
    "what tells these classes apart, or give it more images and steps"
)


def _points(row: Row, difference: float) -> str:
    if row.get("unit", "share") == "share":
        return f"{100 * difference:+.1f}"
    return f"{difference:+.4g}"
