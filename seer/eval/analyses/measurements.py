"""Scores of several models from files alone: results.jsonl as `seer eval` and `seer transfer` write
it, or a CSV file of published values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seer import __version__
from seer.data.folders import readable
from seer.errors import InputError, nearest
from seer.eval.analyses.correlation import Correlation, correlate, logit
from seer.eval.data.csvlists import Columns, Place, table
from seer.inputs import read_rows
from seer.jsonl import Row
from seer.results import title_of
from seer.rundir.kinds import RESULT, is_newer

COLUMNS = ("model", "task", "dataset", "metric", "value")
AVERAGE = "average"  # in place of a data set and a metric
PIXELS = "pixels"

# How a value of a file becomes one that is correlated.
SHARE = "share"  # 0 to 1; its logit
PERCENT = "percent"  # of a hundredth; likewise
RAW = "raw"  # as it is
NEGATED = "negated"  # as it is but for its sign: an error, of which less is better
UNITS = (PERCENT, SHARE, RAW, NEGATED)


class Quantity(NamedTuple):
    """What was measured of each model."""

    task: str
    dataset: str
    metric: str

    def __str__(self) -> str:
        return "/".join(dict.fromkeys(filter(None, self)))


@dataclass
class Measured:
    """One quantity of several models.

    Attributes:
        values: by model, as they are correlated but for the logit.
        title: for people.
        comparable: of each model whose result says it: the same for one protocol, data and split.
        headline: whether it stands for its task.
    """

    unit: str
    title: str
    values: dict[str, float] = field(default_factory=dict)
    comparable: dict[str, str] = field(default_factory=dict)
    headline: bool = True


Measurements = dict[Quantity, Measured]


def read(paths: Sequence[Path | str]) -> Measurements:
    """The values of all files together.

    Raises:
        InputError: in one line, a file that is not readable or is of a newer seer, a value that is not finite, two
            models of one name, or models that were measured on different test images or in different ways.
    """
    measurements: Measurements = {}
    versions: dict[str, tuple[str, str]] = {}
    for path in map(Path, paths):
        if path.suffix.lower() == ".csv":
            _read_csv(path, measurements)
        else:
            _read_results(path, measurements, versions)
    if not measurements:
        raise InputError(f"{', '.join(map(str, paths))}: no results; give results.jsonl or a CSV")
    for quantity, measured in measurements.items():
        check_comparable(quantity, measured)
    return measurements


def check_comparable(quantity: Quantity, measured: Measured) -> None:
    """Refuse values that are not of the same test images and protocol."""
    keys: dict[str, str] = {}
    for model, key in measured.comparable.items():
        keys.setdefault(key, model)
    if len(keys) > 1:
        first, second, *_ = keys.values()
        raise InputError(
            f"{quantity}: {first} and {second} were measured on different splits or by different options, so they are "
            "not compared; measure one of them again"
        )


def find(measurements: Measurements, name: str) -> Quantity:
    """The quantity that a text names: `TASK/DATASET/METRIC`, of which the later parts may be left
    out where one quantity has the others; `TASK` alone is the average over its data sets where
    it has several.

    Raises:
        InputError: none, or several.
    """
    parts = name.split("/")
    matching = [quantity for quantity in measurements if _names(quantity, parts)]
    if len(parts) == 1 and len(matching) > 1:
        average = Quantity(name, AVERAGE, AVERAGE)
        matching = [average] if average in measurements else matching
    if len(matching) == 1:
        return matching[0]
    if matching:
        several = ", ".join(map(str, matching[:5]))
        raise InputError(f"{name}: there are {len(matching)} of these; name one: {several}")
    names = {quantity.task for quantity in measurements} | set(map(str, measurements))
    raise InputError(f"{name}: no such quantity{nearest(name, names)}")


def _names(quantity: Quantity, parts: Sequence[str]) -> bool:
    joined = "/".join(parts)
    whole = f"{quantity}/"
    return whole.casefold().startswith(f"{joined}/".casefold())


def averages(
    measurements: Measurements,
    scale: str = "logit",
    left_out: dict[Quantity, str] | None = None,
) -> Measurements:
    """For each task that has one metric on each of several data sets, the mean over these of what is
    correlated (a mean of logits, not the logit of a mean), of the models that have them all.

    Args:
        left_out: where it is told why a task has no average, instead of raising.

    Raises:
        InputError: a share is exactly 0 or 1.
    """
    tasks: dict[str, list[Quantity]] = {}
    for quantity, measured in measurements.items():
        if measured.headline:
            tasks.setdefault(quantity.task, []).append(quantity)
    found: Measurements = {}
    for task, quantities in tasks.items():
        sets = {quantity.dataset for quantity in quantities}
        if len(sets) == len(quantities) > 1:
            average = Quantity(task, AVERAGE, AVERAGE)
            try:
                found[average] = _average(measurements, quantities, scale)
            except InputError as error:
                if left_out is None:
                    raise
                left_out[average] = str(error)
    return found


def _average(measurements: Measurements, quantities: Sequence[Quantity], scale: str) -> Measured:
    columns = [transformed(measurements, quantity, scale) for quantity in quantities]
    models = [m for m in columns[0] if all(m in column for column in columns)]
    means = {m: float(np.mean([column[m] for column in columns])) for m in models}
    title = f"{quantities[0].task}, average of {len(quantities)} data sets"
    return Measured(RAW, title, means)


def transformed(
    measurements: Measurements, quantity: Quantity, scale: str = "logit"
) -> dict[str, float]:
    """The values of a quantity by model as they are correlated; `scale=raw` leaves shares as they are.

    Raises:
        InputError: a share is exactly 0 or 1.
    """
    measured = measurements[quantity]
    if scale == RAW or measured.unit == RAW:
        return dict(measured.values)
    if measured.unit == NEGATED:
        return {model: -value for model, value in measured.values.items()}
    return {
        model: float(logit(np.array([value]), f"{model}, {quantity}")[0])
        for model, value in measured.values.items()
    }


def between(
    measurements: Measurements, x: Quantity, y: Quantity, scale: str = "logit", seed: int = 0
) -> Correlation:
    """The correlation of two quantities over the models that have both.

    Raises:
        InputError: fewer than three models have both, or a share is exactly 0 or 1.
    """
    first = transformed(measurements, x, scale)
    second = transformed(measurements, y, scale)
    models = [model for model in first if model in second]
    return correlate(
        np.array([first[model] for model in models]),
        np.array([second[model] for model in models]),
        seed,
    )


def _read_csv(path: Path, measurements: Measurements) -> None:
    for columns, place in table(path, COLUMNS):
        quantity = Quantity(*(columns[name].strip() for name in ("task", "dataset", "metric")))
        unit = (columns.get("unit") or PERCENT).strip()
        if unit not in UNITS:
            raise place.refuse(f"unit {unit!r} is none{nearest(unit, UNITS)}")
        value = _number(columns, place)
        scaled = value / 100 if unit == PERCENT else value
        if unit in (PERCENT, SHARE) and not 0 <= scaled <= 1:
            raise place.refuse(
                f"{value:g} is no {unit}; a column `unit` says what it is: {', '.join(UNITS)}"
            )
        measured = measurements.setdefault(quantity, Measured(unit, str(quantity)))
        _enter(measured, columns["model"].strip(), scaled, place.refuse)


def _number(columns: Columns, place: Place) -> float:
    text = columns["value"].strip()
    try:
        value = float(text)
    except ValueError:
        raise place.refuse(f"value {text!r} is no number") from None
    if not np.isfinite(value):
        raise place.refuse(f"value {text} is not finite; leave out what was not measured")
    return value


def _read_results(
    path: Path, measurements: Measurements, versions: dict[str, tuple[str, str]]
) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give results.jsonl or a CSV file")
    rows = list(read_rows(path, RESULT, torn=True))
    names = names_of(rows)
    newest: dict[tuple[Quantity, str], Row] = {}
    for row in rows:
        check_version(row, path)
        check_name(row, versions, path)
        quantity = Quantity(row["task"], data_name(row["data"]), row["metric"])
        newest[quantity, names[row["model"]]] = (
            row  # a repetition takes the place of what was before
        )
    for (quantity, model), row in newest.items():
        sign = NEGATED if row.get("better") == "lower" else RAW
        unit = SHARE if row.get("unit", SHARE) == SHARE else sign
        title = f"{title_of(row)}, {quantity.dataset}"
        headline = row.get("headline", True)
        measured = measurements.setdefault(quantity, Measured(unit, title, headline=headline))
        _enter(measured, model, row["value"], lambda problem: InputError(f"{path}: {problem}"))
        if "comparable" in row:
            measured.comparable[model] = row["comparable"]


def check_version(row: Row, path: Path) -> None:
    """Refuse a result of a seer to come, which may mean something else by the same names."""
    version = row.get("seer", "")
    if version and is_newer(version):
        raise InputError(
            f"{path}: written by seer {version}, and this is {__version__}; use that one or a newer one"
        )


def check_name(row: Row, versions: dict[str, tuple[str, str]], path: Path) -> None:
    """Refuse two models of one name, or two versions of one."""
    if is_pixels(row):
        return  # whose mean image is that of each data set
    model = row["model"]
    version = (row["config_hash"], row.get("weights", ""))
    if versions.setdefault(model, version) != version:
        raise InputError(
            f"{path}: two models, or two versions of one, are called {model}; keep the rows of one of them"
        )


def names_of(rows: Sequence[Row]) -> dict[str, str]:
    """What the models of results are called: raw pixels are one, whatever size the images of a data
    set have, unless they were measured at several sizes there.
    """
    sizes: dict[tuple[str, str, str], set[str]] = {}
    for row in filter(is_pixels, rows):
        sizes.setdefault((row["task"], row["data"], row["metric"]), set()).add(row["model"])
    one_size = all(len(of_a_set) == 1 for of_a_set in sizes.values())
    return {row["model"]: PIXELS if one_size and is_pixels(row) else row["model"] for row in rows}


def is_pixels(row: Row) -> bool:
    return row["model"].partition(":")[0] == PIXELS


def data_name(data: str) -> str:
    """The name of the table of `NAME:DIR`, else the last part of a path."""
    name, colon, _ = data.partition(":")
    if colon and "/" not in name:
        return name
    return readable(Path(data).name or data)


def _enter(
    measured: Measured, model: str, value: float, refuse: Callable[[str], InputError]
) -> None:
    if not model:
        raise refuse("a model has no name")
    if model in measured.values:
        raise refuse(f"two models are called {model}, or one was entered twice")
    measured.values[model] = value
