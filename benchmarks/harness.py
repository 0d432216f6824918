"""What the benchmarks share: their output, and timing that is fair on a machine that other work
shares.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the option that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


def machine() -> str:
    """The processor and how many of its cores we may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores, torch {torch.__version__}"


def figure(name: str, unit: str, ours: float, peers: dict[str, float]) -> dict[str, Any]:
    """One figure in the form that all benchmarks write."""
    ratios = {peer: ours / value for peer, value in peers.items() if value}
    return {
        "figure": name,
        "unit": unit,
        "ours": ours,
        "peers": peers,
        "ratios": ratios,
        "machine": machine(),
    }


def report(figures: list[dict[str, Any]], path: Path | None) -> None:
    """Print the figures as a table, and write them where `--json` asked for it."""
    for entry in figures:
        print(f"\n{entry['figure']} ({entry['unit']})")
        print(f"  {'seer':28}{entry['ours']:12.4g}")
        for peer, value in entry["peers"].items():
            ratio = entry["ratios"].get(peer)
            print(f"  {peer:28}{value:12.4g}" + (f"   seer / peer = {ratio:.2f}" if ratio else ""))
    print(f"\n{machine()}")
    if path:
        path.write_text(json.dumps(figures, indent=2) + "\n")


def interleaved(
    contestants: dict[str, Callable[[], Any]],
    rounds: int,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Seconds of the best round of each contestant; with `clock=time.process_time`, of all its
    threads together.

    All take turns within each round, so that a busy minute of the machine hits all of them; the
    best round is the one least disturbed.
    """
    best = dict.fromkeys(contestants, float("inf"))
    for i in range(warmup + rounds):
        for name, run in contestants.items():
            began = clock()
            run()
            if i >= warmup:
                best[name] = min(best[name], clock() - began)
    return best
