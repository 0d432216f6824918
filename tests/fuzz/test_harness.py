"""The harness itself: what it must find, it finds."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seer.errors import InputError
from tests.kit.fuzzing import Hung, World, damaged_bytes, fuzz, trial


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "world")


def test_what_is_inside_may_change_and_one_line_may_be_said(world):
    def reader():
        (world.folder / "x").write_text("new")
        raise InputError("x is wrong; mend it")

    assert trial(world, reader) == "x is wrong; mend it"
    assert trial(world, lambda: None) == ""
    assert trial(world, world.folder.joinpath("x").unlink) == ""
    assert trial(world, world.folder.rmdir) == ""


def test_what_is_outside_may_not(world):
    above = world.folder.parent
    for touch in (
        (above / "x.tar").unlink,
        lambda: (world.root / "new").touch(),
        lambda: (above / "x").write_text("changed"),
        lambda: (world.root / "x").touch(),
        lambda: (above / "x.json").rename(above / "y.json"),
    ):
        with pytest.raises(AssertionError):
            trial(world, touch)


def test_tracebacks_hanging_and_greed_are_found(world):
    def greedy():
        assert len(bytearray(2**29)) == 2**29

    def insatiable():
        bytearray(2**36)

    def loud():
        error = InputError("one line")
        error.args = ("two\nlines",)  # which no `InputError` says by itself
        raise error

    for function, error in (
        (lambda: 1 / 0, ZeroDivisionError),
        (insatiable, MemoryError),
        (loud, AssertionError),
    ):
        with pytest.raises(error):
            trial(world, function)
    with pytest.raises(AssertionError, match="bytes of memory"):
        trial(world, greedy)
    with pytest.raises(Hung):
        trial(world, time.sleep, 60, seconds=0.2)


@fuzz(20)
@given(st.data())
def test_damaged_bytes_are_bytes(data):
    content = bytes(range(200))
    assert len(data.draw(damaged_bytes(content))) < 100_000
