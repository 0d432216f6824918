"""How features lie: of how many dimensions they make use, how evenly they are spread, and how far classes
are from each other. Features of the test images, as `seer eval knn` takes them.

- **RankMe** (Garrido et al. 2023, arXiv:2210.02885, equation 2): exp of the entropy of the singular values σ of
  the features, pₖ = σₖ / Σ σ + 10⁻⁷. From 1 to the dimensions.
- **α-ReQ** (Agrawal et al. 2022, arXiv:2202.05808): the exponent α by which the eigenvalues of the covariance fall,
  λₖ ∝ k^−α, a line through ln λₖ over ln k from the 3rd to the 50th, or the last that is above 10⁻¹² of the first.
  Around 1 is well; more is few dimensions, less is noise.
- **Uniformity** (Wang & Isola 2020, arXiv:2005.10242, equation 2): ln of the mean over pairs of different images of
  exp(−2 ‖x − y‖²), of features of length 1. From −4, nearly, to 0; lower is more even.
- **Classes apart** (what RELICv2, arXiv:2201.05119, compares methods by, as summaries tell it): the mean distance of
  the centroids of two classes over the mean distance of an image from the centroid of its own. Higher is better.
- **Neighbours**: of each class's images, which share has its nearest other image in which class; in the row's
  details, of `classes=`, or of all where these are at most 20.
"""

import logging
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seer.data.labelled import Labelled
from seer.errors import InputError, nearest
from seer.eval.analyses.image_options import GeometryConfig
from seer.eval.paired import Z
from seer.eval.probes.features import extract
from seer.eval.probes.together import goes_on
from seer.eval.scores import Score
from seer.interop.models import Model
from seer.schema import check_options

logger = logging.getLogger("seer.eval")

Measure = Callable[[Tensor, Tensor], float]  # of features `(N, D)` and labels `(N,)`

SMALLEST = 1e-7  # RankMe's ε
FIT = (3, 50)  # eigenvalues of α's line, from 1
LEAST = 1e-12  # of the first eigenvalue, that counts
MOST_CLASSES = 20  # of a matrix of neighbours that nobody has asked for
JACKKNIFE = 20  # parts of the images that are left out in turns
BLOCK = 2048  # images whose distances to all others are held at once


def run(model: Model, train: Labelled, test: Labelled, config: GeometryConfig) -> list[Score]:
    """What the features of the test images are like.

    Raises:
        InputError: an option is wrong, a class is unknown, or there are too few images.
    """
    check_options(config)
    chosen = classes_of(test, config.classes)
    labels = torch.from_numpy(test.labels)
    if len(test) < 2 * JACKKNIFE:
        raise InputError(
            f"geometry: {len(test)} test images; {2 * JACKKNIFE} are needed for an interval"
        )
    features = extract(model, test, config, "test images")
    if not goes_on():
        return []
    features = features.double()
    details: dict[str, object] = {"images": len(test), "dimensions": features.shape[1]}
    rows = [
        ("rankme", "RankMe", "dimensions", "higher", 1.0, lambda x, y: rankme(x)),
        ("alpha", "α-ReQ", "", "lower", -math.inf, lambda x, y: alpha_req(x)),
        ("uniformity", "uniformity", "", "lower", -math.inf, lambda x, y: uniformity(x)),
        ("classes_apart", "classes apart", "", "higher", 0.0, classes_apart),
    ]
    order = np.random.default_rng(config.seed).permutation(len(test))
    scores = []
    for metric, title, unit, better, least, measure in rows:
        value = measure(features, labels)
        if math.isnan(value):
            logger.warning(
                "geometry: no %s: features that are alike or of too few dimensions, or a single class",
                title,
            )
            continue
        if metric == "uniformity":
            low, high = interval(value, uniformities_without(features, order))
        else:
            low, high = jackknife(measure, features, labels, order, value)
        if math.isnan(low):
            logger.warning(
                "geometry: no %s: not known once a twentieth of the images is left out, so it has "
                "no interval",
                title,
            )
            continue
        low = max(low, least)
        headline = metric == "rankme"
        scores.append(
            Score(metric, title, value, low, high, unit, better, headline, details=details)
        )
    if chosen:
        shares = neighbours(features, labels, chosen)
        names = [test.classes[number] for number in chosen]
        scores[0].details = {**details, "classes": names, "neighbours": shares}
    return scores


def classes_of(images: Labelled, names: list[str]) -> list[int]:
    """The numbers of these classes; where none is named, of all that have images if they are few.

    Raises:
        InputError: there is no such class, it has no image, or a single one is named.
    """
    counts = np.bincount(images.labels, minlength=len(images.classes))
    if not names:
        present = np.flatnonzero(counts).tolist()
        return present if 1 < len(present) <= MOST_CLASSES else []
    numbers = []
    for name in names:
        if name not in images.classes:
            raise InputError(
                f"classes: no class is called {name!r:.60}{nearest(name, images.classes)}"
            )
        number = images.classes.index(name)
        if not counts[number]:
            raise InputError(f"classes: {name!r:.60} has no test image; leave it out")
        numbers.append(number)
    if len(numbers) < 2:
        raise InputError(f"classes: {names[0]!r:.60} alone has no neighbours; name two or more")
    return numbers


def jackknife(
    measure: Measure, features: Tensor, labels: Tensor, order: np.ndarray, value: float
) -> tuple[float, float]:
    """The 95 % interval of a value of all images, by leaving out a twentieth of them in turns (images drawn
    with replacement would be their own neighbours). NaN where a value is.
    """
    values = []
    for part in np.array_split(order, JACKKNIFE):
        rest = torch.from_numpy(np.setdiff1d(order, part))
        values.append(measure(features[rest], labels[rest]))
    return interval(value, values)


def interval(value: float, values: list[float]) -> tuple[float, float]:
    """The jackknife's, of a value of all images and of those without each part."""
    spread = math.sqrt(
        (JACKKNIFE - 1) / JACKKNIFE * np.square(np.array(values) - np.mean(values)).sum()
    )
    return value - Z * spread, value + Z * spread


def rankme(features: Tensor) -> float:
    """Of `(N, D)`."""
    singular = squared_singular_values(features).sqrt()
    shares = singular / singular.sum() + SMALLEST
    return float(torch.special.entr(shares).sum().exp())


def alpha_req(features: Tensor) -> float:
    """Of `(N, D)`; NaN where fewer than three eigenvalues count."""
    centred = features - features.mean(0)
    eigenvalues = squared_singular_values(centred) / len(features)
    first, last = FIT
    count = min(last, int((eigenvalues > LEAST * eigenvalues[0]).sum()))
    if count - first + 1 < 3:
        return math.nan
    ranks = torch.arange(first, count + 1, dtype=torch.float64).log().numpy()
    heights = eigenvalues[first - 1 : count].log().numpy()
    return -float(np.polyfit(ranks, heights, 1)[0])


def squared_singular_values(features: Tensor) -> Tensor:
    """Falling, of `(N, D)` float64, by the smaller of its two products with itself."""
    count, width = features.shape
    gram = features.T @ features if width <= count else features @ features.T
    return torch.linalg.eigvalsh(gram).flip(0).clamp(min=0)


def uniformity(features: Tensor) -> float:
    """Of `(N, D)`, of any length; those that are 0, which have no direction, stay 0."""
    pairs = len(features) * (len(features) - 1)
    everything = torch.zeros(len(features), dtype=torch.int64)
    return math.log(float(sums_of_pairs(features, everything, 1)) / pairs)


def uniformities_without(features: Tensor, order: np.ndarray) -> list[float]:
    """The same without each part of the images, as `jackknife` leaves them out; all pairs are looked at once."""
    place = torch.empty(len(features), dtype=torch.int64)
    for number, part in enumerate(np.array_split(order, JACKKNIFE)):
        place[torch.from_numpy(part)] = number
    sums = sums_of_pairs(features, place, JACKKNIFE)
    values = []
    for number, size in enumerate(torch.bincount(place).tolist()):
        gone = sums[number].sum() + sums[:, number].sum() - sums[number, number]
        rest = len(features) - size
        values.append(math.log(float(sums.sum() - gone) / (rest * (rest - 1))))
    return values


def sums_of_pairs(features: Tensor, place: Tensor, parts: int) -> Tensor:
    """`(parts, parts)`: the sums of exp(−2 ‖x − y‖²) over images x of one part and y of another, none with
    itself; `place` `(N,)` says whose part an image is.
    """
    x = F.normalize(features, dim=1)
    lengths = x.square().sum(1)
    members = F.one_hot(place, parts).double()
    sums = features.new_zeros(parts, parts)
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        squares = (lengths[rows, None] + lengths - 2 * x[rows] @ x.T).clamp(min=0)
        similar = (-2 * squares).exp()
        numbers = torch.arange(len(similar))
        similar[numbers, numbers + start] = 0
        sums += members[rows].T @ (similar @ members)
    return sums


def classes_apart(features: Tensor, labels: Tensor) -> float:
    """Of `(N, D)` and labels `(N,)`; NaN where there is one class."""
    present, place = labels.unique(return_inverse=True)
    counts = torch.bincount(place).double()
    sums = features.new_zeros(len(present), features.shape[1]).index_add_(0, place, features)
    centroids = sums / counts[:, None]
    within = (features - centroids[place]).norm(dim=1).mean()
    if len(present) < 2 or within == 0:
        return math.nan
    return float(torch.pdist(centroids).mean() / within)


def neighbours(features: Tensor, labels: Tensor, classes: list[int]) -> list[list[float]]:
    """Of the images of each of these classes, the share whose nearest other image, by cosine among these
    classes' images, is of each.
    """
    own = torch.isin(labels, torch.tensor(classes))
    x = F.normalize(features[own], dim=1)
    numbers = {label: number for number, label in enumerate(classes)}
    place = torch.tensor([numbers[label] for label in labels[own].tolist()])
    found = []
    for start in range(0, len(x), BLOCK):
        similar = x[start : start + BLOCK] @ x.T
        similar[torch.arange(len(similar)), torch.arange(start, start + len(similar))] = -2
        found.append(similar.argmax(1))
    votes = torch.zeros(len(classes), len(classes), dtype=torch.float64)
    votes.index_put_(
        (place, place[torch.cat(found)]), torch.ones(len(x), dtype=torch.float64), True
    )
    shares = votes / votes.sum(1, keepdim=True).clamp(min=1)
    return [[round(share, 4) for share in row] for row in shares.tolist()]
