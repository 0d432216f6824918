"""What looking after a run costs, as a share of its steps: the checks of its health, and its log.

    python benchmarks/health.py [--backbone regnety_016 --batch 8 --large 96 --small 48 --prototypes
    3000] [--json FILE]

Steps are SwAV's, as `seer.engine.loop` makes them. Each part is timed by itself on the state of
such a step: it is too small to be told from the noise of whole steps. Health: what every step is
checked by (statistics kept, verdict, median of the losses) and, over `health.every`, a measurement.
Logging: every step's call and, over `log.every`, the method's metrics and a row with TensorBoard.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from harness import arguments, figure, report
from step import STEP, random_views, seer_step, swav

from seer.backbones import build
from seer.distributed import World
from seer.engine.batchnorm import Statistics
from seer.engine.health import Health, HealthConfig
from seer.engine.learner import Output
from seer.engine.metrics import LogConfig, RunLog
from seer.engine.preempt import Verdict, agree
from seer.methods.base import Method
from seer.methods.swav import assignment_metrics


def seconds_of(action: Callable[[int], object], repeats: int) -> float:
    """Of one call, on average over the quietest of five series; calls are counted from 1."""
    best, number = float("inf"), 0
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(repeats):
            number += 1
            action(number)
        best = min(best, (time.perf_counter() - began) / repeats)
    return best


def health_seconds(method: Method, output: Output, folder: Path) -> float:
    """Of the checks, per step."""
    config = HealthConfig(grace=0)
    health, statistics = (
        Health(config, folder, World(), symptoms=method.symptoms),
        Statistics(method),
    )
    loss, norm = output.loss.detach(), torch.ones(())
    values = {name: float(value) for name, value in output.metrics.items()} | {"loss": float(loss)}
    assert output.embeddings is not None
    values |= {
        name: float(value)
        for name, value in health.measure(config.every, output.embeddings).items()
    }

    def check(number: int) -> None:
        statistics.keep()
        health.fault(number, agree(loss, norm), excused=False)

    def measure(number: int) -> None:
        health.measure(number * config.every, output.embeddings)
        health.judge(number * config.every, values, len(output.embeddings))

    for number in range(config.window):
        # The window is full from now on.
        health.fault(number, Verdict(True, False, float(loss)), excused=False)
    return seconds_of(check, 50) + seconds_of(measure, 5) / config.every


def logging_seconds(output: Output, prototypes: int, folder: Path) -> float:
    """Of the log, per step, at the default interval and with TensorBoard."""
    assert output.embeddings is not None
    assignments = torch.rand(2, len(output.embeddings), prototypes).softmax(-1)
    metrics = {"loss": output.loss.detach(), **output.metrics}

    def log_step(number: int) -> None:
        if log.due(number):
            metrics.update(assignment_metrics(assignments))
        log.step(
            number,
            metrics,
            {"samples": number, "lr": 0.1, "epoch": 0.0},
            number,
            0.01,
            0.5,
            {"read": 0.1},
        )

    with RunLog(folder, LogConfig(), World(), total_steps=10**6) as log:
        return seconds_of(log_step, 200)


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__)
    parser.add_argument("--backbone", default="regnety_016")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--large", type=int, default=96)
    parser.add_argument("--small", type=int, default=48)
    parser.add_argument("--prototypes", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    views = random_views(options.batch, {options.large: 2, options.small: 4})
    method = swav(build(options.backbone), options.prototypes)
    step = seer_step(method, views, "fp32")
    whole = seconds_of(lambda _: step(), max(1, options.rounds // 5))
    with torch.no_grad():
        output = method(views, STEP)
    with tempfile.TemporaryDirectory() as folder:
        parts = {
            "checks of health": health_seconds(method, output, Path(folder)),
            "logging": logging_seconds(output, options.prototypes, Path(folder)),
        }
    crops = f"2x{options.large}+4x{options.small}"
    about = (
        f"SwAV step of {1000 * whole:.0f} ms, {options.backbone}, batch {options.batch}, {crops}"
    )
    for name, seconds in parts.items():
        print(f"  {name:20}{1e6 * seconds:10.0f} µs a step", flush=True)
    report(
        [
            figure(f"{name}, {about}", "share of the step", s / whole, {})
            for name, s in parts.items()
        ],
        options.json,
    )


if __name__ == "__main__":
    main()
