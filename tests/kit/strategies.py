"""Values for property tests, made from what `seer.schema` declares: good ones, and good ones with
one thing wrong.
"""

import math
from typing import Any

from hypothesis import strategies as st

from seer.eval.trained.options import Grid
from seer.schema import (
    Choice,
    FileName,
    Flag,
    Integer,
    Kind,
    ListOf,
    MapOf,
    Maybe,
    Number,
    Plain,
    Record,
    Text,
)
from seer.steps import Place

# What no declared kind but `Plain` takes in every place: other types, traps of their own, and what
# a terminal obeys.
HOSTILE: list[Any] = [
    None, True, "", "x", "../../x", "/etc/passwd", "a/b", "a\\b", ".", "..", "\x00", "\x1b[2J", "x\ny", "\ud800",
    "9" * 300, 0, -1, 2**31, 2**63, 2**64, 10**400, -(10**400), 0.5, -0.0, 1e308, math.nan, math.inf, -math.inf,
    [], {}, [[]], {"a": {}}, ["x", "x"], {"..": "/"}, [None], [0, 0],
]  # fmt: skip


def values(kind: Kind) -> st.SearchStrategy[Any]:
    """Values that `kind` takes, as JSON would hold them."""
    match kind:
        case Flag():
            return st.booleans()
        case Integer(low, high):
            return st.integers(low, high)
        case Number():
            return _numbers(kind)
        case Text(longest, shortest, pattern):
            alphabet = st.characters(exclude_categories=["Cs"])
            plain = st.text(alphabet, min_size=shortest, max_size=min(longest, shortest + 20))
            fitting = (
                st.from_regex(pattern, fullmatch=True, alphabet=alphabet) if pattern else plain
            )
            return fitting.filter(lambda text: shortest <= len(text) <= longest)
        case FileName(suffix):
            return st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True).map(
                lambda name: name + suffix
            )
        case Maybe(below):
            return st.none() | values(below)
        case ListOf(below, longest, shortest, distinct, rising):
            unique = (lambda item: item) if distinct else None
            items = st.lists(
                values(below),
                min_size=shortest,
                max_size=min(longest, shortest + 3),
                unique_by=unique,
            )
            return items.map(sorted) if rising else items
        case MapOf(below, key, longest):
            return st.dictionaries(values(key), values(below), max_size=min(longest, 3))
        case Record(required, optional):
            return st.fixed_dictionaries(
                {name: values(k) for name, k in required.items()},
                optional={name: values(k) for name, k in optional.items()},
            )
        case Plain():
            leaves = (
                st.none()
                | st.booleans()
                | st.integers()
                | st.text(st.characters(exclude_categories=["Cs"]))
            )
            return st.recursive(
                leaves,
                lambda below: st.lists(below) | st.dictionaries(st.text("ab"), below),
                max_leaves=5,
            )
        case Place():
            return st.integers(0, 10**9) | st.floats(0, 1, exclude_max=True)
        case Choice():
            return st.sampled_from(kind.values)
        case Grid():
            setting = st.dictionaries(st.text("ab", min_size=1), values(Plain()), min_size=1)
            axis = st.lists(values(Plain()), min_size=1) | st.lists(setting, min_size=1)
            return st.dictionaries(st.text("ab", min_size=1), axis).filter(kind.allows)
    raise AssertionError(f"no values for {kind}")


def _numbers(kind: Number) -> st.SearchStrategy[float]:
    low, high = max(kind.low, kind.above), min(kind.high, kind.below)
    bounded = st.floats(
        None if math.isinf(low) else low,
        None if math.isinf(high) else high,
        exclude_min=kind.above > -math.inf,
        exclude_max=kind.below < math.inf,
        allow_nan=False,
        allow_infinity=False,
    )
    return bounded if kind.finite else bounded | st.sampled_from([math.nan, math.inf, -math.inf])


@st.composite
def damaged(draw: st.DrawFn, kind: Kind) -> Any:
    """A value of `kind` in which one thing, at any depth, was replaced by something hostile, taken
    out or doubled.

    It may by chance be a good value still: what reads it must take it or refuse it in one line.
    """
    return _damage(draw, draw(values(kind)))


@st.composite
def spoiled(draw: st.DrawFn, value: Any) -> Any:
    """A good value of some file in which one thing was damaged as `damaged` does: the rest still
    fits its folder.
    """
    return _damage(draw, value)


def _damage(draw: st.DrawFn, value: Any) -> Any:
    deeper = isinstance(value, dict | list) and len(value) > 0 and draw(st.integers(0, 3)) > 0
    if not deeper:
        return draw(st.sampled_from(HOSTILE))
    if isinstance(value, list):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], *_replaced(draw, value[place]), *value[place + 1 :]]
    key = draw(st.sampled_from(sorted(value)))
    action = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename"]))
    rest = {name: item for name, item in value.items() if name != key}
    if action == "remove":
        return rest
    if action == "rename":
        return rest | {draw(st.sampled_from(["x", "", "../x", "\x1b[2J"])): value[key]}
    return value | {key: _damage(draw, value[key])}


def _replaced(draw: st.DrawFn, item: Any) -> list[Any]:
    """What stands in a list in an item's place: nothing, the item twice, or something else."""
    return draw(st.sampled_from([[], [item, item], [_damage(draw, item)]]))
