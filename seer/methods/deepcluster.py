"""DeepCluster-v2: predict an image's cluster among those of the last epoch's embeddings (Caron et al. 2020,
arXiv:2006.09882, appendix; its code counts where the two differ).

The embeddings are filled in by a pass over all images before the first step, which leaves no trace,
and renewed by the steps: so an image is clustered by what it was when it was last seen. No gradient
moves the centroids. In their code the pass moves BatchNorm's running statistics.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seer.data.views import Views
from seer.engine.bank import Bank
from seer.engine.learner import Output, Step, Survey
from seer.engine.symptoms import Symptom
from seer.methods.base import Method, check_assign, forward_crops, over_crops
from seer.methods.heads import MLP
from seer.methods.kmeans import spherical_kmeans
from seer.methods.memory import Aside
from seer.methods.options import DeepClusterConfig
from seer.precision import at_least_fp32, full_precision
from seer.schema import check_options

MOST_EMPTY = 0.5  # share of clusters without images
SYMPTOMS = (
    Symptom(
        "empty_clusters",
        ("clusters_empty",),
        lambda v: v["clusters_empty"] > MOST_EMPTY,
        "{clusters_empty:.0%} of the clusters have no image",
        "method.empty=refill, fewer method.prototypes, or a lower schedule.peak",
    ),
)


class DeepCluster(Method):
    """Views: the crops in `assign` are of the largest size."""

    Config = DeepClusterConfig
    symptoms = SYMPTOMS
    new_targets = True  # the clusters
    centroids: Tensor
    empty: Tensor
    assignments: Bank

    def __init__(self, backbone: nn.Module, config: DeepClusterConfig):
        super().__init__()
        check_options(config, "method")
        self.config = config
        self.backbone = backbone
        self.head = MLP(backbone.out_dim, config.head, config.head_bn)  # type: ignore[arg-type]
        self.register_buffer("centroids", torch.zeros(sum(config.prototypes), config.head[-1]))
        self.register_buffer("empty", torch.zeros(()))  # share of them
        self.embedded: Aside[tuple[Tensor, Tensor]] = Aside()

    @classmethod
    def banks(cls, config: DeepClusterConfig, samples: int) -> dict[str, Bank]:
        embeddings = {
            name: Bank(samples, config.head[-1]) for name in map(bank_of, range(len(config.assign)))
        }
        assignments = Bank(samples, len(config.prototypes), dtype=torch.int64)
        return {**embeddings, "assignments": assignments}

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.centroids.zero_()
        self.empty.zero_()

    def forward(self, views: Views, step: Step) -> Output:
        check_assign(self.config.assign, views)
        features = forward_crops(self.backbone, views)
        embeddings = F.normalize(at_least_fp32(over_crops(self.head, features)), dim=-1)
        # One by one: indices in a list would be copied to the device, which waits for it.
        assigning = torch.stack([embeddings[crop].detach() for crop in self.config.assign], dim=1)
        if step.surveying:
            return Output(embeddings.new_zeros(()), embeddings=assigning.flatten(1))
        self.embedded.keep((views.index, assigning), step)
        clusters = self.assignments.read(views.index)
        loss, accuracy = self._loss(embeddings, clusters)
        metrics = {"cluster_accuracy": accuracy, "clusters_empty": self.empty.clone()}
        return Output(loss, metrics, embeddings[0].detach())

    def before_epoch(self, step: Step, survey: Survey[Views]) -> None:
        self.config.check_images(self.assignments.length)
        if step.epoch < 1:
            for views, output in survey():
                assert output.embeddings is not None
                crops = output.embeddings.unflatten(1, (len(self.config.assign), -1))
                self._remember(views.index, crops)
        self._cluster(step)

    def after_update(self, step: Step) -> None:
        for index, crops in self.embedded.take():
            self._remember(index, crops)

    def _remember(self, index: Tensor, crops: Tensor) -> None:
        """Write `(B, A, D)` embeddings of samples `(B,)` into the banks."""
        for number, embeddings in enumerate(crops.unbind(1)):
            self._bank(number).write(index, embeddings)

    def _bank(self, number: int) -> Bank:
        return getattr(self, bank_of(number))

    @torch.no_grad()
    def _cluster(self, step: Step) -> None:
        """Cluster the images anew, once for each entry of `prototypes`."""
        empty = 0
        for number, centroids in enumerate(self._each()):
            bank = self._bank(number % len(self.config.assign))
            draw = np.random.default_rng([step.number, number])
            chosen = draw.choice(bank.length, len(centroids), replace=False)
            begin = bank.read(torch.from_numpy(chosen).to(centroids.device))
            refill = self.config.empty == "refill"
            clusters = spherical_kmeans(bank.rows, begin, self.config.iterations, refill)
            centroids.copy_(clusters.centroids)
            self.assignments.rows[:, number] = clusters.assignments
            empty += clusters.empty
        self.empty.fill_(empty / len(self.centroids))

    def _each(self) -> Iterator[Tensor]:
        """The centroids of each clustering."""
        return iter(self.centroids.split(self.config.prototypes))

    @full_precision
    def _loss(self, embeddings: Tensor, clusters: Tensor) -> tuple[Tensor, Tensor]:
        """The cross entropy in nats of `(V, B, D)` embeddings with the images' clusters `(B, H)`, the
        mean over crops, images and clusterings; and how often the nearest centroid is the image's.
        """
        losses = []
        hits = []
        for number, centroids in enumerate(self._each()):
            scores = (embeddings @ centroids.T).flatten(0, 1)
            targets = clusters[:, number].repeat(len(embeddings))
            losses.append(F.cross_entropy(scores / self.config.temperature, targets))
            hits.append((scores.argmax(1) == targets).float().mean())
        return torch.stack(losses).mean(), torch.stack(hits).mean().detach()


def bank_of(number: int) -> str:
    """The name of the bank of one of the assigning crops."""
    return f"embeddings{number}"
