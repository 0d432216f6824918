"""Two scores on the same images: what a paired test says, where what each image scored was kept, or
the test was made when it was measured.
"""

from dataclasses import dataclass, field
from math import isclose

from seer.eval import outcomes
from seer.eval.paired import Difference, Outcomes, alike, compare
from seer.jsonl import Row
from seer.report.runfiles import RunFiles
from seer.results import kind
from seer.rundir.names import RESULTS

NEAR = 1e-4  # how far a kept answer may be from the value that it should come to


@dataclass
class Scored:
    """A result, and the run in whose files it stands."""

    run: RunFiles
    row: Row
    _images: Outcomes | None = field(default=None, repr=False)

    @property
    def images(self) -> Outcomes:
        """What each image scored; nothing if that was not kept."""
        if self._images is None:
            self._images = outcomes.read(self.run.path / RESULTS, self.row)
        return self._images


def difference(first: Scored, second: Scored) -> Difference | None:
    """By how much the first is above the second, if both were measured in the same way on the same
    images, and that was kept, or told in the first's row; None otherwise.
    """
    if not first.row.get("comparable") or first.row["metric"] != second.row["metric"]:
        return None
    if first.row["comparable"] != second.row.get("comparable"):
        return None
    paired = _measured_beside(first, second)
    if paired is None and alike(first.images, second.images):
        paired = compare(first.images, second.images)
    expected = first.row["value"] - second.row["value"]
    # What is of another evaluation than the row's tells nothing of the row.
    return paired if paired and isclose(paired.value, expected, abs_tol=NEAR) else None


def _measured_beside(first: Scored, second: Scored) -> Difference | None:
    """What the row of a checkpoint says of a baseline: its images' scores are not kept."""
    baseline = kind(second.row)
    # Raw pixels alone are the same for every run.
    if baseline != "pixels" and first.run.path != second.run.path:
        return None
    against = first.row.get("against", {}).get(baseline)
    return Difference.of_row(against) if against else None
