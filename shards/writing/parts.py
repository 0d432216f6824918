"""Which shards of a build are this process's: several processes share one build and need nobody to
coordinate them.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seer.errors import InputError

SLURM = "slurm"  # asks for the part that SLURM's job array gives this task


@dataclass(frozen=True)
class Part:
    """Part `number` of `of`, counted from 1."""

    number: int
    of: int

    @property
    def name(self) -> str:
        """For the name of its lock."""
        return f"{self.number}-of-{self.of}"

    def share(self, shards: Sequence[str]) -> list[str]:
        """Its shards: every `of`-th one, so that all parts advance through the build together."""
        return list(shards[self.number - 1 :: self.of])


def parse(text: str, environment: Mapping[str, str] = os.environ) -> Part | None:
    """The part that `--part` names: `I/N`, or `slurm` for what the job array says; None for "".

    Raises InputError.
    """
    if not text:
        return None
    if text == SLURM:
        return _of_array(environment)
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"--part {text}: write I/N with I from 1 to N, or {SLURM} in a job array")
    return Part(int(found[1]), int(found[2]))


def _of_array(environment: Mapping[str, str]) -> Part:
    try:
        place, first, count = (
            int(environment[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "MIN", "COUNT")
        )
        step = int(environment.get("SLURM_ARRAY_TASK_STEP", 1))
    except (KeyError, ValueError) as error:
        raise InputError(
            f"--part {SLURM}: this is no task of a job array ({error} is not set); write I/N"
        ) from None
    number = (place - first) // step + 1
    if not 1 <= number <= count or (place - first) % step:
        raise InputError(f"--part {SLURM}: the array's task ids are not evenly spaced; write I/N")
    return Part(number, count)
