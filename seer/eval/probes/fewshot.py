"""Few-shot classification on frozen features: a class is the centroid of a few of its images (Snell
et al. 2017, arXiv:1703.05175, without training; Guo et al. 2020, arXiv:1912.07200; Ericsson et al.
2021, arXiv:2011.13377).

An episode is some classes, and of each some images to learn from and some to ask about. Episodes are
a function of the seed and of the data alone, so all models meet the same ones.
"""

import logging
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from seer.data.hashing import mix
from seer.data.labelled import Labelled
from seer.distributed import pick_device
from seer.errors import InputError
from seer.eval.data.splitting import joined
from seer.eval.paired import Z
from seer.eval.probes.features import extract
from seer.eval.probes.nearest import Part, Rows, answers
from seer.eval.probes.options import FewshotConfig
from seer.eval.probes.together import goes_on
from seer.eval.scores import Score, mean_of_episodes
from seer.interop.models import Model
from seer.schema import check_options

logger = logging.getLogger("seer.eval")

CHUNK = 2**23  # values of centroids, or of an order of images, at once: 32 MB and 64 MB
MOST_NAMED = 5  # classes that are left out


def run(model: Model, train: Labelled, test: Labelled, config: FewshotConfig) -> list[Score]:
    """The mean accuracy over episodes for each number of shots, of the images of all splits together.

    Raises:
        InputError: an option is wrong, or too few classes have images enough for any number of shots.
    """
    check_options(config)
    images = joined([train, test])
    # By split, as other tasks have them, so that all find the same ones in the cache.
    extracted = [extract(model, train, config, "training images")]
    extracted.append(extract(model, test, config, "test images"))
    if not goes_on():
        return []
    features = Rows(torch.cat(extracted).to(pick_device(config.device)))
    scores = []
    for shots in config.shots:
        eligible = eligible_classes(images, shots, config)
        if len(eligible) >= config.ways:
            episodes = Episodes(images.labels, eligible, shots, config)
            answered = [
                (answers(features, part), part.queries) for part in episodes.parts(features.width)
            ]
            hits, asked = (torch.cat(parts).flatten(1) for parts in zip(*answered, strict=True))
            scores.append(score_of(hits, asked, len(eligible), shots, config))
    if not scores:
        raise InputError(
            f"fewshot: no {config.ways} classes have the {min(config.shots)} + {config.queries} images of an episode; "
            "give fewer shots, queries or ways"
        )
    scores[0].headline = True
    return scores


def eligible_classes(images: Labelled, shots: int, config: FewshotConfig) -> np.ndarray:
    """The classes that have images enough for an episode; the others are named."""
    counts = np.bincount(images.labels, minlength=len(images.classes))
    needed = shots + config.queries
    eligible = np.flatnonzero(counts >= needed)
    small = np.flatnonzero((counts > 0) & (counts < needed)).tolist()
    if small:
        named = ", ".join(images.classes[label] for label in small[:MOST_NAMED])
        logger.warning(
            "fewshot: %d-shot leaves out %d of %d classes, which have fewer than %d + %d images: %s%s",
            shots,
            len(small),
            len(small) + len(eligible),
            shots,
            config.queries,
            named + (", …" if len(small) > MOST_NAMED else ""),
            "" if len(eligible) >= config.ways else "; so it is not measured",
        )
    return eligible


class Episodes:
    """Episodes with a number of shots.

    Args:
        labels: `(N,)` of all images.
        eligible: the classes that they are drawn from.
    """

    def __init__(self, labels: np.ndarray, eligible: np.ndarray, shots: int, config: FewshotConfig):
        self.members = {label: np.flatnonzero(labels == label) for label in eligible.tolist()}
        self.eligible = eligible
        self.shots = shots
        self.config = config

    def images(self, numbers: np.ndarray) -> np.ndarray:
        """The images of the episodes of these numbers, `(E, ways, shots + queries)`, those to learn
        from first.
        """
        seed = self.config.seed, self.shots
        order = mix(*seed, numbers[:, None], self.eligible)
        chosen = self.eligible[np.argsort(order, axis=1, kind="stable")[:, : self.config.ways]]
        wanted = self.shots + self.config.queries
        images = np.empty((*chosen.shape, wanted), np.int64)
        for label in np.unique(chosen).tolist():
            members = self.members[label]
            episodes, ways = np.nonzero(chosen == label)
            order = mix(*seed, numbers[episodes, None], label, np.arange(len(members)))
            smallest = np.argpartition(order, wanted - 1, axis=1)[:, :wanted]
            within = np.argsort(np.take_along_axis(order, smallest, 1), axis=1, kind="stable")
            images[episodes, ways] = members[np.take_along_axis(smallest, within, 1)]
        return images

    def parts(self, width: int) -> Iterator[Part]:
        """All episodes, as many at once as memory allows with features of this width."""
        config = self.config
        largest = max(map(len, self.members.values()))
        each = max(config.ways * width, len(self.eligible), largest)
        for numbers in torch.arange(config.episodes).split(max(1, CHUNK // each)):
            images = torch.from_numpy(self.images(numbers.numpy()))
            yield Part(images[:, :, : self.shots], images[:, :, self.shots :])


def score_of(hits: Tensor, asked: Tensor, classes: int, shots: int, config: FewshotConfig) -> Score:
    """The mean of `(E, Q)` hits, whether the queries of each episode were right.

    Args:
        asked: the numbers of their images, `(E, Q)`.
    """
    by_episode = hits.double().mean(1)
    half = Z * float(by_episode.std()) / len(by_episode) ** 0.5
    details = {
        "episodes": len(hits),
        "classes": classes,
        "half_over_episodes": round(half, 6),  # ± of papers: more episodes of the same images
    }
    title = f"{config.ways}-way {shots}-shot"
    metric = f"top1_{config.ways}way_{shots}shot"
    return mean_of_episodes(metric, title, hits, asked, details, 1 / config.ways)
