"""The loader against the bare work that it spreads: rate, scaling, start-up, resumption and memory.

    python benchmarks/loader.py PHOTOGRAPHS [--batch 32] [--batches 10000] [--json FILE]

PHOTOGRAPHS is a folder of images of usual size. The bare rate is that of one process which reads,
decodes and cuts 2×224+4×96 finished crops and does nothing else, on one core; the loader's is what
a consumer gets that only waits. For memory the loader runs 10,000 batches of small pictures, in
which a leak of a descriptor or an array would show.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import arguments, figure, report

from seer.data.crops.multicrop import DEFAULT_VIEWS, MultiCrop, View
from seer.data.delivery import StepTask
from seer.data.loader import Loader, LoaderConfig
from seer.data.order import Order
from seer.data.storage.index import Manifest
from seer.data.storage.reader import Reader
from seer.quickstart.pictures import write_quickstart
from shards.build import BuildOptions, build

CROPS = MultiCrop(DEFAULT_VIEWS, seed=0)
FAR = 100_000  # a step to resume at
# As `seer pretrain` does it: the server that workers fork from has started before the trainer
# imports what it needs.
RUN = """
import sys
from pathlib import Path
from seer import forkserver
forkserver.start(forkserver.LOADING)
import seer.pretrain.run
from loader import first_batch
print(first_batch(Path(sys.argv[1]), int(sys.argv[2]), 0))
"""


def loader(manifest: Manifest, batch: int, workers: int, crops: MultiCrop) -> Loader:
    order = Order(manifest.sizes, 0, batch, 256)
    return Loader(manifest, order, crops, batch_size=batch, config=LoaderConfig(workers=workers))


def bare_rate(manifest: Manifest, batch: int, seconds: float) -> float:
    """Images per second of one process on one core, without a loader."""
    task = StepTask(Reader(manifest), Order(manifest.sizes, 0, batch, 256), CROPS, batch, 0, 1)
    task(0)
    began, step = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        step += 1
        task(step)
    return step * batch / (time.perf_counter() - began)


def rate(manifest: Manifest, batch: int, workers: int, seconds: float) -> float:
    """Images per second that a consumer gets from `workers` processes, once they are under way."""
    batches = loader(manifest, batch, workers, CROPS).iterate(0, 10**6)
    for _ in range(3 * workers):
        next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        next(batches)
        count += 1
    elapsed = time.perf_counter() - began
    batches.close()
    return count * batch / elapsed


def first_batch(shards: Path, batch: int, step: int) -> float:
    """Seconds from nothing to the first batch, workers' start included, at `step`."""
    began = time.perf_counter()
    batches = loader(Manifest.load(shards), batch, 2, CROPS).iterate(step, step + 10)
    next(batches)
    seconds = time.perf_counter() - began
    batches.close()
    return seconds


def first_batch_of_a_run(shards: Path, batch: int) -> float:
    """The same in a program of its own that starts as `seer pretrain` does, once it has imported
    what it needs.
    """
    program = [sys.executable, "-c", RUN, str(shards), str(batch)]
    return float(
        subprocess.run(
            program, capture_output=True, check=True, text=True, cwd=Path(__file__).parent
        ).stdout
    )


def resident(batches: int, folder: Path) -> tuple[float, float]:
    """MB of this process and its workers after a tenth of `batches` small batches, and at their
    end.
    """
    write_quickstart(folder / "small", train=40, test=1)
    build([folder / "small" / "train"], folder / "small-shards", BuildOptions(shard_size=50))
    manifest = Manifest.load(folder / "small-shards")
    small = MultiCrop({"large": View(size=16, count=1)}, 0)
    seen = []
    for number, _ in enumerate(loader(manifest, 8, 2, small).iterate(0, batches), 1):
        if number in (batches // 10, batches):
            seen.append(sum(resident_mb(pid) for pid in family(os.getpid())))
    return seen[0], seen[1]


def family(pid: int) -> list[int]:
    """A process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in family(int(child)))]


def resident_mb(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1e3 if found else 0.0


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=10_000, help="for the figure of memory")
    parser.add_argument("--seconds", type=float, default=10, help="per rate and round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build([options.photographs], Path(folder, "shards"), BuildOptions(shard_size=50))
        manifest = Manifest.load(Path(folder, "shards"))
        in_run = np.median(
            [first_batch_of_a_run(manifest.directory, options.batch) for _ in range(3)]
        )
        begin = [first_batch(manifest.directory, options.batch, step) for step in (0, FAR)]
        rounds = [
            (
                bare_rate(manifest, options.batch, options.seconds),
                *(rate(manifest, options.batch, workers, options.seconds) for workers in (1, 2)),
            )
            for _ in range(3)
        ]
        bare, one, two = np.max(rounds, axis=0).tolist()
        early, late = resident(options.batches, Path(folder))
    report(
        [
            figure(
                "2x224+4x96 finished crops through the loader, 1 worker",
                "images/s",
                one,
                {"bare work": bare},
            ),
            figure(
                "2x224+4x96 finished crops through the loader, 2 workers",
                "images/s",
                two,
                {"1 worker": one},
            ),
            figure(
                "start to first batch, in a program that starts as `seer pretrain` does",
                "s",
                float(in_run),
                {},
            ),
            figure(
                "the same with the start of the server that workers fork from", "s", begin[0], {}
            ),
            figure(f"the same at step {FAR:,}, the server there", "s", begin[1], {}),
            figure(
                f"memory after {options.batches:,} batches",
                "MB",
                late,
                {"after a tenth of them": early},
            ),
        ],
        options.json,
    )


if __name__ == "__main__":
    main()
