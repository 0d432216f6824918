"""The engine's steps with `parallel.compile`, and how long it takes to compile them."""

import time
from collections.abc import Iterator
from typing import Any

from run import Options
from step import CASES, measured

RESNET, REGNETY_032, *_, REGNETY_160, _ = CASES
CHOSEN = [
    (RESNET, "bf16", "true"),
    (REGNETY_032, "bf16", "true"),
    (RESNET, "fp16", "true"),
    (REGNETY_032, "fp16", "false"),
    (REGNETY_160, "fp16", "false"),
]
ENOUGH = 15  # seconds without which none of them ends: what is under way at the end is lost


def rows(options: Options) -> Iterator[dict[str, Any]]:
    end = time.monotonic() + options.seconds
    for case, precision, channels_last in CHOSEN[:1] if options.small else CHOSEN:
        if time.monotonic() > end - ENOUGH:
            return
        overrides = [
            "parallel.compile=true",
            f"precision={precision}",
            f"parallel.channels_last={channels_last}",
        ]
        name = f"{precision} {'channels last' if channels_last == 'true' else 'contiguous'}"
        began = time.perf_counter()
        row = measured(case, f"{name} compiled", overrides, options)
        yield row | {"with_compiling_s": time.perf_counter() - began}
