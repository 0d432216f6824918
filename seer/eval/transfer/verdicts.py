"""Which model for which need, by how much and how sure; ranks over data sets; how tasks go together."""

from collections.abc import Sequence
from itertools import combinations
from math import isnan, sqrt
from statistics import fmean
from typing import Any

import numpy as np

from seer.data.folders import readable
from seer.errors import InputError
from seer.eval.analyses.correlation import Coefficient, average_ranks
from seer.eval.analyses.measurements import (
    AVERAGE,
    NEGATED,
    RAW,
    SHARE,
    Measured,
    Measurements,
    Quantity,
    averages,
    between,
    check_comparable,
)
from seer.eval.analyses.rank_tests import LEVEL, rank_models
from seer.eval.tasks import TASKS
from seer.eval.transfer.matrix import Column, beyond_chance
from seer.results import title_of

# What people need a backbone for, and the tasks that show it.
NEEDS = {
    "Nearest neighbours, without any training": ("knn",),
    "A classifier on frozen features, with many labels": ("linear", "logreg"),
    "A few labels for each class": ("fewshot",),
    "Finetuning the whole network": ("finetune",),
    "Classes of pixels, and objects": ("segment", "denselinear", "detect"),
    "Surfaces: normals and depth": ("normals", "depth"),
}
ALL = "all tasks"
LEAST = 3  # models of a correlation


def needs(columns: Sequence[Column], titles: dict[str, str]) -> list[dict[str, Any]]:
    """For each need, the model whose scores have the highest mean, beside the next one."""
    told = []
    for need, tasks in NEEDS.items():
        own = [column for column in columns if column.task in tasks]
        models = [spec for spec in titles if own and all(spec in column.scores for column in own)]
        if len(models) > 1:
            told.append(_need(need, own, models, titles))
    return told


def _need(
    need: str, columns: Sequence[Column], models: list[str], titles: dict[str, str]
) -> dict[str, Any]:
    values = {model: fmean(column.signed(model) for column in columns) for model in models}
    first, second, *_ = sorted(models, key=values.__getitem__, reverse=True)
    better = 0
    worse = 0
    for column in columns:
        if beyond_chance(column.scores[first], column.scores[second]):
            ahead = column.signed(first) > column.signed(second)
            better += ahead
            worse += not ahead
    return {
        "need": need,
        "best": titles[first],
        "next": titles[second],
        "difference": values[first] - values[second],
        "value": fmean(column.scores[first].row["value"] for column in columns),
        "measures": list(dict.fromkeys(title_of(column.row) for column in columns)),
        "scores": len(columns),
        "data_sets": list(dict.fromkeys(readable(column.place.name) for column in columns)),
        "protocols": len({column.task for column in columns}),
        "better": better,
        "worse": worse,
    }


def mean_ranks(columns: Sequence[Column], models: Sequence[str]) -> dict[str, float]:
    """Over columns that have all of the models; 1 is best."""
    scores = np.array([[-column.signed(model) for model in models] for column in columns])
    return dict(zip(models, average_ranks(scores).mean(0).tolist(), strict=True))


def rankings(columns: Sequence[Column], titles: dict[str, str]) -> list[dict[str, Any]]:
    """Ranks over data sets for each task and, of the mean ranks on each data set, of all; with the
    tests of Demšar (2006). Only of models that were measured everywhere, and two data sets or more.
    """
    told = []
    for task in (*dict.fromkeys(column.task for column in columns), ALL):
        own = [column for column in columns if task in (column.task, ALL)]
        models = [spec for spec in titles if all(spec in column.scores for column in own)]
        by_set: dict[str, list[Column]] = {}
        for column in own:
            by_set.setdefault(column.place.data, []).append(column)
        if len(models) < 2 or len(by_set) < 2:
            continue
        scores = [list(mean_ranks(part, models).values()) for part in by_set.values()]
        ranking = rank_models(-np.array(scores).T)
        order = np.argsort(ranking.mean, kind="stable").tolist()
        told.append(
            {
                "task": task,
                "title": "All tasks" if task == ALL else TASKS[task].title,
                "data_sets": [part[0].place.name for part in by_set.values()],
                "models": [titles[models[i]] for i in order],
                "ranks": [ranking.ranks[i].tolist() for i in order],
                "mean": [float(ranking.mean[i]) for i in order],
                "by_mean_score": _by_mean_score(own, models, titles),
                "p": None if isnan(ranking.p) else ranking.p,
                "level": LEVEL,
                "critical": ranking.critical,
                "alike": [[titles[models[i]] for i in group] for group in ranking.alike()],
            }
        )
    return told


def _by_mean_score(
    columns: Sequence[Column], models: Sequence[str], titles: dict[str, str]
) -> list[str]:
    """The models, the best mean first; none where some measures are no shares, or less is better of
    some alone.
    """
    if any(column.row.get("unit", "share") != "share" for column in columns):
        return []
    if len({column.higher_is_better for column in columns}) > 1:
        return []
    means = {model: fmean(column.signed(model) for column in columns) for model in models}
    return [titles[model] for model in sorted(models, key=means.__getitem__, reverse=True)]


def correlations(columns: Sequence[Column], titles: dict[str, str]) -> list[dict[str, Any]]:
    """Each pair of tasks over the models: of the averages over data sets, in logits."""
    measurements: Measurements = {}
    for column in columns:
        quantity = Quantity(column.task, column.place.name, column.metric)
        sign = RAW if column.higher_is_better else NEGATED
        unit = SHARE if column.row.get("unit", "share") == "share" else sign
        measured = measurements.setdefault(quantity, Measured(unit, str(quantity)))
        for spec, scored in column.scores.items():
            measured.values[titles[spec]] = scored.row["value"]
            if "comparable" in scored.row:
                measured.comparable[titles[spec]] = scored.row["comparable"]
    told = []
    tasks = list(dict.fromkeys(column.task for column in columns))
    for first, second in combinations(tasks, 2):
        points = _points(columns, titles, first, second)
        if len(points) >= LEAST:
            axes = {"x_title": _axis(columns, first), "y_title": _axis(columns, second)}
            told.append(_pair(measurements, first, second) | axes | {"points": points})
    return told


def _axis(columns: Sequence[Column], task: str) -> str:
    """What an axis is called."""
    lower = any(column.task == task and not column.higher_is_better for column in columns)
    return TASKS[task].title + " (less is better)" * lower


def _pair(measurements: Measurements, first: str, second: str) -> dict[str, Any]:
    told: dict[str, Any] = {"x": first, "y": second}
    own = {key: value for key, value in measurements.items() if key.task in (first, second)}
    try:
        for quantity, measured in own.items():
            check_comparable(quantity, measured)
        own |= averages(own)
        found = between(own, _of_task(own, first), _of_task(own, second))
    except InputError as error:  # of no use for the page to fail by: a score of 1 on few images
        return told | {"problem": str(error)}
    coefficients = {name: getattr(found, name) for name in ("pearson", "spearman", "kendall")}
    told |= {name: _coefficient(value) for name, value in coefficients.items()}
    return told | {"models": found.models, "remark": found.remark}


def _of_task(measurements: Measurements, task: str) -> Quantity:
    average = Quantity(task, AVERAGE, AVERAGE)
    return average if average in measurements else next(q for q in measurements if q.task == task)


def _coefficient(coefficient: Coefficient) -> list[float | None]:
    values = (coefficient.value, coefficient.low, coefficient.high)
    return [None if isnan(value) else value for value in values]


def _points(
    columns: Sequence[Column], titles: dict[str, str], first: str, second: str
) -> list[dict[str, Any]]:
    """The models that have all scores of two tasks: means over data sets, with the intervals of these
    means, test sets being independent.
    """
    points = []
    for spec, title in titles.items():
        point: dict[str, Any] = {"model": title}
        for axis, task in (("x", first), ("y", second)):
            own = [column for column in columns if column.task == task]
            rows = [column.scores[spec].row for column in own if spec in column.scores]
            if len(rows) == len(own):
                value = fmean(row["value"] for row in rows)
                below = sqrt(sum((row["value"] - row["low"]) ** 2 for row in rows)) / len(rows)
                above = sqrt(sum((row["high"] - row["value"]) ** 2 for row in rows)) / len(rows)
                point[axis] = [value, value - below, value + above]
        if len(point) == 3:
            points.append(point)
    return points
