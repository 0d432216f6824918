"""Few-shot episodes per second on features that are there, beside the loop of a transfer benchmark.

    OMP_NUM_THREADS=1 python benchmarks/fewshot.py [--images 10000 --classes 100 --width 2048] [--cpu-time]

The peer does what the published code of Ericsson et al. (2021, `few_shot.py`) does after an image has
been read: a loader of loaders, without processes, draws one episode after the other, labels included;
its images go through the network, which here gives the features that are there; differences between
queries and centroids are laid out in memory; loss and accuracy are taken. Ours goes from features to
the mean accuracy: what is done once for all numbers of shots (`Rows`) is in each figure, and so is
the drawing of episodes. Both answer 5-way 5-, 20- and 50-shot episodes with 15 queries of each class,
in turns.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
from harness import arguments, figure, interleaved, report
from torch import Tensor
from torch.utils.data import DataLoader

from seer.eval.probes.fewshot import Episodes
from seer.eval.probes.nearest import Rows, accuracies
from seer.eval.probes.options import FewshotConfig


def ours(features: Tensor, labels: np.ndarray, shots: int, config: FewshotConfig) -> float:
    """The mean accuracy over episodes."""
    rows = Rows(features)
    episodes = Episodes(labels, np.unique(labels), shots, config)
    parts = [accuracies(rows, part) for part in episodes.parts(rows.width)]
    return float(torch.cat(parts).mean())


class Repeated:
    """Batches of one class, each with an iterator of its own."""

    def __init__(self, loaders: list[DataLoader]):
        self.loaders = loaders

    def __len__(self) -> int:
        return len(self.loaders)

    def __getitem__(self, label: int) -> list[Tensor]:
        return next(iter(self.loaders[label]))


class SomeClasses:
    """The classes of each episode."""

    def __init__(self, classes: int, config: FewshotConfig):
        self.classes = classes
        self.config = config

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(self.config.episodes):
            yield torch.randperm(self.classes)[: self.config.ways]


def loop(features: Tensor, labels: np.ndarray, shots: int, config: FewshotConfig) -> float:
    """The same, one episode after the other, by loaders of loaders."""
    members = [
        [(row, label) for row in features[labels == label]] for label in np.unique(labels).tolist()
    ]
    together = shots + config.queries
    loaders = [DataLoader(rows, together, shuffle=True) for rows in members]  # type: ignore[arg-type]
    episodes = DataLoader(Repeated(loaders), batch_sampler=SomeClasses(len(loaders), config))  # type: ignore[arg-type]
    truth = torch.arange(config.ways)[:, None].expand(-1, config.queries)
    losses = []
    shares = []
    for episode, _ in episodes:
        order = torch.randperm(together)
        support = episode[:, order[:shots]].flatten(0, 1)
        network = torch.cat([support, episode[:, order[shots:]].flatten(0, 1)])
        centroids = network[: len(support)].unflatten(0, (config.ways, shots)).mean(1)
        asked = network[len(support) :]
        shape = len(asked), config.ways, features.shape[1]
        differences = asked[:, None].expand(shape) - centroids[None].expand(shape)
        scores = torch.log_softmax(-torch.pow(differences, 2).sum(2), 1)
        answers = scores.view(config.ways, config.queries, -1)
        losses.append(-answers.gather(2, truth[:, :, None]).mean().item())
        shares.append((answers.argmax(2) == truth).float().mean().item())
    return float(np.mean(shares))


def measured(options: argparse.Namespace, shots: int) -> dict:
    random = np.random.default_rng(0)
    labels = np.arange(options.images) % options.classes
    centres = random.standard_normal((options.classes, options.width))
    noise = 8 * random.standard_normal((options.images, options.width))
    features = torch.from_numpy((centres[labels] + noise).astype(np.float32))
    config = FewshotConfig(episodes=options.episodes)
    answers = {}
    contestants = {
        "ours": lambda: answers.update(ours=ours(features, labels, shots, config)),
        "loop": lambda: answers.update(loop=loop(features, labels, shots, config)),
    }
    clock = time.process_time if options.cpu_time else time.perf_counter
    seconds = interleaved(contestants, options.rounds, options.warmup, clock)
    print(f"  {shots}-shot: mean accuracy {answers['ours']:.3f} and {answers['loop']:.3f}")
    rates = {name: options.episodes / value for name, value in seconds.items()}
    name = f"5-way {shots}-shot, D = {options.width}, {options.images:,} images of {options.classes} classes"
    return figure(name, "episodes/s", rates.pop("ours"), {"one episode at a time": rates["loop"]})


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument(
        "--cpu-time", action="store_true", help="seconds of the processor, where others use it, too"
    )
    options = parser.parse_args()
    report([measured(options, shots) for shots in (5, 20, 50)], options.json)


if __name__ == "__main__":
    main()
