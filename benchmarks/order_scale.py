"""How the order scales: time and memory to find any position among 10⁹ samples in 10⁵ shards,
start-up included.

    python benchmarks/order_scale.py [--ranks 512] [--json FILE]

For each size a manifest is written, and a fresh process does what a rank does when a run starts or
continues: it reads the manifest, lays out the order, and names its share of the global batch at a
random step of a random epoch. Then the same process finds the share of every rank at other random
steps, as it does while training, and the shares are compared with what one rank would name for the
whole batch.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIZES = {
    "10⁷ samples in 10³ shards": 10**3,
    "10⁸ samples in 10⁴ shards": 10**4,
    "10⁹ samples in 10⁵ shards": 10**5,
}
PER_SHARD, BATCH = 10_000, 8_704  # SEER's global batch
RANK = "ORDER_SCALE_RANK"  # set where the script is one rank


def write(directory: Path, shards: int) -> None:
    """A manifest of `shards` shards of about 10,000 samples each; no tar is needed to find a
    position.
    """
    from seer.data.storage.index import write_manifest

    sizes = PER_SHARD - np.random.default_rng(0).integers(0, 200, shards)  # some were quarantined
    digest = "0123456789abcdef" * 4
    rows = (
        {
            "shard": f"shard-{n:06d}.tar",
            "samples": int(size),
            "bytes": int(size) * 60_000,
            "sha256": digest,
        }
        for n, size in enumerate(sizes)
    )
    write_manifest(directory, rows, {})


def rank(directory: str, ranks: int) -> None:
    """What one rank does; prints seconds and MB as JSON."""
    from seer.data.order import Order
    from seer.data.storage.index import Manifest

    imported = peak_mb()
    draw = np.random.default_rng(ranks)
    began = time.perf_counter()
    manifest = Manifest.load(directory)
    order = Order(manifest.sizes, seed=0, lanes=BATCH, window=256)
    share = BATCH // ranks
    first = order.ids(int(draw.integers(10**10)) // BATCH * BATCH, share)
    start = time.perf_counter() - began
    assert len(first) == share
    again = 0.0
    for _ in range(20):
        position = int(draw.integers(10**10)) // BATCH * BATCH
        for of in range(ranks):
            began = time.perf_counter()
            ids = order.ids(position + of * share, share)
            again = max(again, time.perf_counter() - began)
            if of in (0, ranks - 1):
                whole = order.ids(position, BATCH)
                assert np.array_equal(ids, whole[of * share : (of + 1) * share])
    print(
        json.dumps({"start": start, "again": again, "mb": peak_mb(), "own": peak_mb() - imported})
    )


def peak_mb() -> float:
    """Of this process since its start; `getrusage` would count what its parent held when it was
    forked.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1e3


def main() -> None:
    from harness import arguments, figure, report  # imports torch, whose memory is not the order's

    parser = arguments(__doc__)
    parser.add_argument("--ranks", type=int, default=512)
    options = parser.parse_args()
    figures = []
    for name, shards in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), shards)
            words = sys.executable, __file__, folder, str(options.ranks)
            environment = os.environ | {RANK: "1"}
            process = subprocess.run(
                words, check=True, stdout=subprocess.PIPE, text=True, env=environment
            )
            seen = json.loads(process.stdout)
        figures += [
            figure(f"{name}: first position, manifest included", "s", seen["start"], {}),
            figure(
                f"{name}: any later position, another epoch's order included, slowest",
                "s",
                seen["again"],
                {},
            ),
            figure(f"{name}: memory of the process, without torch", "MB", seen["mb"], {}),
            figure(f"{name}: of it for manifest and order", "MB", seen["own"], {}),
        ]
    report(figures, options.json)


if __name__ == "__main__":
    if RANK in os.environ:
        rank(sys.argv[1], int(sys.argv[2]))
    else:
        main()
