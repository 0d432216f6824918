"""SwAV: predict a crop's prototype assignment from the image's other crops (Caron et al. 2020,
arXiv:2006.09882).

SEER (Goyal et al. 2021, arXiv:2103.01988) is this method with a 3-layer head without BatchNorm,
16,000 prototypes and 10 Sinkhorn iterations.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seer.data.views import Views
from seer.distributed import all_reduce_sum
from seer.engine.learner import Output, Step
from seer.errors import InputError
from seer.methods.base import Method, check_assign, forward_crops, over_crops
from seer.methods.heads import MLP, Prototypes
from seer.methods.losses import swapped_prediction
from seer.methods.memory import Queue, cut_batch
from seer.methods.options import SwAVConfig
from seer.methods.prototypes import PROTOTYPES
from seer.methods.sinkhorn import sinkhorn
from seer.precision import at_least_fp32
from seer.schema import check_options
from seer.steps import whole_steps


class SwAV(Method):
    """Views: at least two crops in all; the crops in `assign` are of the largest size."""

    Config = SwAVConfig
    symptoms = PROTOTYPES

    def __init__(self, backbone: nn.Module, config: SwAVConfig):
        super().__init__()
        check_options(config, "method")
        self.config = config
        self.backbone = backbone
        self.head = MLP(backbone.out_dim, config.head, config.head_bn, config.head_bn_out)  # type: ignore[arg-type]
        self.prototypes = Prototypes(config.head[-1], config.prototypes)
        self.queue = (
            Queue(config.queue, len(config.assign), config.head[-1]) if config.queue else None
        )

    def forward(self, views: Views, step: Step) -> Output:
        config = self.config
        self._check(views)
        features = forward_crops(self.backbone, views)
        embeddings = F.normalize(at_least_fp32(over_crops(self.head, features)), dim=-1)
        scores = over_crops(self.prototypes, embeddings)
        targets, empty = self._assignments(embeddings.detach(), scores.detach(), step)
        loss = swapped_prediction(scores, targets, config.assign, config.temperature)
        metrics = assignment_metrics(targets) | {"prototypes_empty": empty} if step.measure else {}
        return Output(loss, metrics, embeddings[0].detach())

    @classmethod
    def warnings(cls, config: SwAVConfig, batch_size: int, steps: int) -> list[str]:
        lines = []
        if steps <= whole_steps(config.freeze, steps, "method.freeze"):
            lines.append(
                f"method.freeze={config.freeze}: the prototypes stay as initialised in all {steps:,} steps"
            )
        first = whole_steps(config.queue_from, steps, "method.queue_from") + math.ceil(
            config.queue / batch_size
        )
        if not config.queue:
            return lines
        if steps > first:
            return lines + cut_batch(config.queue, batch_size)
        told = f"no step uses it; it would be full after {first:,} of {steps:,}"
        return [*lines, f"method.queue={config.queue}: {told}"]

    def after_backward(self, step: Step) -> None:
        self.prototypes.freeze(self.config.freeze, step)

    def after_update(self, step: Step) -> None:
        self.prototypes.normalize()
        if self.queue is not None:
            if step.number < whole_steps(self.config.queue_from, step.total, "method.queue_from"):
                self.queue.clear()  # checkpoints of older versions hold rows from before its start
                self.queue.aside.take()
            else:
                self.queue.push_aside()

    @torch.no_grad()
    def _assignments(self, embeddings: Tensor, scores: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """`(A, B, K)` assignments of the assigning crops, and how many prototypes went empty."""
        batch = scores.shape[1]
        # One by one: indices in a list would be copied to the device, which waits for it.
        scores = torch.stack([scores[crop] for crop in self.config.assign])
        if self.queue is not None:
            began = step.number >= whole_steps(
                self.config.queue_from, step.total, "method.queue_from"
            )
            if began and self.queue.full:
                remembered = over_crops(self.prototypes, self.queue.share().transpose(0, 1))
                scores = torch.cat([scores, remembered], dim=1)
            assigning = [embeddings[crop] for crop in self.config.assign]
            self.queue.aside.keep(torch.stack(assigning, dim=1), step)
        targets, empty = sinkhorn(scores, self.config.epsilon, self.config.iterations)
        return targets[:, :batch], empty

    def _check(self, views: Views) -> None:
        check_assign(self.config.assign, views)
        if sum(map(len, views.crops)) < 2:
            raise InputError(
                "views: swav predicts one crop from another; set views.large.count=2 or more"
            )


@torch.no_grad()
def assignment_metrics(assignments: Tensor) -> dict[str, Tensor]:
    """How `(A, B, K)` assignments use the prototypes, over all ranks.

    `prototypes_used` counts the prototypes that are some sample's favourite; `perplexity` is the
    number of equally popular ones that would be as diverse. `assignment_entropy` (nats) and
    `assignment_confidence` (highest probability) are means over samples. `sinkhorn_imbalance` is
    how far Sinkhorn's marginals are from equal: the share of samples that would have to change
    prototypes. `log_prototypes`, ln K, is the loss of what tells no image from another.
    """
    prototypes = assignments.shape[-1]
    confidence, favourite = assignments.flatten(0, 1).max(dim=1)
    votes = confidence.new_zeros(prototypes).scatter_add_(0, favourite, torch.ones_like(confidence))
    votes, masses = all_reduce_sum(torch.stack([votes, assignments.sum((0, 1))]))
    return {
        "prototypes_used": (votes > 0).sum(),
        "perplexity": torch.special.entr(votes / votes.sum()).sum().exp(),
        "assignment_entropy": torch.special.entr(assignments).sum(-1).mean(),
        "assignment_confidence": confidence.mean(),
        "sinkhorn_imbalance": (masses / masses.sum() - 1 / prototypes).abs().sum() / 2,
        "log_prototypes": confidence.new_full((), math.log(prototypes)),
    }
