"""A neighbour query of `seer browse` beside an exact search in plain numpy.

    OMP_NUM_THREADS=2 python benchmarks/browse.py [--images 100000] [--json FILE]

`query`    the 48 nearest of 100,000 × 2,048 features to one image, which both find alike: milliseconds
           of the wall, the median of the best of three rounds for each of 40 queries, taking turns.
           numpy has features of length 1 in memory and multiplies them all, then ranks (argpartition);
           ours are mapped from the cache's file and pruned by bounds. With the slowest query, and
           what share of the images is compared with in all dimensions
`index`    seconds that building the index takes, once

Features are synthetic, as those of a network are: not negative, correlated, of very different sizes.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from harness import arguments, figure, report
from safetensors import safe_open
from safetensors.torch import save_file

from seer.browse.pruned_search import Index

THREADS = int(os.environ.get("OMP_NUM_THREADS") or 1)
WIDTH = 2048
CLASSES = 1_000
NEAREST = 48
QUERIES = 40
ROUNDS = 3
BLOCK = 5_000


def synthetic(images: int) -> Iterator[torch.Tensor]:
    """Blocks of features `(n, WIDTH)`."""
    random = torch.Generator().manual_seed(0)
    sizes = torch.arange(1, WIDTH + 1) ** -0.7  # of principal directions, by a power law
    turn, _ = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=random))
    centres = torch.randn(CLASSES, WIDTH, generator=random)
    for begin in range(0, images, BLOCK):
        count = min(BLOCK, images - begin)
        labels = torch.randint(CLASSES, (count,), generator=random)
        points = (centres[labels] + torch.randn(count, WIDTH, generator=random)) * sizes
        yield (points @ turn * WIDTH**0.5 / 2).clamp_(min=0)


def by_numpy(bank: np.ndarray, query: np.ndarray) -> np.ndarray:
    cosines = bank @ (query / np.linalg.norm(query))
    best = np.argpartition(-cosines, NEAREST)[:NEAREST]
    return best[np.argsort(-cosines[best])]


def milliseconds(run: Callable[[], Any]) -> tuple[float, np.ndarray]:
    began = time.perf_counter()
    rows = run()
    return 1e3 * (time.perf_counter() - began), np.asarray(rows)


def measure(images: int, folder: Path) -> list[dict]:
    path = folder / "features.safetensors"
    save_file({"features": torch.cat(list(synthetic(images)))}, path)
    with safe_open(path, "pt") as file:
        features = file.get_tensor("features")
    began = time.perf_counter()
    index = Index.of(features)
    building = time.perf_counter() - began
    bank = features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True)
    ours = []
    theirs = []
    compared = []
    for row in np.random.default_rng(0).permutation(images)[:QUERIES].tolist():
        query = features[row]
        best = [np.inf, np.inf]
        for _ in range(ROUNDS):
            own, rows = milliseconds(lambda query=query: index.nearest(query, NEAREST)[1])
            peer, expected = milliseconds(lambda query=query: by_numpy(bank, query.numpy()))
            assert len(set(rows) & set(expected)) >= NEAREST - 1, "not the same neighbours"
            best = [min(best[0], own), min(best[1], peer)]
        ours.append(best[0])
        theirs.append(best[1])
        compared.append(len(index.candidates(query, NEAREST)) / images)
    print(
        f"{images:,} × {WIDTH:,}, {THREADS} threads: {np.median(ours):.1f} ms a query (slowest "
        f"{max(ours):.1f}), numpy {np.median(theirs):.1f} ms; {np.median(compared):.2%} of the images "
        f"compared with in all dimensions (at most {max(compared):.2%}); index {building:.1f} s"
    )
    name = f"query of {images:,} features, {THREADS} threads"
    peers = {"numpy": float(np.median(theirs))}
    return [
        figure(name, "ms", float(np.median(ours)), peers),
        figure("slowest of these queries", "ms", float(max(ours)), {"numpy": float(max(theirs))}),
        figure("index", "s", building, {}),
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    with TemporaryDirectory() as folder:
        report(measure(options.images, Path(folder)), options.json)


if __name__ == "__main__":
    main()
