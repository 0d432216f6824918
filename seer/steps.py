"""Places in a run, given as steps or as a share of the run."""

import math

from seer.errors import InputError


def whole_steps(given: float, total: int, key: str) -> int:
    """A place in a run of `total` steps, in whole steps.

    Args:
        given: 1 and more counts steps; less is a share of the run, rounded to the nearest step.
        key: the option's name, for the message.

    Raises:
        InputError: a negative number, one that is not finite, or a fraction of a step.
    """
    if not (math.isfinite(given) and given >= 0):
        raise InputError(f"{key}={given}: must be 0, a share of the run below 1, or a number of steps")
    if given < 1:
        return round(given * total)
    if given != int(given):
        raise InputError(f"{key}={given}: give whole steps, or a share of the run below 1")
    return int(given)
