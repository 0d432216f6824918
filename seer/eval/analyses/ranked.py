"""`seer rank`: models over the data sets of a task, from result files alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from seer.errors import InputError, nearest
from seer.eval.analyses.measurements import NEGATED, Measurements, Quantity, read
from seer.eval.analyses.rank_tests import LEVEL, Ranking, rank_models


@dataclass
class Ranked:
    """Models that were measured on all data sets of a task, best first.

    Attributes:
        left_out: models that lack one.
    """

    models: list[str]
    quantities: list[Quantity]
    ranking: Ranking
    left_out: list[str]

    def lines(self) -> list[str]:
        """For a terminal."""
        width = max(map(len, self.models))
        lines = [
            f"{model:{width}}  {mean:5.2f}"
            for model, mean in zip(self.models, self.ranking.mean.tolist(), strict=True)
        ]
        lines.append(f"mean ranks over {len(self.quantities)} data sets, 1 is best")
        if not isnan(self.ranking.p):
            said = "more than" if self.ranking.p < LEVEL else "no more than"
            lines.append(
                f"Friedman's test: they differ by {said} chance (p = {self.ranking.p:.2g})"
            )
        lines.append(f"critical difference {self.ranking.critical:.2f} (Nemenyi, 0.05)")
        for group in self.ranking.alike():
            lines.append(f"not told apart: {', '.join(self.models[i] for i in group)}")
        if self.left_out:
            lines.append(f"left out, as they lack a data set: {', '.join(self.left_out)}")
        return lines

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "data_sets": [quantity.dataset for quantity in self.quantities],
            "models": self.models,
            "ranks": self.ranking.ranks.tolist(),
            "mean": self.ranking.mean.tolist(),
            "p": self.ranking.p,
            "critical": self.ranking.critical,
            "alike": [[self.models[i] for i in group] for group in self.ranking.alike()],
            "left_out": self.left_out,
        }


def rank_files(files: Sequence[Path], task: str) -> Ranked:
    """The models of all files by their ranks on the data sets of a task.

    Raises:
        InputError: as `read` raises it; there is no such task, it has several measures on a data set, or fewer than
            two models have two data sets.
    """
    measurements = read(files)
    quantities = _of_task(measurements, task)
    columns = [measurements[quantity] for quantity in quantities]
    names = dict.fromkeys(model for column in columns for model in column.values)
    models = [model for model in names if all(model in column.values for column in columns)]
    signs = [-1 if column.unit == NEGATED else 1 for column in columns]
    scores = [
        [sign * column.values[model] for sign, column in zip(signs, columns, strict=True)]
        for model in models
    ]
    ranking = rank_models(np.array(scores).reshape(len(models), len(columns)))
    order = np.argsort(ranking.mean, kind="stable")
    best_first = Ranking(ranking.ranks[order], ranking.mean[order], ranking.p, ranking.critical)
    left_out = [model for model in names if model not in models]
    return Ranked([models[i] for i in order], quantities, best_first, left_out)


def _of_task(measurements: Measurements, task: str) -> list[Quantity]:
    """The measure that stands for a task on each data set."""
    quantities = [
        quantity
        for quantity, measured in measurements.items()
        if quantity.task == task and measured.headline
    ]
    if not quantities:
        tasks = {quantity.task for quantity in measurements}
        raise InputError(f"--of {task}: no such task{nearest(task, tasks)}")
    sets = [quantity.dataset for quantity in quantities]
    if twice := next((name for name in sets if sets.count(name) > 1), ""):
        raise InputError(f"--of {task}: has several measures on {twice}; leave one of them")
    return quantities
