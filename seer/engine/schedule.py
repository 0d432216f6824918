"""Schedules as pure functions: configuration, step, number of steps → value.

What a run follows is `effective`, once: rates for its own batch, and a warm-up in steps. Nothing is
inferred elsewhere.

Steps count from 0, so a run of `total` steps asks for 0 … total − 1, and `value(config, total,
total)` is where the schedule would arrive: `final`. After a linear warm-up of `warmup` steps (from
`start`, reaching `peak` at step `warmup`), each schedule sees only how far the rest of the run has
come, `where` in [0, 1].
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from seer.errors import InputError, nearest
from seer.schema import COUNT, RATE, SHARE, Choice, ListOf, Number, option
from seer.steps import PLACE, whole_steps


@dataclass
class ScheduleConfig:
    """A schedule of the learning rate (or of anything else that follows a curve).

    Attributes:
        name: `cosine`, `constant`, `step`, `poly`, `restarts`, `waves` or `inverse`.
        peak: the value (of the learning rate) after the warm-up.
        start: the value at step 0, if there is a warm-up.
        final: the value at the end (`cosine`, `poly`, `restarts`, `waves`).
        per: `peak`, `start` and `final` are for so many images, and grow in proportion to `batch_size` (Goyal et al.
            2017, arXiv:1706.02677, section 2.1); 0 takes them as they stand, whatever the batch.
        warmup: steps of the linear warm-up, or below 1 its share of the run; 0 starts at `peak`.
        milestones: shares of the whole run, increasing in (0, 1), at which `step` falls and the others start anew.
        gamma: `step`, `restarts`, `waves`: the factor on the value (on the peak) at each milestone; `poly`: the power
            of the share of the run that is left (Chen et al. 2018, arXiv:1606.00915, section 4.1); `inverse`: the peak
            is divided by (1 + gamma · p)^0.75, p the share of the run after the warm-up.
        rewarm: share of the whole run over which `restarts` climbs linearly to each new peak; 0 jumps.
    """

    name: str = option(
        "cosine", Choice("cosine", "constant", "step", "poly", "restarts", "waves", "inverse")
    )
    peak: float = option(0.6, RATE)
    start: float = option(0.0, RATE)
    final: float = option(0.0006, RATE)
    per: int = option(0, COUNT)
    warmup: int | float = option(0, PLACE)
    milestones: list[float] = option([], ListOf(Number(above=0, below=1), 100, rising=True))
    gamma: float = option(1.0, RATE)
    rewarm: float = option(0.0, SHARE)


def effective(config: ScheduleConfig, batch_size: int, steps: int) -> ScheduleConfig:
    """The schedule that a run of `steps` steps follows with `batch_size` images a step, over all
    processes.

    Its rates stand as they are (`per` is 0) and its warm-up is in steps, so it is its own effective
    schedule.

    Raises:
        InputError: the warm-up is neither steps nor a share.
    """
    warmup = whole_steps(config.warmup, steps, "schedule.warmup")
    peak, start, final = (
        _scaled(rate, config.per, batch_size) for rate in (config.peak, config.start, config.final)
    )
    return replace(config, peak=peak, start=start, final=final, per=0, warmup=warmup)


def describe(config: ScheduleConfig, batch_size: int, steps: int) -> str:
    """What the rate and its warm-up become in a run, in one line."""
    followed = effective(config, batch_size, steps)
    if config.per:
        rate = (
            f"rate {config.peak:g} for {config.per:,} images → {followed.peak:g} for {batch_size:,}"
        )
    else:
        rate = f"rate {followed.peak:g}, whatever the batch ({batch_size:,} images)"
    return f"{rate}; warm-up {followed.warmup:,} of {steps:,} steps"


def peak_for(config: ScheduleConfig, batch_size: int) -> float:
    """The rate after the warm-up with this batch."""
    return _scaled(config.peak, config.per, batch_size)


def _scaled(rate: float, per: int, batch_size: int) -> float:
    return rate * batch_size / per if per else rate


def value(config: ScheduleConfig, step: int, total: int) -> float:
    """The value at `step` of `total` steps, of a schedule whose rates are for the run's own batch
    (`effective`).

    Raises:
        InputError: the schedule is unknown, its milestones do not increase, or its warm-up is longer than the run.
    """
    assert not config.per, "rates for another batch: take the effective schedule"
    warmup = whole_steps(config.warmup, total, "schedule.warmup")
    _check(config, warmup, total)
    if step < warmup:
        return config.start + (config.peak - config.start) * step / warmup
    return SCHEDULES[config.name](config, min(1.0, step / total), warmup / total)


def cosine(high: float, low: float, part: float) -> float:
    """Half a cosine from `high` (part 0) to `low` (part 1); both ends exact."""
    if part <= 0 or part >= 1:
        return high if part <= 0 else low
    return low + (high - low) * (1 + math.cos(math.pi * part)) / 2


def _constant(config: ScheduleConfig, where: float, warm: float) -> float:
    return config.peak


def _cosine(config: ScheduleConfig, where: float, warm: float) -> float:
    return cosine(config.peak, config.final, _part(where, warm, 1.0))


def _step(config: ScheduleConfig, where: float, warm: float) -> float:
    return config.peak * config.gamma ** sum(where >= m for m in config.milestones)


def _poly(config: ScheduleConfig, where: float, warm: float) -> float:
    left = 1 - _part(where, warm, 1.0)
    return config.final + (config.peak - config.final) * left**config.gamma


def _restarts(config: ScheduleConfig, where: float, warm: float) -> float:
    """Loshchilov & Hutter's warm restarts (SGDR, 2016), each climbing over `rewarm` to a peak
    `gamma` times the last.

    SEER's half-warm-up variant (4.8 → 0.0048, → 2.114, → 0.0048 over .1, .45, .1, .35 of the run)
    is `milestones=[0.55] rewarm=0.1 gamma=0.44` with a warm-up of a tenth of the steps.
    """
    cycle, begin, end = _cycle(config, where, warm)
    peak = config.peak * config.gamma**cycle
    climb = config.rewarm if cycle else 0.0
    top = begin + climb
    if where < top:
        height = peak - config.final
        return config.final + height * (where - begin) / climb
    descended = _part(where, top, end)
    return cosine(peak, config.final, descended)


def _waves(config: ScheduleConfig, where: float, warm: float) -> float:
    """Whole cosine waves: down to `final` in the middle of each cycle and back up to its peak,
    without a jump.
    """
    cycle, begin, end = _cycle(config, where, warm)
    peak = config.peak * config.gamma**cycle
    return cosine(peak, config.final, 1 - abs(1 - 2 * _part(where, begin, end)))


def _inverse(config: ScheduleConfig, where: float, warm: float) -> float:
    """Ganin & Lempitsky's (2015, arXiv:1409.7495), which domain adaptation has kept."""
    return config.peak / (1 + config.gamma * _part(where, warm, 1.0)) ** 0.75


SCHEDULES: dict[str, Callable[[ScheduleConfig, float, float], float]] = {
    "cosine": _cosine,
    "constant": _constant,
    "step": _step,
    "poly": _poly,
    "restarts": _restarts,
    "waves": _waves,
    "inverse": _inverse,
}


def _part(where: float, begin: float, end: float) -> float:
    """How far `where` is from `begin` to `end`, in [0, 1]."""
    return min(1.0, (where - begin) / (end - begin)) if end > begin else 1.0


def _cycle(config: ScheduleConfig, where: float, warm: float) -> tuple[int, float, float]:
    """Which cycle between milestones `where` lies in, and that cycle's ends."""
    bounds = [warm, *config.milestones, 1.0]
    cycle = sum(where >= m for m in config.milestones)
    return cycle, bounds[cycle], bounds[cycle + 1]


def _check(config: ScheduleConfig, warmup: int, total: int) -> None:
    if config.name not in SCHEDULES:
        raise InputError(
            f"schedule.name: '{config.name}' is unknown{nearest(config.name, SCHEDULES)}"
        )
    if warmup > total:
        raise InputError(
            f"schedule.warmup: {warmup} steps, but the run has {total}; give fewer, or a share such as 0.05"
        )
    exponent = math.log10(max(config.peak, 1e-300)) + len(config.milestones) * math.log10(
        max(config.gamma, 1.0)
    )
    if exponent > math.log10(RATE.high):
        raise InputError(
            f"schedule.gamma={config.gamma:g}: the rate would rise to 1e{exponent:.0f}; lower it or the peak"
        )
    bounds = [warmup / total, *config.milestones, 1.0]
    if config.milestones and any(a >= b for a, b in itertools.pairwise(bounds)):
        raise InputError(
            f"schedule.milestones: {config.milestones} must increase between the end of the warm-up "
            f"({bounds[0]:g} of the run) and 1"
        )
