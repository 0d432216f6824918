import dataclasses
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seer.engine.schedule import SCHEDULES, ScheduleConfig, describe, effective, value
from seer.errors import InputError
from seer.schema import check_options


def test_cosine_with_warmup_at_known_points():
    config = ScheduleConfig("cosine", peak=9.6, start=0.15, final=0.0096, warmup=8000)
    assert value(config, 0, 122_070) == 0.15
    assert value(config, 4000, 122_070) == pytest.approx((0.15 + 9.6) / 2, rel=1e-12)
    assert value(config, 8000, 122_070) == 9.6
    middle = (8000 + 122_070) // 2
    assert value(config, middle, 122_070) == pytest.approx((9.6 + 0.0096) / 2, rel=1e-9)
    assert value(config, 122_070, 122_070) == 0.0096


def test_cosine_without_warmup_is_torchs():
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.6)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=0.0006)
    config = ScheduleConfig(peak=0.6, final=0.0006)
    for step in range(50):
        assert value(config, step, 50) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_constant_holds_after_warmup():
    config = ScheduleConfig("constant", peak=2.0, warmup=4)
    assert [value(config, s, 8) for s in range(9)] == [0.0, 0.5, 1.0, 1.5, 2, 2, 2, 2, 2]


def test_step_falls_at_milestones():
    config = ScheduleConfig("step", peak=1.0, milestones=[0.25, 0.5], gamma=0.1)
    values = [value(config, s, 8) for s in range(8)]
    assert values == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01])


def test_seers_restart_has_its_published_corners():
    config = ScheduleConfig(
        "restarts",
        4.8,
        start=0.3,
        final=0.0048,
        warmup=100,
        milestones=[0.55],
        gamma=2.114 / 4.8,
        rewarm=0.1,
    )
    assert value(config, 0, 1000) == 0.3
    assert value(config, 100, 1000) == 4.8
    assert value(config, 549, 1000) == pytest.approx(0.0048, abs=1e-4)
    assert value(config, 550, 1000) == pytest.approx(0.0048, abs=1e-9)
    assert value(config, 600, 1000) == pytest.approx((0.0048 + 2.114) / 2, rel=1e-6)
    assert value(config, 650, 1000) == pytest.approx(2.114, rel=1e-9)
    assert value(config, 1000, 1000) == 0.0048


def test_restarts_without_rewarm_jump_back():
    config = ScheduleConfig("restarts", peak=1.0, final=0.0, milestones=[0.5])
    assert value(config, 50, 100) == 1.0
    assert value(config, 75, 100) == pytest.approx(0.5)
    assert value(config, 49, 100) < 0.002


def test_poly_is_a_power_of_what_is_left():
    config = ScheduleConfig("poly", peak=2.0, final=0.5, gamma=0.9, warmup=20)
    for step in (20, 40, 99, 100):
        left = (100 - step) / 80
        assert value(config, step, 100) == pytest.approx(0.5 + 1.5 * left**0.9)


def test_waves_go_down_and_up_again():
    config = ScheduleConfig("waves", peak=1.0, final=0.1, milestones=[0.5])
    assert [value(config, s, 8) for s in (0, 2, 4, 6, 8)] == pytest.approx(
        [1.0, 0.1, 1.0, 0.1, 1.0]
    )


def test_inverse_is_the_rate_of_domain_adaptation():
    """0.01 · (1 + 1e-4 · step)^-0.75 over 50,000 steps, as MME's code has it."""
    config = ScheduleConfig("inverse", peak=0.01, gamma=5.0)
    for step in (0, 10_000, 50_000):
        assert value(config, step, 50_000) == pytest.approx(0.01 * (1 + 1e-4 * step) ** -0.75)


configs = st.builds(
    ScheduleConfig,
    name=st.sampled_from(sorted(SCHEDULES)),
    peak=st.floats(0.01, 10),
    start=st.floats(0, 0.01),
    final=st.floats(0, 0.01),
    warmup=st.integers(0, 50),
    milestones=st.lists(st.floats(0.51, 0.99), max_size=3, unique=True).map(sorted),
    gamma=st.floats(0.1, 1),
    rewarm=st.floats(0, 0.2),
)


@given(configs, st.integers(100, 5000), st.data())
def test_every_schedule_stays_between_its_ends_and_warms_up_exactly(config, total, data):
    step = data.draw(st.integers(0, total))
    low = min(config.start, config.final, config.peak * config.gamma ** len(config.milestones))
    assert low - 1e-12 <= value(config, step, total) <= config.peak + 1e-12
    assert value(config, config.warmup, total) == config.peak
    if config.warmup:
        assert value(config, 0, total) == config.start


@given(st.integers(0, 40), st.integers(100, 2000))
def test_cosine_never_rises_after_its_warmup(warmup, total):
    config = ScheduleConfig(warmup=warmup)
    values = [value(config, s, total) for s in range(warmup, total + 1)]
    assert all(a >= b for a, b in itertools.pairwise(values))
    assert math.isclose(values[-1], config.final)


def test_rates_are_for_so_many_images():
    config = ScheduleConfig(peak=0.6, start=0.1, final=0.0006, per=256, warmup=0.05)
    followed = effective(config, 2048, 1000)
    assert (followed.peak, followed.start, followed.final) == pytest.approx(
        (4.8, 0.8, 0.0048), rel=1e-12
    )
    assert (followed.per, followed.warmup) == (0, 50)
    assert (config.peak, config.per) == (0.6, 256)  # what was given stays
    assert (
        describe(config, 2048, 1000)
        == "rate 0.6 for 256 images → 4.8 for 2,048; warm-up 50 of 1,000 steps"
    )
    assert describe(ScheduleConfig(peak=0.006), 64, 10) == (
        "rate 0.006, whatever the batch (64 images); warm-up 0 of 10 steps"
    )


batches = st.integers(1, 65536)


@given(configs, batches, st.integers(100, 5000))
def test_rates_as_they_stand_are_followed_as_given(config, batch_size, total):
    """Also: runs from before there was `per`."""
    assert effective(config, batch_size, total) == config


@given(configs, batches, st.integers(1, 1024), st.integers(100, 5000), st.data())
def test_a_rate_grows_in_proportion_to_the_batch(config, batch_size, per, total, data):
    config = dataclasses.replace(config, per=per)
    step = data.draw(st.integers(0, total))
    followed = effective(config, batch_size, total)
    assert effective(followed, batch_size, total) == followed
    as_given = value(dataclasses.replace(config, per=0), step, total)
    assert value(followed, step, total) == pytest.approx(
        as_given * batch_size / per, rel=1e-9, abs=1e-12
    )


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 10**6))
def test_a_warmup_that_is_a_share_fits_every_run(share, total):
    config = ScheduleConfig(warmup=share)
    followed = effective(config, 256, total)
    assert abs(followed.warmup - share * total) <= 0.5
    assert value(config, total // 2, total) == value(followed, total // 2, total)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ScheduleConfig(warmup=-5), r"schedule\.warmup: -5 is not a number of whole steps"),
        (ScheduleConfig(warmup=math.nan), r"schedule\.warmup: nan is not"),
        (ScheduleConfig(warmup=2.5), r"schedule\.warmup: 2\.5 is not a number of whole steps"),
    ],
)
def test_what_no_run_can_follow(config, message):
    with pytest.raises(InputError, match=message):
        effective(config, 8, 10)
    with pytest.raises(InputError, match=r"schedule\.per: -1 is not a whole number from 0"):
        check_options(ScheduleConfig(per=-1), "schedule")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ScheduleConfig("cosin"), "did you mean 'cosine'"),
        (ScheduleConfig(warmup=11), "warmup: 11 steps, but the run has 10"),
        (ScheduleConfig("step", milestones=[0.5, 0.4]), "must increase"),
        (ScheduleConfig("step", milestones=[1.0]), "must increase"),
        (ScheduleConfig("restarts", warmup=5, milestones=[0.4]), "must increase"),
    ],
)
def test_a_bad_schedule_is_the_users_error(config, message):
    with pytest.raises(InputError, match=message):
        value(config, 0, 10)


@pytest.mark.parametrize(
    "wrong", [{"peak": 1e29, "gamma": 100.0}, {"gamma": 1e30, "milestones": [0.1] * 99 + [0.9]}]
)
def test_a_rate_that_no_step_could_take(wrong):
    with pytest.raises(InputError, match=r"schedule\.gamma=.*the rate would rise to 1e"):
        value(ScheduleConfig("step", **({"milestones": [0.3]} | wrong)), 0, 10)
    assert value(ScheduleConfig("step", peak=0.5, gamma=1e30, milestones=[0.3]), 9, 10) == 0.5e30
