import math
import shlex

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from seer.terminal import finite, homes_written_out


def test_homes_are_written_out_where_no_shell_did(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    words = shlex.split("eval knn --model=~/run '~/x' ~ --out '~/a b' data=~/x x~ --key=a~/b --x=~ -- --dir=~/y")
    assert homes_written_out(words) == shlex.split(
        "eval knn --model=/home/me/run /home/me/x /home/me --out '/home/me/a b' data=~/x x~ --key=a~/b --x=/home/me "
        "-- --dir=/home/me/y"
    )


@given(words=st.lists(st.text()))
def test_other_words_stay(words):
    others = [word for word in words if "~" not in word]
    assert homes_written_out(others) == others


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_no_option_is_nan(wrong):
    assert finite(2.5) == 2.5
    assert finite(None) is None
    with pytest.raises(typer.BadParameter, match="not a finite number"):
        finite(wrong)
