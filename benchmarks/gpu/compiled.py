"""The engine's steps with `parallel.compile`, and how long the first of them takes."""

import time
from collections.abc import Iterator
from typing import Any

from run import Options
from step import CASES, config_of, measured, steps_of

# The faster order of each in the stage `step` is not known here: both of the first, then the usual.
CHOSEN = [
    (CASES[0], "channels_last=true"),
    (CASES[1], "channels_last=true"),
    (CASES[1], "channels_last=false"),
    (CASES[0], "channels_last=false"),
    (CASES[4], "channels_last=true"),
]


def rows(options: Options) -> Iterator[dict[str, Any]]:
    end = time.monotonic() + options.seconds
    for case, order in CHOSEN[:1] if options.small else CHOSEN:
        if time.monotonic() > end - 20:
            return  # what is under way when the time is over is lost
        overrides = ["parallel.compile=true", f"parallel.{order}"]
        began = time.perf_counter()
        steps_of(config_of(case, [*overrides, "steps=1"], options), options)
        first = time.perf_counter() - began
        yield measured(case, f"compiled, {order}", overrides, options) | {"first_s": first}
