"""Training a small network on the CPU beside other processes: images/s over threads and neighbours.

    python benchmarks/threads.py [--seconds 5] [--rounds 3] [--neighbours 0 1 2] [--json FILE]

Steps of `swav_small`'s network and views, 32 images each, in a process for each setting; these take
turns, each for so many seconds in each round, and the best round counts. A neighbour is a process
that computes and never waits. Where threads spin, torch is left as it is by itself: a thread that
has to wait for another keeps its core busy. `seer` lets them sleep, and takes a thread per core.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from harness import arguments, figure, report
from step import random_views, seer_step

from seer.pretrain.recipe import load_config
from seer.pretrain.rehearsal import build_method
from seer.start import wait_without_spinning

CORES = len(os.sched_getaffinity(0))
BATCH = 32
SETTINGS = {
    "seer": {},
    "1 thread": {"OMP_NUM_THREADS": "1"},
    f"{CORES} threads that spin": {"OMP_NUM_THREADS": str(CORES)},
}


def work() -> None:
    """For each line with a number on stdin, train for so many seconds and print images/s."""
    config = load_config("swav_small", ["data=."])
    crops = {view.size: view.count for view in config.views.values() if view.count}
    step = seer_step(build_method(config), random_views(BATCH, crops), "fp32")
    for _ in range(3):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        steps = 0
        while time.perf_counter() - began < float(line):
            step()
            steps += 1
        print(BATCH * steps / (time.perf_counter() - began), flush=True)


def start(setting: str) -> subprocess.Popen:
    """The process of a setting, once it is ready."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    if setting == "seer":  # as the command does; before torch is imported
        wait_without_spinning()
        env["OMP_WAIT_POLICY"] = os.environ["OMP_WAIT_POLICY"]
    process = subprocess.Popen(
        [sys.executable, __file__, "--work"],
        env=env | SETTINGS[setting],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    process.stdout.readline()
    return process


def rate(process: subprocess.Popen, seconds: float) -> float:
    """Images per second while it trains for so long."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute meanwhile."""
    command = [sys.executable, "-c", "while True: pass"]
    neighbours = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", action="store_true", help="be the process of a setting")
    options = parser.parse_args()
    if options.work:
        return work()
    processes = {setting: start(setting) for setting in SETTINGS}
    figures = []
    for count in options.neighbours:
        best = dict.fromkeys(SETTINGS, 0.0)
        with busy(count):
            for _ in range(options.rounds):
                for setting, process in processes.items():
                    best[setting] = max(best[setting], rate(process, options.seconds))
        load = os.getloadavg()[0]
        ours = best.pop("seer")
        title = f"swav_small beside {count} busy processes (load {load:.0f})"
        figures.append(figure(title, "images/s", ours, best))
        report(figures[-1:], None)
    for process in processes.values():
        with suppress(BrokenPipeError):
            process.communicate()
    return report(figures, options.json)


if __name__ == "__main__":
    main()
