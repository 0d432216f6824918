import pytest
from hypothesis import given
from hypothesis import strategies as st

from seer.errors import InputError
from seer.steps import whole_steps


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 10**9))
def test_a_share_is_rounded_to_the_nearest_step_of_the_run(share, total):
    steps = whole_steps(share, total, "a")
    assert 0 <= steps <= total
    assert abs(steps - share * total) <= 0.5


@given(st.integers(0, 10**9), st.integers(1, 10**9), st.sampled_from([int, float]))
def test_steps_stand_as_they_are_however_long_the_run(steps, total, kind):
    assert whole_steps(kind(steps), total, "a") == steps


@pytest.mark.parametrize("given_value", [-1, -0.5, float("nan"), float("inf"), 1.5, 100.25])
def test_neither_steps_nor_a_share(given_value):
    with pytest.raises(InputError, match=r"method.freeze: .*share of the run below 1"):
        whole_steps(given_value, 100, "method.freeze")
