"""What each file of a run directory may hold: the kinds of its values, and of its rows."""

import re
from typing import Any

from seer import __version__
from seer.jsonl import Row
from seer.schema import (
    DEEPEST,
    INT64,
    SHARE,
    Choice,
    Flag,
    Integer,
    Kind,
    ListOf,
    MapOf,
    Maybe,
    MismatchError,
    Number,
    Plain,
    Record,
    Text,
    refuse,
)

WIDEST = 1_000  # values of a row

STEP = Integer(1)
MEASURED = Maybe(Number(finite=False))  # a record of what happened
NAME = Text(1024)
SENTENCE = Text(4096)
FINGERPRINT = Integer(0, 2**48 - 1)  # seer.data.ledger's
SCORE = Number(-1e9, 1e9)

KNOWN = (
    "loss",
    "lr",
    "samples",
    "epoch",
    "seconds",
    "images_per_second",
    "data_wait",
    "time_step",
    "memory_gib",
)
MEASUREMENTS: dict[str, Kind] = dict.fromkeys(
    (*KNOWN, "log_prototypes", "prototypes_used"), MEASURED
)
METRIC = Record({"step": STEP}, {"seen": FINGERPRINT, **MEASUREMENTS})
RESULT_FIELDS: dict[str, Kind] = {
    "task": NAME,
    "data": Text(),
    "metric": NAME,
    "value": SCORE,
    "low": SCORE,
    "high": SCORE,
    "model": Text(),
    "config_hash": NAME,
    "seconds": Number(0),
}
LATER_FIELDS: dict[str, Kind] = {  # which older ones lack
    "title": NAME,
    "unit": NAME,
    "better": Choice("higher", "lower"),
    "headline": Flag(),
    "chance": Maybe(SCORE),
    "comparable": NAME,  # the same in rows of one protocol, data and split
    "images": NAME,  # the same in rows of the same training and test images
    "pixels": Integer(1, 100_000),
    "protocol": NAME,
    "dataset": NAME,  # of the table of data sets, where all of its images were measured
    "weights": NAME,  # what the model's hash to
    "seer": NAME,  # its version
}


class Scores(Record):
    """Rows of results: shares are from 0 to 1, and within their intervals."""

    def check(self, value: Any, where: str = "") -> dict[str, Any]:
        row = super().check(value, where)
        ends = (row["low"], row["value"], row["high"])
        if row.get("unit", "share") == "share" and not (0 <= ends[0] <= ends[1] <= ends[2] <= 1):
            raise MismatchError(
                where, f"{row['value']:g} with [{row['low']:g}, {row['high']:g}] is no share"
            )
        return row


RESULT = Scores(RESULT_FIELDS, LATER_FIELDS)
# A score beside a baseline's, paired: by how much it is above it, the interval of that, and p.
AGAINST = Record({"difference": SCORE, "low": SCORE, "high": SCORE, "p": Number(0, 1)})
SCORED = Scores(
    {**RESULT_FIELDS, "step": Integer(0)},  # 0: what the run is compared with
    {**LATER_FIELDS, "against": MapOf(AGAINST)},
)
EVENT = Record({"step": Integer(0), "event": NAME})
EVENTS = {  # what more the events have that people are told of
    "symptom": Record({"name": NAME, "why": SENTENCE, "remedy": SENTENCE}),
    "recovered": Record({"name": NAME}),
    "rollback": Record({"why": SENTENCE, "to": Integer(0), "skipped": ListOf(Integer(0), 2, 2)}),
    "diverged": Record({"why": SENTENCE}),
}
# Precision at recalls of 0, 0.01, … 1, by what it is of.
PRECISION_KIND = MapOf(ListOf(Number(0, 1), 101, 101), Text(64), 16)
PASSED_OVER = Record({"step": STEP})
ENVIRONMENT_KIND = Record(
    {},
    {
        "time": NAME,
        "command": Text(100_000),
        "seer": NAME,
        "processes": Integer(1, 10**6),
        "gpus": ListOf(NAME, 1024),
        "cores": Maybe(Integer(1, 10**6)),
        "threads": Integer(1, 1024),  # of each process
        "packages": MapOf(Maybe(NAME)),
    },
)
PLAN_KIND = Record(
    {"chosen": Record({"images_per_second": Number(above=0)}), "memory_gib": MapOf(Number(0))}
)
CONFIG_KIND = Record(
    {},
    {
        "name": Text(),
        "steps": Integer(1),
        "batch_size": Integer(1, 2**24),
        "method": Record({}, {"name": NAME}),
        "backbone": Record({}, {"name": NAME}),
        "views": MapOf(Record({}, {"count": Integer(0, 10_000), "size": Integer(1, 100_000)})),
    },
)
MOST_POINTS = 10_000  # of a grid
OUTCOME_KIND = Record(  # of one of them
    {
        "point": Integer(1, MOST_POINTS),
        "setting": Plain(),
        "identity": NAME,
        "metric": NAME,
        "value": Maybe(SHARE),
        "chosen_on": NAME,
        "failed": Text(100_000),
    }
)
HEADER_KIND = Record({"step": STEP, "seen": FINGERPRINT})
OWNER_KIND = Record({"job": Text(64, 1, r"\d+(_\d+)?", "the number of a job"), "launch": Text()})


class Named:
    """Names with whatever values: each is checked by itself, so that one that is wrong leaves
    others to be shown.
    """

    def check(self, value: Any, where: str = "") -> dict[str, Any]:
        if not isinstance(value, dict):
            raise refuse(self, value, where)
        return {str(key): _named(item) for key, item in value.items()}

    def says(self) -> str:
        return "names with values"


def _named(value: Any, deepest: int = DEEPEST) -> Any:
    """A value in which all keys are texts: YAML takes `off` for false, and `1` for a number."""
    if isinstance(value, dict) and deepest:
        return {str(key): _named(item, deepest - 1) for key, item in value.items()}
    if isinstance(value, list) and deepest:
        return [_named(item, deepest - 1) for item in value]
    return value


def metric_row(row: Any) -> Row:
    """A row of metrics.jsonl with all that stands in it."""
    if _is_plain(row):  # most rows: as `METRIC` would have it, at a tenth of the time
        return row
    if isinstance(row, dict) and len(row) > WIDEST:
        raise MismatchError("", f"it has more than {WIDEST:,} values")
    return METRIC.check(row)


def numbers(row: Any) -> Row:
    """The numbers of a row of metrics.jsonl, by name. What else a newer seer may have written there
    is left out.
    """
    if _is_plain(row):
        return row
    return {
        key: value for key, value in metric_row(row).items() if value is None or _is_number(value)
    }


def _is_plain(row: Any) -> bool:
    """Whether a row holds nothing but a step, numbers within bounds, and nulls, under short names."""
    if (
        type(row) is not dict
        or len(row) > WIDEST
        or type(row.get("step")) is not int
        or row["step"] < 1
    ):
        return False
    seen = row.get("seen", 0)
    if type(seen) is not int or not 0 <= seen <= FINGERPRINT.high:
        return False
    named = all(key.isascii() and len(key) <= 100 for key in row)
    return named and all(
        value is None or type(value) is float or (type(value) is int and -INT64 <= value <= INT64)
        for value in row.values()
    )


def _is_number(value: Any) -> bool:
    try:
        Number(finite=False).check(value)
    except MismatchError:
        return False
    return True


def finite(value: float | None) -> float:
    """A measured number that is not negative; 0 for everything else that may stand in its place."""
    return value if value is not None and 0 <= value < 1e100 else 0.0


def event(row: Any) -> Row:
    """A row of health.jsonl. Events that only a newer seer knows are taken as they are."""
    row = EVENT.check(row)
    return EVENTS[row["event"]].check(row) if row["event"] in EVENTS else row


def is_newer(version: str) -> bool:
    """Whether this is a version of a seer to come."""
    return _release(version) > _release(__version__)


def _release(version: str) -> tuple[int, ...]:
    """The numbers at the beginning: `0.2.1.dev3` is (0, 2, 1)."""
    numbers_ = re.match(r"\d{1,6}(\.\d{1,6}){0,3}", version)
    return tuple(map(int, numbers_[0].split("."))) if numbers_ else ()
