"""Scores of a transfer benchmark as a table: a column for each measure on each data set, a line for
each model; and whether two differ by more than chance.
"""

from dataclasses import dataclass, field
from math import isclose
from pathlib import Path

from seer.eval import outcomes
from seer.eval.paired import Difference, Outcomes, alike, compare
from seer.eval.transfer.agenda import Cell, DataPlace
from seer.eval.transfer.benchmark import Plan, picture_of
from seer.jsonl import Row

NEAR = 1e-4  # how far kept answers may be from the value that they should come to


@dataclass
class Scored:
    """A model's score, and the file that it stands in."""

    path: Path
    row: Row
    picture: str = ""  # below the folder of that file
    _outcomes: Outcomes | None = field(default=None, repr=False)

    @property
    def outcomes(self) -> Outcomes:
        """What each image or episode scored; nothing if that was not kept."""
        if self._outcomes is None:
            self._outcomes = outcomes.read(self.path, self.row) if "comparable" in self.row else {}
        return self._outcomes


@dataclass
class Column:
    """The scores of one measure on one data set, by the models' `--model`, best first."""

    place: DataPlace
    task: str
    metric: str
    scores: dict[str, Scored]

    @property
    def row(self) -> Row:
        return next(iter(self.scores.values())).row

    @property
    def higher_is_better(self) -> bool:
        return self.row.get("better", "higher") == "higher"

    def signed(self, model: str) -> float:
        """A value of which more is better."""
        value = self.scores[model].row["value"]
        return value if self.higher_is_better else -value


def columns_of(work: Plan) -> list[Column]:
    """All measures, data set by data set and task by task."""
    columns: dict[tuple[str, str, str], Column] = {}
    for cell in work.agenda.cells:
        for path, row in work.journal.rows_of(cell, work.models[cell.model]):
            key = (cell.place.data, cell.task, row["metric"])
            column = columns.setdefault(key, _empty(cell, row))
            column.scores[cell.model] = Scored(path, row, picture_of(cell, path))
    for column in columns.values():
        best_first = sorted(
            column.scores.items(),
            key=lambda item: item[1].row["value"],
            reverse=column.higher_is_better,
        )
        column.scores = dict(best_first)
    return list(columns.values())


def difference(first: Scored, second: Scored) -> Difference | None:
    """By how much the first is above the second, image by image or episode by episode; None where
    that was not kept, or is not of these results.
    """
    same = first.row.get("comparable") == second.row.get("comparable")
    if not same or not alike(first.outcomes, second.outcomes):
        return None
    paired = compare(first.outcomes, second.outcomes)
    expected = first.row["value"] - second.row["value"]
    return paired if isclose(paired.value, expected, abs_tol=NEAR) else None


def beyond_chance(first: Scored, second: Scored) -> bool:
    """Whether two scores differ by more than chance: by the paired test, or else where their
    intervals do not overlap.
    """
    paired = difference(first, second)
    if paired is not None:
        return paired.beyond_chance
    return first.row["low"] > second.row["high"] or second.row["low"] > first.row["high"]


def _empty(cell: Cell, row: Row) -> Column:
    return Column(cell.place, cell.task, row["metric"], {})
