"""What is finetuned: a backbone and a linear classifier on it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seer.backbones.base import Backbone
from seer.data.views import LabelledImages, neighbours
from seer.engine.learner import Learner, Output, Step
from seer.errors import InputError
from seer.eval.trained.finite import check_finite

NO_IMAGE = -100  # the label of a place without an image: `cross_entropy` leaves it out


class Classifier(Learner[LabelledImages]):
    """A linear layer on a backbone; cross entropy, of mixed images in the shares of their classes.

    Args:
        head_rate: factor on the layer's rate.
        layer_decay: factor on a stage's rate for each stage above it, and for the layer.
        smoothing: share of each label that goes to all classes alike.

    Raises:
        InputError: stages have rates of their own, and the backbone's are not known.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classes: int,
        head_rate: float,
        layer_decay: float = 1.0,
        smoothing: float = 0.0,
    ):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.out_dim, classes)  # type: ignore[arg-type]
        self.factors = {"head.": head_rate, **stage_rates(backbone, layer_decay)}
        self.smoothing = smoothing
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: LabelledImages, step: Step) -> Output:
        logits = self.head(self.backbone(batch.pixels))
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if not self.training:
            check_finite([logits], "outputs")
        right = logits.detach().argmax(1) == batch.labels
        metrics = {"top1": right.float().mean()} if self.training else {"right": right}
        if batch.shares is None:
            return Output(self._losses(logits, batch.labels, "mean"), metrics)
        own = self._losses(logits, batch.labels, "none")
        neighbour = self._losses(logits, neighbours(batch.labels), "none")
        return Output((batch.shares * own + (1 - batch.shares) * neighbour).mean(), metrics)

    def _losses(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return F.cross_entropy(
            logits,
            labels,
            ignore_index=NO_IMAGE,
            reduction=reduction,
            label_smoothing=self.smoothing,
        )

    def rates(self) -> dict[str, float]:
        return self.factors


def stage_rates(backbone: nn.Module, decay: float) -> dict[str, float]:
    """Factors on the rates of the stem and of the stages: `decay` once for each layer above, the
    last of which is the classifier.

    Raises:
        InputError: the backbone's stages are not known.
    """
    if decay == 1:
        return {}
    if not isinstance(backbone, Backbone):
        raise InputError(
            f"layer_decay={decay:g}: the stages of this model are not known, only those of RegNets and ResNets; "
            "use layer_decay=1"
        )
    layers = ["stem", *(f"stages.{i}" for i in range(len(backbone.stages)))]
    return {f"backbone.{name}.": decay ** (len(layers) - i) for i, name in enumerate(layers)}
