"""A recipe that trains in seconds, and what is read from its runs."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from seer import distributed
from tests.kit import networks  # noqa: F401  # whose backbone `tiny_recipe` names

TINY = """
steps: 5
batch_size: 8
seed: 3
# Residual branches start at zero, else each step multiplies rounding errors a hundredfold.
backbone: {name: regnety_002, stem_stride: 1, zero_init_residual: true}
method: {name: swav, head: [32, 16], prototypes: 12, freeze: 1}
views:
  large: {size: 24, count: 2}
  small: {size: 16, count: 2}
optim: {weight_decay: 1.0e-4, larc_trust: 0.02}
schedule: {peak: 0.1, final: 0.01, start: 0.05, warmup: 2}
loader: {workers: 0}
checkpoint: {every: 100}
log: {every: 1, tensorboard: false}
"""

# One resolution, where it does not matter that there may be several.
SMALL = ["views.large.size=16", "views.small.count=0"]


def tiny_recipe(folder: Path) -> str:
    """The path of that recipe with a backbone that only the tests, and what they fork, know."""
    path = folder / "tiny.yaml"
    path.write_text(TINY.replace("regnety_002", "regnety_tiny"))
    return str(path)


def in_turn(run: Callable[[Any], Any], configs: Sequence[Any]) -> list[Any]:
    """What one world makes of several configurations, the last of which it leaves itself: its
    processes are started once.
    """
    leave = distributed.shutdown
    distributed.shutdown = lambda: None
    results = [run(config) for config in configs[:-1]]
    distributed.shutdown = leave
    return [*results, run(configs[-1])]


def rows(run_dir: Path) -> list[dict]:
    """The rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]


def losses(run_dir: Path) -> list[float]:
    """The loss of every step, each step exactly once and in order."""
    steps = rows(run_dir)
    assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))
    return [row["loss"] for row in steps]


def losses_by_name(run_dir: Path) -> list[dict]:
    """The losses of every step, each part of them by its name."""
    return [{k: v for k, v in row.items() if k.startswith("loss")} for row in rows(run_dir)]
