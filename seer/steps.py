"""Places in a run, given as steps or as a share of the run."""

from dataclasses import dataclass
from typing import Any

from seer.errors import InputError
from seer.schema import COUNT, MismatchError, Number, refuse


@dataclass(frozen=True)
class Place:
    """0, a share of the run below 1, or a number of steps."""

    def check(self, value: Any, where: str = "") -> float:
        try:
            number = Number(0).check(value)
            if number >= 1:
                COUNT.check(int(number) if number == int(number) else number)
        except MismatchError:
            raise refuse(self, value, where) from None
        return value

    def says(self) -> str:
        return "a number of whole steps, or a share of the run below 1"


PLACE = Place()


def whole_steps(given: float, total: int, key: str) -> int:
    """A place in a run of `total` steps, in whole steps.

    Args:
        given: 1 and more counts steps; less is a share of the run, rounded to the nearest step.
        key: the option's name, for the message.

    Raises:
        InputError: neither.
    """
    try:
        PLACE.check(given, key)
    except MismatchError as error:
        raise InputError(str(error)) from None
    return round(given * total) if given < 1 else int(given)
