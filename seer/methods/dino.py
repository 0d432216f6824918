"""DINO: predict a teacher's sharpened and centred assignment of another crop (Caron et al. 2021,
arXiv:2104.14294).

In DINO's code the last layer's weights are divided by their lengths in each forward pass; here the
prototypes are scaled to length 1 after each update.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seer.data.views import Views
from seer.distributed import all_reduce_mean
from seer.engine.learner import Output, Step
from seer.engine.symptoms import Symptom
from seer.errors import InputError
from seer.methods.base import forward_crops, over_crops
from seer.methods.heads import MLP, Prototypes
from seer.methods.losses import swapped_prediction
from seer.methods.memory import Aside, Teacher, teacher_momentum
from seer.methods.options import DINOConfig
from seer.methods.student import Student
from seer.precision import at_least_fp32
from seer.rundir.thresholds import FLATTEST
from seer.schema import check_options
from seer.steps import whole_steps

FEWEST = 1.5  # equally popular prototypes that a batch's targets have at least
SYMPTOMS = (
    Symptom(
        "flat_targets",
        ("target_entropy", "log_prototypes"),
        lambda v: v["target_entropy"] > FLATTEST * v["log_prototypes"],
        "the teacher assigns images to all prototypes alike ({target_entropy:.2f} nats of {log_prototypes:.2f})",
        "lower method.teacher_temperature (0.04), or raise method.centre_momentum",
    ),
    Symptom(
        "constant_targets",
        ("target_perplexity",),
        lambda v: v["target_perplexity"] < FEWEST,
        "the teacher assigns all images to the same prototype",
        "raise method.teacher_temperature, lower method.centre_momentum (0.9), lower schedule.peak",
    ),
)


class Scores(nn.Module):
    """`(N, K)` scores of features: a projection to the unit sphere, and its prototypes."""

    def __init__(self, head: MLP, prototypes: Prototypes):
        super().__init__()
        self.head = head
        self.prototypes = prototypes

    def forward(self, features: Tensor) -> Tensor:
        return self.prototypes(F.normalize(at_least_fp32(self.head(features)), dim=-1))


class DINO(Student):
    """Views: two or more large crops, which student and teacher see; small ones go to the student
    alone.
    """

    Config = DINOConfig
    symptoms = SYMPTOMS
    centre: Tensor

    def __init__(self, backbone: nn.Module, config: DINOConfig):
        super().__init__()
        check_options(config, "method")
        self.config = config
        self.backbone = backbone
        width: int = backbone.out_dim  # type: ignore[assignment]
        self.head = MLP(width, config.head, config.head_bn, activation=nn.GELU)
        self.prototypes = Prototypes(config.head[-1], config.prototypes)
        self.teacher = Teacher(self.backbone, Scores(self.head, self.prototypes))
        self.register_buffer("centre", torch.zeros(config.prototypes))
        self.mean_scores: Aside[Tensor] = Aside()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.centre.zero_()

    def imitated(self) -> nn.Module:
        return nn.ModuleList([self.head, self.prototypes])

    def momentum(self, step: Step) -> float:
        return teacher_momentum(self.config.momentum, step)

    def forward(self, views: Views, step: Step) -> Output:
        large = views.crops[0]
        if len(large) < 2:
            raise InputError(
                "views: dino predicts one large crop from another; set views.large.count=2"
            )
        features = forward_crops(self.backbone, views)
        embeddings = F.normalize(at_least_fp32(over_crops(self.head, features)), dim=-1)
        scores = over_crops(self.prototypes, embeddings)
        targets = self._targets(self.teacher(large), step)
        loss = swapped_prediction(scores, targets, range(len(large)), self.config.temperature)
        metrics = target_metrics(targets) if step.measure else {}
        return Output(loss, metrics, embeddings[0].detach())

    def after_backward(self, step: Step) -> None:
        self.prototypes.freeze(self.config.freeze, step)

    def after_update(self, step: Step) -> None:
        self.prototypes.normalize()
        super().after_update(step)
        self.teacher.head.prototypes.normalize()  # type: ignore[union-attr, operator]
        if means := self.mean_scores.take():
            self.centre.lerp_(torch.stack(means).mean(0), 1 - self.config.centre_momentum)

    @torch.no_grad()
    def _targets(self, scores: Tensor, step: Step) -> Tensor:
        """`(A, B, K)` probabilities; the scores' mean over all ranks is set aside for the centre."""
        self.mean_scores.keep(all_reduce_mean(scores.mean((0, 1))).to(self.centre.dtype), step)
        return F.softmax((scores - self.centre) / teacher_temperature(self.config, step), dim=-1)


def teacher_temperature(config: DINOConfig, step: Step) -> float:
    """Of a step: it rises in a line from its start, and stays."""
    warmup = whole_steps(config.teacher_warmup, step.total, "method.teacher_warmup")
    share = min(1.0, step.number / warmup) if warmup else 1.0
    start = config.teacher_temperature_start
    return start + (config.teacher_temperature - start) * share


@torch.no_grad()
def target_metrics(targets: Tensor) -> dict[str, Tensor]:
    """How `(A, B, K)` targets use the prototypes: their mean entropy in nats; the number of equally
    popular prototypes that would be as diverse as those that all ranks' targets use; and ln K.
    """
    popularity = all_reduce_mean(targets.mean((0, 1)))
    return {
        "target_entropy": torch.special.entr(targets).sum(-1).mean(),
        "target_perplexity": torch.special.entr(popularity).sum().exp(),
        "log_prototypes": popularity.new_full((), math.log(len(popularity))),
    }
