"""What `seer plan` predicts against what happens: memory and step time here, published runs
elsewhere.

    python benchmarks/plan.py [--only FSDP] [--json FILE]

Memory is the growth of a fresh process's resident set to its highest (VmHWM) over a few steps,
after a step of the same method on two tiny images has loaded what libraries load; of the rank that
needs most. glibc gives freed blocks back at once (MALLOC_MMAP_THRESHOLD_), as CUDA's allocator
would use them again. The prediction is the plan's sum without allowances.

Time is a step's CPU time, one thread to a rank, which other work on the machine disturbs least. It
is predicted by the efficiency that a run with half the batch has shown. The published runs are
predicted from each other: the efficiency is fitted to one and tried on the others. `scale` reads
off what a rank of 512 holds of SEER's two largest networks. `recipes` plans every recipe on the
hardware that its first lines name, and prints the table of docs/plan.md.
"""

import gc
import os
import statistics
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from harness import arguments, figure, report
from noise import train_on_noise

from seer import distributed
from seer.config import recipes
from seer.hardware import HARDWARE
from seer.methods import METHODS
from seer.planning.plan import Job
from seer.pretrain.recipe import Pretrain, load_config, published_hardware
from seer.processes import spawn

SMALL = [
    "data=.",
    "steps=4",
    "views.large.size=96",
    "views.small.size=48",
    "schedule.warmup=0",
    "optim.name=sgd",
]
SWAV = [
    *SMALL,
    "method.prototypes=3000",
    "views.small.count=4",
    "parallel.mode=none",
    "backbone.stem_stride=2",
]
CASES = {
    "RegNetY-1.6GF fp32": (1, [*SWAV, "backbone.name=regnety_016", "batch_size=16"]),
    "RegNetY-1.6GF bf16": (
        1,
        [*SWAV, "backbone.name=regnety_016", "batch_size=16", "precision=bf16"],
    ),
    "RegNetY-1.6GF checkpointed": (
        1,
        [
            *SWAV,
            "backbone.name=regnety_016",
            "batch_size=32",
            "parallel.checkpointing=[[2],[6],[9,17],[2]]",
        ],
    ),
    "ResNet-50 AdamW, batch in two": (
        1,
        [*SWAV, "backbone.name=resnet50", "batch_size=16", "accumulate=2", "optim.name=adamw"],
    ),
    "RegNetY-3.2GF DDP, 2 ranks": (
        2,
        [
            *SWAV,
            "backbone.name=regnety_032",
            "batch_size=16",
            "parallel.mode=ddp",
            "parallel.bn_group=0",
        ],
    ),
    "RegNetY-3.2GF FSDP, 2 ranks": (
        2,
        [
            *SWAV,
            "backbone.name=regnety_032",
            "batch_size=16",
            "parallel.mode=fsdp",
            "parallel.bn_group=0",
        ],
    ),
}


@dataclass(frozen=True)
class Published:
    """A run whose speed is published: a recipe under overrides, on so many GPUs, seconds per step."""

    name: str
    recipe: str
    overrides: tuple[str, ...]
    gpus: int
    gpu: str
    seconds: float
    source: str


IMAGENET = 1_281_167
SWAV = "github.com/facebookresearch/swav, README (times); arXiv:2006.09882 (V100-16GB)"
PUBLISHED = (
    Published(
        "SwAV, batch 4096", "swav_resnet50_800ep", (), 64, "v100-16g", 220 * 4096 / IMAGENET, SWAV
    ),
    Published(
        "SwAV, batch 256", "swav_resnet50_bs256", (), 4, "v100-16g", 3130 * 256 / IMAGENET, SWAV
    ),
    Published(
        "SEER 256GF",
        "swav_regnety_256gf",
        ("batch_size=8704",),
        512,
        "v100-32g",
        6.125,
        "arXiv:2103.01988, 3.2",
    ),
)


def status(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def trained(config: Pretrain, small: Pretrain) -> tuple[int, float]:
    """Train for real in this process: the growth of its resident set, in bytes, and the median
    step's CPU seconds.

    `small` is trained before: libraries load and compile on first use, which is nothing that a plan
    is about.
    """
    world = distributed.init("cpu")
    train_on_noise(small, world, time.process_time)
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    seconds = train_on_noise(config, world, time.process_time)
    grown = status("VmHWM") - before
    distributed.shutdown()
    return grown, statistics.median(seconds[1:])


def fresh(config: Pretrain, ranks: int) -> tuple[int, float]:
    """`trained` in new processes: the most memory and the longest time of any."""
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }
    views = {
        "large": replace(config.views["large"], size=32),
        "small": replace(config.views["small"], size=32),
    }
    small = replace(config, batch_size=4, steps=2, views=views)
    results = spawn(trained, ranks, config, small, device="cpu")
    return max(grown for grown, _ in results), max(seconds for _, seconds in results)


def own_figures(name: str) -> list[dict]:
    ranks, overrides = CASES[name]
    config = load_config("swav_small", overrides)
    whole, half = (
        Job.of(c, ranks, HARDWARE["cpu"])
        for c in (config, replace(config, batch_size=config.batch_size // 2))
    )
    (grown, seconds), (_, half_seconds) = fresh(whole.config, ranks), fresh(half.config, ranks)
    predicted = whole.estimate(half.efficiency(half_seconds)).step_seconds
    return [
        compared(f"peak memory, {name}", "MiB", whole.footprint.peak / 2**20, grown / 2**20),
        compared(f"step time, {name}", "s", predicted, seconds),
    ]


def published_figures() -> list[dict]:
    jobs = {
        run: Job.of(
            load_config(run.recipe, ["data=.", *run.overrides]), run.gpus, HARDWARE[run.gpu]
        )
        for run in PUBLISHED
    }
    found = []
    for run, job in jobs.items():
        efficiency = job.efficiency(run.seconds)
        print(f"  {run.name} reached {efficiency:.4f} of its roofline")
        found += [
            compared(
                f"step of {other.name} by that of {run.name}",
                "s",
                its.estimate(efficiency).step_seconds,
                other.seconds,
            )
            for other, its in jobs.items()
            if other is not run
        ]
    return found


def scale_figures() -> list[dict]:
    """What one of 512 ranks holds at its worst moment, beside what one process would need for the
    state alone.
    """
    found = []
    for recipe, gpu in (("swav_regnety_256gf", "v100-32g"), ("swav_regnety_10b", "a100-40g")):
        footprint = Job.of(
            load_config(recipe, ["data=.", "batch_size=8192"]), 512, HARDWARE[gpu]
        ).footprint
        print(
            f"  {recipe}, bytes:", {kind: size for kind, size in footprint.memory.items() if size}
        )
        whole = 3 * 4 * footprint.parameters / 2**30  # parameters, gradients and momentum
        found.append(
            figure(
                f"peak of one rank of 512, {recipe}",
                "GiB",
                footprint.peak / 2**30,
                {"state, whole": whole},
            )
        )
    return found


def recipe_figures() -> list[dict]:
    """Every recipe on its published hardware, as `seer plan` has it: a row of the table, and memory
    as a figure.
    """
    print("| recipe | hardware | images each | GiB of each | fits | s/step | images/s | days |")
    print("|---|---|---|---|---|---|---|---|")
    figures = []
    for recipe in recipes():
        gpus, hardware = published_hardware(recipe)
        if hardware.name == "cpu":  # its clock differs too much to tell hours: calibrate
            continue
        config = load_config(recipe, ["data=."])
        if METHODS[config.method.name].banks(config.method, 1):  # planned for the data that it has
            continue
        job = Job.of(config, gpus, hardware)
        run = job.estimate()
        cells = [
            f"`{recipe}`",
            f"{gpus} {hardware.name}",
            f"{job.config.batch_size // gpus}",
            f"{run.memory:.1f}",
        ]
        cells += [
            "no" if run.why_not else "yes",
            f"{run.step_seconds:.3g}",
            f"{run.images_per_second:,.0f}",
        ]
        print(f"| {' | '.join([*cells, f'{run.hours / 24:.1f}'])} |", flush=True)
        figures.append(
            figure(f"memory of each GPU, {recipe}", "GiB", run.memory, {"has": hardware.memory})
        )
    return figures


def compared(name: str, unit: str, predicted: float, actual: float) -> dict:
    print(
        f"  {name:60}{predicted:9.4g} {unit} predicted, {actual:9.4g} actual ({predicted / actual - 1:+.1%})",
        flush=True,
    )
    return figure(name, unit, predicted, {"actual": actual})


PARTS = {name: partial(own_figures, name) for name in CASES}
PARTS |= {"published": published_figures, "scale": scale_figures, "recipes": recipe_figures}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--only",
        default="",
        help="run what has this in its name: a configuration, `published`, `scale`, `recipes`",
    )
    options = parser.parse_args()
    report(
        [found for name, part in PARTS.items() if options.only in name for found in part()],
        options.json,
    )


if __name__ == "__main__":
    main()
