"""BYOL: predict a slowly following teacher's embedding of another view (Grill et al. 2020,
arXiv:2006.07733).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seer.data.views import Views
from seer.distributed import all_reduce_mean
from seer.engine.learner import Output, Step
from seer.errors import InputError
from seer.methods.base import Method, forward_crops, over_crops
from seer.methods.heads import MLP
from seer.methods.losses import regression
from seer.methods.memory import Teacher
from seer.methods.options import BYOLConfig
from seer.precision import at_least_fp32
from seer.schema import check_options


class BYOL(Method):
    """Views: two or more large crops, which student and teacher see; any small ones go to the
    student alone.
    """

    Config = BYOLConfig

    def __init__(self, backbone: nn.Module, config: BYOLConfig):
        super().__init__()
        check_options(config, "method")
        self.config = config
        self.backbone = backbone
        self.head = MLP(backbone.out_dim, config.head, bias_out=False)  # type: ignore[arg-type]
        if config.predictor[-1:] != config.head[-1:]:
            raise InputError(
                f"method.predictor={config.predictor}: must end in {config.head[-1]}, as method.head"
            )
        self.predictor = MLP(config.head[-1], config.predictor, bias_out=False)
        self.teacher = Teacher(self.backbone, self.head)

    def reset_parameters(self) -> None:
        for module in (self.backbone, self.head, self.predictor):
            module.reset_parameters()  # type: ignore[operator]
        self.after_load()

    def after_load(self) -> None:
        self.teacher.copy_from(self.backbone, self.head)

    def forward(self, views: Views, step: Step) -> Output:
        if len(views.crops[0]) < 2:
            raise InputError(
                "views: byol predicts one large crop from another; set views.large.count=2"
            )
        embeddings = over_crops(self.head, forward_crops(self.backbone, views))
        predictions = over_crops(self.predictor, embeddings)
        targets = self.teacher(views)
        loss = regression(predictions, targets)
        metrics = {"target_similarity": 1 - loss.detach() / 4}
        if step.measure:
            metrics["target_spread"] = spread(targets[0])
        return Output(loss, metrics, embeddings[0].detach())

    def after_update(self, step: Step) -> None:
        self.teacher.follow(self.backbone, self.head, teacher_momentum(self.config.momentum, step))


def teacher_momentum(base: float, step: Step) -> float:
    """1 - (1 - base) · (cos(π k / K) + 1) / 2: from `base` at step 0 to 1 at the end (section 3.3)."""
    return 1 - (1 - base) * (math.cos(math.pi * step.number / step.total) + 1) / 2


@torch.no_grad()
def spread(embeddings: Tensor) -> Tensor:
    """Root mean square distance of all ranks' `(B, D)` directions from their mean: 0 is collapse, 1
    all round.
    """
    mean = all_reduce_mean(F.normalize(at_least_fp32(embeddings), dim=1).mean(dim=0))
    return (1 - mean.square().sum()).clamp_(min=0).sqrt()
