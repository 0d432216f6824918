"""The table of docs/speedrun.md: a class's recipe with every method, several seeds each.

    python benchmarks/speedrun.py CIFAR10 [KEY=VALUE ...] [--recipe gpu] [--seeds 3] [--json FILE]

CIFAR10 is a folder of `train/CLASS/*` and `test/CLASS/*` images, or of CIFAR-10's own files. Nothing
but the method differs between rows, and BYOL's rate; KEY=VALUE changes the recipe for all of them.
"""

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import arguments, figure, report
from small_methods import PAIRS, options_of, rate_of

from seer.methods import METHOD_CONFIGS
from seer.processes import spawn
from seer.speedrun.entry import Speedrun, load_config
from seer.speedrun.run import describe, run

# Distillation has a teacher from elsewhere.
METHODS = [name for name in METHOD_CONFIGS if name != "distill"]


def entry(config: Speedrun, method: str, seed: int) -> Speedrun:
    """The recipe with another method and seed. A method that takes two crops of an image gets more
    images instead, so that a step has as many crops.
    """
    config = replace(config, seed=seed)
    if method == config.method.name:
        return config
    options = METHOD_CONFIGS[method](**options_of(method, config.method.head[0]))
    large = config.views["large"]
    batch_size = config.batch_size
    if method in PAIRS:
        batch_size = batch_size * large.count // 2
        large = replace(large, count=2)
    views = config.views | {"large": large}
    schedule = replace(config.schedule, peak=rate_of(method, config.schedule.peak))
    return replace(config, method=options, views=views, batch_size=batch_size, schedule=schedule)


def row_of(config: Speedrun, nproc: int) -> dict[str, Any]:
    return run(config) if nproc == 1 else spawn(run, nproc, config, device=config.device)[0]


def line(rows: list[dict[str, Any]]) -> str:
    """A method's line of the table: the mean over seeds, and their standard deviation."""
    scores = [100 * row["knn"] for row in rows]
    spread = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
    first = rows[0]
    cells = [
        first["method"],
        first["backbone"],
        f"{statistics.mean(scores):.2f}{spread}",
        str(len(rows)),
        f"{max(row['seconds'] for row in rows):.1f}",
        f"{statistics.mean(row['epochs'] for row in rows):.1f}",
        f"{statistics.mean(row['images_per_second'] for row in rows):,.0f}",
        first["card"],
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--recipe", default="gpu", help="cpu, gpu or a YAML file")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--nproc", type=int, default=1)
    options = parser.parse_args()
    config = load_config(options.recipe, [f"data={options.data}", *options.overrides])
    table = {}
    for method in options.methods:
        rows = []
        for seed in range(options.seeds):
            rows.append(row_of(entry(config, method, seed), options.nproc))
            print(f"{method}, seed {seed}: {describe(rows[-1])}", flush=True)
        table[method] = rows
    print("\n| method | network | kNN, % | seeds | seconds | epochs | images/s | on |")
    print("|---|---|---|---|---|---|---|---|")
    print(*map(line, table.values()), sep="\n")
    means = {m: statistics.mean(100 * row["knn"] for row in rows) for m, rows in table.items()}
    best = max(means, key=means.__getitem__)
    name = f"kNN top-1 after {config.minutes:g} minutes of {best}, recipe {config.name}"
    report([figure(name, "%", means.pop(best), means)], options.json)


if __name__ == "__main__":
    main()
