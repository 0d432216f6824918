"""kNN top-1 on CIFAR-10 after M minutes of SwAV: seer's `swav_small` against lightly's SwAV and
against raw pixels.

    python benchmarks/cifar.py CIFAR10 [--minutes 30] [--work DIR] [--json FILE]

CIFAR10 is a folder of `train/CLASS/*` and `test/CLASS/*` images. Labels are used by the kNN
evaluation alone. Both systems train one after the other on the same cores for the same wall-clock
time, images decoded on the way. seer runs by its command line only: shards build, pretrain with a
process per core, eval knn. The peer is written with lightly's transform, head, prototypes and loss
on timm's RegNetY-200MF (stem stride 1), as its SwAV example shows.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from harness import arguments, figure, report
from torch import nn

K, TEMPERATURE = 20, 0.07
CORES = len(os.sched_getaffinity(0))


def seer(*words: str) -> None:
    """Run the command line."""
    print(f"$ seer {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-c", "from seer.cli import main; main()", *words], check=True)


def knn(model: str, data: Path, out: Path) -> float:
    """seer's kNN top-1 in percent, images at their own 32 px."""
    seer(
        "eval",
        "knn",
        "--model",
        model,
        "--data",
        str(data),
        "--out",
        str(out),
        f"k=[{K}]",
        "size=32",
    )
    return 100 * json.loads(out.read_text().splitlines()[-1])["value"]


def pretrain(shards: Path, run_dir: Path, steps: int, *more: str) -> None:
    words = (
        f"data={shards}",
        f"run_dir={run_dir}",
        f"steps={steps}",
        f"schedule.warmup={steps // 20}",
    )
    seer("pretrain", "swav_small", *words, *more, "--nproc", str(CORES))


def measured_rate(shards: Path, work: Path) -> float:
    """Steps per second of the recipe on this machine, from a few of them; the first ones warm up."""
    probe = work / "probe"
    pretrain(shards, probe, 60, "log.every=10")
    rows = [json.loads(line) for line in (probe / "metrics.jsonl").read_text().splitlines()][-3:]
    return (rows[-1]["step"] - rows[0]["step"]) / (rows[-1]["seconds"] - rows[0]["seconds"])


def train_seer(data: Path, minutes: float, work: Path) -> tuple[Path, float]:
    """The run directory, and the minutes it took; the number of steps comes from a short measured
    run.
    """
    shards = work / "shards"
    seer("shards", "build", str(data / "train"), "--out", str(shards))
    steps = round(minutes * 60 * measured_rate(shards, work))
    began = time.perf_counter()
    run = work / "run"
    pretrain(shards, run, steps)
    return run, (time.perf_counter() - began) / 60


def train_lightly(data: Path, minutes: float) -> tuple[nn.Module, nn.Module, float]:
    """The trained network, a copy of it untrained, and samples per second."""
    import timm
    from lightly.loss import SwaVLoss
    from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes
    from lightly.transforms import SwaVTransform
    from torchvision.datasets import ImageFolder

    torch.manual_seed(0)
    network = timm.create_model("regnety_002", num_classes=0)
    network.stem.conv.stride = (1, 1)
    untrained = timm.create_model("regnety_002", num_classes=0)
    untrained.stem.conv.stride = (1, 1)
    untrained.load_state_dict(network.state_dict())
    head, scorer, criterion = (
        SwaVProjectionHead(network.num_features, 512, 128),
        SwaVPrototypes(128, 512, 1),
        SwaVLoss(),
    )
    parts = nn.ModuleList([network, head, scorer])
    optimizer = torch.optim.SGD(parts.parameters(), lr=0.12, momentum=0.9, weight_decay=1e-5)
    views = {
        "crop_sizes": (32, 16),
        "crop_counts": (2, 4),
        "crop_min_scales": (0.2, 0.05),
        "crop_max_scales": (1, 0.2),
    }
    transform = SwaVTransform(**views, gaussian_blur=0.0, cj_strength=0.5)
    loader = torch.utils.data.DataLoader(
        ImageFolder(str(data / "train"), transform),
        256,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        persistent_workers=True,
    )
    began, step = time.perf_counter(), 0
    while True:
        for crops, _ in loader:
            part = (time.perf_counter() - began) / 60 / minutes
            if part >= 1:
                return network, untrained, step * 256 / (time.perf_counter() - began)
            optimizer.param_groups[0]["lr"] = (
                0.12 * min(1, step / 50) * (1 + math.cos(math.pi * part)) / 2
            )
            scorer.normalize()
            scores = [scorer(F.normalize(head(network(crop)), dim=1), step) for crop in crops]
            loss = criterion(scores[:2], scores[2:])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % 50 == 0:
                print(
                    f"lightly: {100 * part:.0f} % of the time, step {step}, loss {loss.item():.3f}",
                    flush=True,
                )


@torch.inference_mode()
def lightly_knn(network: nn.Module, data: Path) -> float:
    """The same kNN for a plain module, in percent."""
    import torchvision.transforms as T
    from torchvision.datasets import ImageFolder

    transform = T.Compose([T.ToTensor(), T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    network.eval()
    features, labels = [], []
    for split in ("train", "test"):
        loader = torch.utils.data.DataLoader(
            ImageFolder(str(data / split), transform), 256, num_workers=2
        )
        batches = [(network(x), y) for x, y in loader]
        features.append(F.normalize(torch.cat([x for x, _ in batches]), dim=1))
        labels.append(torch.cat([y for _, y in batches]))
    right = 0
    for queries, truth in zip(features[1].split(1000), labels[1].split(1000), strict=True):
        similarity, nearest = (queries @ features[0].T).topk(K)
        votes = torch.zeros(len(queries), 10).scatter_add_(
            1, labels[0][nearest], (similarity / TEMPERATURE).exp()
        )
        right += int((votes.argmax(1) == truth).sum())
    return 100 * right / len(labels[1])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-cifar"))
    parser.add_argument(
        "--lightly", action=argparse.BooleanOptionalAction, default=True, help="train the peer, too"
    )
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    results = options.work / "results.jsonl"

    run, minutes = train_seer(options.data, options.minutes, options.work)
    print(f"seer trained for {minutes:.1f} minutes", flush=True)
    ours = knn(str(run), options.data, results)
    peers = {"untrained": knn(f"{run}:random", options.data, results)}
    peers["raw pixels"] = knn("pixels", options.data, results)
    if options.lightly:
        # As long as seer took, whatever was planned.
        network, untrained, rate = train_lightly(options.data, minutes)
        print(f"lightly trained for {minutes:.1f} minutes at {rate:.0f} samples/s", flush=True)
        peers["lightly"] = lightly_knn(network, options.data)
        peers["lightly untrained"] = lightly_knn(untrained, options.data)
    name = f"CIFAR-10 kNN top-1 (k={K}) after {minutes:.1f} minutes of SwAV"
    report([figure(name, "%", ours, peers)], options.json)


if __name__ == "__main__":
    main()
