"""The speedrun of the class `gpu`: CIFAR-10 without labels in three minutes, and kNN."""

import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from seer.quickstart.pictures import write_quickstart
from seer.speedrun.entry import load_config
from seer.speedrun.run import run

# Tiny, for machines without a GPU: the same ways in a few steps.
SMALL = [
    "minutes=0.5",
    "reserve=0",
    "batch_size=16",
    "every=1",
    "precision=fp32",
    "views.large.size=16",
    "backbone.name=regnetx_002",
    "parallel.compile=false",
]

AROUND = 30.0  # seconds that importing and decoding take


def rows(options: Any) -> Iterator[dict[str, Any]]:
    """One row: of CIFAR-10, in three minutes or what is left of them, or, where sizes are tiny, of any pictures."""
    data = options.data if options.small else options.cifar
    with tempfile.TemporaryDirectory() as folder:
        if data is None and options.small:
            data = Path(folder, "pictures")
            write_quickstart(data, size=32, train=4, test=1)
        if data is None:
            yield {"what": "speedrun", "skipped": "no images: give CIFAR-10 as class folders"}
            return
        minutes = min(3.0, (options.seconds - AROUND) / 60)
        overrides = [f"data={data}", f"device={options.device.type}", f"minutes={minutes:.2f}"]
        config = load_config("gpu", overrides + (SMALL if options.small else []))
        # Where sizes are tiny a second passes at each look, however busy the machine is.
        clock = count().__next__ if options.small else time.perf_counter
        yield {"what": "speedrun", **run(config, clock)}
