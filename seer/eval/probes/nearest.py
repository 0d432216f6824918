"""Which centroid is nearest: the accuracy of few-shot episodes on features.

Distances are those of float64. Most queries are decided by float32 already: where the nearest two
are farther apart than its rounding can have moved them. Only the others are computed again. So the
answers are the same on every device, by every order of summation, and however many episodes are
answered at once. Ways that are equally far, as copies of an image are, go to the first of them.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seer.eval.probes.features import taming

GATHERED = 2**22  # values of features copied at once: 16 MB in float32
CENTROIDS = 2**21  # values of centroids at once: 8 MB
COMPILED = 2**24  # values compared, from which on loading the compiled kernel is worth its time
# The error of a sum of n roundings is seldom above √n of them (Higham and Mary 2019, A new approach
# to probabilistic rounding error analysis); this many times that is taken as what it can be.
SAFETY = 4
SAME = 2.0**-40  # distances whose quotient is nearer to 1 than this are equal: float64 has 52 bits


@dataclass
class Part:
    """Some episodes: numbers of images, `(E, ways, shots)` and `(E, ways, queries)`."""

    support: Tensor
    queries: Tensor


Measure = Callable[["Rows", Tensor, Tensor], tuple[Tensor, Tensor]]


class Rows:
    """Features `(N, D)` float32, at a scale at which their squares are finite."""

    def __init__(self, features: Tensor):
        smallest, largest = torch.aminmax(features)
        extent = torch.maximum(-smallest, largest)
        factor = taming(extent)
        self.values = (features if factor == 1 else features * factor).contiguous()
        self.extent = float(extent * factor)
        self.width = features.shape[1]

    def centroids(self, support: Tensor) -> Tensor:
        """The means of the images `(E, ways, shots)`, `(E, ways, D)`."""
        means = F.embedding_bag(support.flatten(0, 1), self.values, mode="mean")
        return means.view(*support.shape[:2], -1)


def accuracies(rows: Rows, part: Part) -> Tensor:
    """The share of each episode's queries that are right, `(E,)` float64 on the CPU."""
    return answers(rows, part).flatten(1).double().mean(1)


def answers(rows: Rows, part: Part) -> Tensor:
    """Whether each query's nearest centroid is that of its class, `(E, ways, queries)` bool on the
    CPU.
    """
    device = rows.values.device
    compared = part.queries.numel() * part.queries.shape[1] * rows.width
    measure = compiled if device.type == "cpu" and compared >= COMPILED else gathered
    # Centroids of a few megabytes stay in the processor's cache.
    together = max(1, CENTROIDS // (part.support.shape[1] * rows.width))
    correct = [
        _correct(rows, Part(support.to(device), queries.to(device)), measure)
        for support, queries in zip(
            part.support.split(together), part.queries.split(together), strict=True
        )
    ]
    return torch.cat(correct).cpu()


def _correct(rows: Rows, part: Part, measure: Measure) -> Tensor:
    """Whether each query's nearest centroid is its own, `(E, ways, Q)`."""
    shots = part.support.shape[2]
    own, rival = measure(rows, part.queries, rows.centroids(part.support))
    correct = own < rival
    error = uncertainty(rows, own, shots) + uncertainty(rows, rival, shots)
    unsure = (own - rival).abs() <= error
    for episodes in unsure.flatten(1).any(1).nonzero()[:, 0].split(at_once(rows, part)):
        some = Part(part.support[episodes], part.queries[episodes])
        correct[episodes] = decided(rows, some, unsure[episodes], correct[episodes])
    return correct


def uncertainty(rows: Rows, squared: Tensor, shots: int) -> Tensor:
    """By how much squared distances can be wrong: their own sums, taken in four parts at least, and
    the roundings of the centroids, which move each dimension by itself.
    """
    unit = SAFETY * torch.finfo(torch.float32).eps / 2
    of_centroids = 2 * (shots + 1) ** 0.5 * rows.extent * squared.sqrt()
    return unit * (max(1.0, rows.width / 4) ** 0.5 * squared + of_centroids)


def at_once(rows: Rows, part: Part) -> int:
    """How many episodes' images may be copied at a time."""
    images = part.support[0].numel() + part.queries[0].numel()
    return max(1, GATHERED // (images * rows.width))


def gathered(rows: Rows, queries: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances of the queries `(E, ways, Q)` to their own centroid and to the nearest other
    one, both `(E, ways, Q)`, by PyTorch.
    """
    count, ways, asked = queries.shape
    own = torch.empty(queries.shape, device=centroids.device)
    rival = torch.empty_like(own)
    for episodes in torch.arange(count).split(max(1, GATHERED // (ways * asked * rows.width))):
        images = rows.values[queries[episodes].flatten(1)]
        farness = distances(images, centroids[episodes]).square()
        own[episodes], rival[episodes] = apart(farness.unflatten(1, (ways, asked)))
    return own, rival


def distances(queries: Tensor, centroids: Tensor) -> Tensor:
    """`(E, n, D)` from `(E, ways, D)`, `(E, n, ways)`, without the cancellation of ‖q‖² − 2qc + ‖c‖²."""
    return torch.cdist(queries, centroids, compute_mode="donot_use_mm_for_euclid_dist")


def apart(farness: Tensor) -> tuple[Tensor, Tensor]:
    """Of `(E, ways, Q, ways)` what is to the own way, and the least of the others."""
    ways = torch.arange(farness.shape[1], device=farness.device)
    own = farness[:, ways, :, ways].transpose(0, 1)
    mine = torch.eye(len(ways), dtype=torch.bool, device=farness.device)[None, :, None]
    return own, farness.masked_fill(mine, torch.inf).amin(3)


def compiled(rows: Rows, queries: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The same on the CPU, by as many threads as PyTorch has."""
    from seer.eval.probes.nearest_kernel import nearest

    pairs = queries.flatten(0, 1).contiguous()
    own = torch.empty(pairs.shape)
    rival = torch.empty_like(own)
    threads = torch.get_num_threads()
    bounds = np.linspace(0, len(pairs), threads + 1).astype(int).tolist()

    def some(start: int, stop: int) -> None:
        where = rows.values.numpy(), pairs.numpy(), start, stop
        nearest(*where, centroids.numpy(), own.numpy(), rival.numpy())

    if threads == 1:
        some(0, len(pairs))
    else:
        with ThreadPoolExecutor(threads) as pool:
            for thread in [pool.submit(some, *ends) for ends in pairwise(bounds)]:
                thread.result()
    return own.view(queries.shape), rival.view(queries.shape)


def decided(rows: Rows, part: Part, unsure: Tensor, correct: Tensor) -> Tensor:
    """`correct`, with the `unsure` queries, both `(E, ways, Q)`, decided by float64."""
    # About an image of the episode: features far from the origin lose nothing to their means.
    origin = rows.values[part.support[:, 0, 0]].double()
    centroids = (rows.values[part.support].double() - origin[:, None, None]).mean(2)
    episodes, ways, _ = unsure.nonzero(as_tuple=True)
    images = rows.values[part.queries[unsure]].double() - origin[episodes]
    farness = images.new_empty(len(images), centroids.shape[1])
    for way, of_way in enumerate(centroids.unbind(1)):
        farness[:, way] = (images - of_way[episodes]).square().sum(1)
    nearest = farness <= farness.amin(1, keepdim=True) * (1 + SAME)
    answers = correct.clone()
    answers[unsure] = nearest.int().argmax(1) == ways
    return answers
