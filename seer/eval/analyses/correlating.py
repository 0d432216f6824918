"""`seer correlate`: one quantity of result files against others."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

from seer.errors import InputError, nearest
from seer.eval.analyses.correlation import LEAST, Coefficient, Correlation
from seer.eval.analyses.measurements import (
    RAW,
    Measurements,
    Quantity,
    averages,
    between,
    find,
    read,
)

SCALES = ("logit", RAW)


@dataclass
class Correlations:
    """Of one quantity with others; and those left out, with the reason."""

    x: Quantity
    found: dict[Quantity, Correlation] = field(default_factory=dict)
    left_out: dict[Quantity, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For a terminal."""
        width = max((len(str(quantity)) for quantity in self.found), default=0)
        heads = [f"{name:^20}" for name in ("Pearson", "Spearman", "Kendall")]
        lines = [f"{f'with {self.x}':{width}}  {''.join(heads)} models"] if self.found else []
        for quantity, found in self.found.items():
            coefficients = (found.pearson, found.spearman, found.kendall)
            cells = "".join(f"{_cell(each):^20}" for each in coefficients)
            lines.append(f"{quantity!s:{width}}  {cells} {found.models}")
        remarks = dict.fromkeys(found.remark for found in self.found.values() if found.remark)
        lines += remarks
        lines += [f"left out {quantity}: {reason}" for quantity, reason in self.left_out.items()]
        return lines

    def rows(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [
            {"x": str(self.x), "y": str(quantity), **asdict(found), "remark": found.remark}
            for quantity, found in self.found.items()
        ]


def correlate_files(
    files: Sequence[Path], x: str, of: Sequence[str], scale: str = "logit", seed: int = 0
) -> Correlations:
    """Each quantity that is named, or every one that enough models have.

    Raises:
        InputError: as `read`, `find` and `between` raise it; of quantities that were not named, what is wrong is a
            reason to leave them out.
    """
    if scale not in SCALES:
        raise InputError(f"--scale {scale}: no such scale{nearest(scale, SCALES)}")
    measurements = read(files)
    left_out: dict[Quantity, str] = {}
    measurements |= averages(measurements, scale, left_out)
    for average, reason in left_out.items():
        if average.task in (x, *of):
            raise InputError(reason)
    table = Correlations(find(measurements, x), left_out=left_out)
    first = table.x
    for name in of:
        quantity = find(measurements, name)
        table.found[quantity] = between(measurements, first, quantity, scale, seed)
    if not of:
        _all(measurements, table, scale, seed)
    return table


def _all(measurements: Measurements, table: Correlations, scale: str, seed: int) -> None:
    whose = measurements[table.x].values
    if len(whose) < LEAST:
        raise InputError(f"{table.x}: {len(whose)} models have it; a correlation needs {LEAST}")
    for quantity in measurements:
        if quantity != table.x:
            try:
                table.found[quantity] = between(measurements, table.x, quantity, scale, seed)
            except InputError as error:
                table.left_out[quantity] = str(error)


def _cell(coefficient: Coefficient) -> str:
    if isnan(coefficient.value):
        return "–"  # one of the two is the same for all models
    return f"{coefficient.value:.2f} [{coefficient.low:.2f}, {coefficient.high:.2f}]"
