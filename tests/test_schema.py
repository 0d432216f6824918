import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seer.errors import InputError
from seer.schema import (
    DIGEST,
    Choice,
    FileName,
    Flag,
    Integer,
    ListOf,
    MapOf,
    Maybe,
    MismatchError,
    Number,
    Plain,
    Record,
    Text,
    check_options,
    option,
)
from tests.kit.strategies import HOSTILE, damaged, values

KINDS = [
    Flag(),
    Integer(),
    Integer(0, 7),
    Number(),
    Number(0, 1),
    Number(above=0),
    Number(0, below=1),
    Number(finite=False),
    Text(),
    Text(12, 1),
    DIGEST,
    FileName(),
    FileName(".tar"),
    Choice("a", "b", ""),
    Maybe(Integer(0)),
    ListOf(Integer(0, 9), 3, rising=True),
    ListOf(FileName(".tar"), distinct=True),
    MapOf(Number(0)),
    Plain(),
    Record({"shard": FileName(".tar"), "samples": Integer(1)}, {"note": Text()}),
    Record({"a": ListOf(Record({"b": Maybe(DIGEST)}, extra=None))}, extra=None),
]


def refusal(kind, value) -> str:
    """What is said of a value; "" if it is taken."""
    try:
        kind.check(value, "file")
    except MismatchError as error:
        return str(error)
    return ""


@settings(max_examples=40)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.says()[:40])
@given(data=st.data())
def test_good_values_are_taken_and_damaged_ones_taken_or_refused_in_one_line(kind, data):
    value = data.draw(values(kind))
    assert kind.check(value) == value or value != value
    for wrong in (data.draw(damaged(kind)), *HOSTILE):
        line = refusal(kind, wrong)
        assert line.isprintable()
        assert len(line) < 400


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Flag(), 1),
        (Integer(0, 7), 8),
        (Integer(0, 7), -1),
        (Integer(), True),
        (Integer(), 1.0),
        (Integer(), 2**64),
        (Number(0, 1), math.nan),
        (Number(), math.inf),
        (Number(), 10**400),
        (Number(finite=False), 10**400),
        (Number(above=0), 0.0),
        (Number(below=1), 1),
        (Number(), "0.5"),
        (Text(), "\ud800"),
        (Text(3), "four"),
        (DIGEST, "0" * 63),
        (DIGEST, "0" * 63 + "G"),
        (DIGEST, "0" * 64 + "\n"),
        (FileName(), "../x"),
        (FileName(), "/x"),
        (FileName(), "a/b"),
        (FileName(), "a\\b"),
        (FileName(), ".."),
        (FileName(), ""),
        (FileName(), "a\x00"),
        (FileName(), "a\n"),
        (FileName(), "é" * 128),
        (FileName(".tar"), "x.zip"),
        (FileName(".tar"), ".tar"),
        (Choice("a"), "b"),
        (Choice(1), True),
        (Maybe(Integer(0)), -1),
        (ListOf(Integer(), 2), [1, 2, 3]),
        (ListOf(Integer(), distinct=True), [1, 1]),
        (ListOf(Integer(), rising=True), [2, 1]),
        (ListOf(Integer()), "12"),
        (MapOf(Integer()), {"a": "b"}),
        (MapOf(Integer()), {1: 1}),
        (Record({"a": Integer()}), {}),
        (Record({}, extra=None), {"a": 1}),
        (Record({}), {"a": "\ud800"}),
        (Plain(2), [[[]]]),
        (Plain(), object()),
    ],
)
def test_what_is_refused(kind, wrong):
    with pytest.raises(MismatchError):
        kind.check(wrong)


def test_the_place_is_named_and_what_stands_there_is_escaped():
    kind = Record({"shards": ListOf(Record({"sha256": DIGEST}))})
    with pytest.raises(MismatchError) as error:
        kind.check({"shards": [{"sha256": "0" * 64}, {"sha256": "\x1b[2J"}]})
    assert str(error.value) == r"shards[1].sha256: '\x1b[2J' is not 64 hex digits (a SHA-256)"


@dataclass
class Inner:
    rate: float = option(0.1, Number(0, 1))
    on: bool = True


@dataclass
class Outer:
    steps: int = option(5, Integer(1))
    sizes: list[int] = option([1, 2], ListOf(Integer(1)))
    inner: Inner = field(default_factory=Inner)
    views: dict[str, Inner] = field(default_factory=lambda: {"large": Inner()})


def test_options_are_checked_at_every_depth_by_their_dotted_keys():
    check_options(Outer())
    for wrong, line in [
        (Outer(steps=0), "steps: 0 is not a whole number, 1 or more"),
        (Outer(sizes=[1, 0]), "sizes[1]: 0 is not a whole number, 1 or more"),
        (Outer(inner=Inner(rate=2)), "inner.rate: 2 is not a number from 0 to 1"),
        (Outer(inner=Inner(on=1)), "inner.on: 1 is not true or false"),
        (
            Outer(views={"large": Inner(math.nan)}),
            "views.large.rate: nan is not a number from 0 to 1",
        ),
    ]:
        with pytest.raises(InputError) as error:
            check_options(wrong)
        assert str(error.value) == line


def test_defaults_are_copied():
    first, second = Outer(), Outer()
    first.sizes.append(3)
    assert second.sizes == [1, 2]
