"""Distillation without labels: a student learns a frozen teacher's features of its crops.

Of each image the teacher sees the large crops. Its features, each dimension with mean 0 and deviation 1
over the batch of all ranks, are what the student's projection of the same crop is to be, and what its
projections of small crops are to be on the mean: the loss is the mean square of what is amiss. It is 1
for a student that knows nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seer.data.views import Views
from seer.distributed import all_reduce_mean
from seer.engine.learner import Output, Step
from seer.engine.symptoms import Symptom
from seer.errors import InputError
from seer.methods.base import Method, forward_crops, over_crops
from seer.methods.heads import MLP
from seer.methods.options import DistillConfig
from seer.precision import at_least_fp32, full_precision
from seer.schema import check_options

SMALLEST = 1e-6  # deviation of a feature that is divided by
NOTHING = 0.98  # a loss that is 1 for who knows nothing
SYMPTOMS = (
    Symptom(
        "learns_nothing",
        ("loss",),
        lambda v: v["loss"] > NOTHING,
        "the student knows nothing of the teacher's features (loss {loss:.2f}; 1 by their means alone)",
        "raise schedule.peak, or easier crops (views.large.scale=[0.5, 1.0])",
    ),
)


class Distill(Method):
    """Views: one or more large crops; any small ones go to the student alone.

    `take_teacher` comes before the first step.
    """

    Config = DistillConfig
    symptoms = SYMPTOMS
    scale: Tensor
    shift: Tensor

    def __init__(self, backbone: nn.Module, config: DistillConfig):
        super().__init__()
        check_options(config, "method")
        if not config.teacher:
            raise InputError("method.teacher: not set; give MODEL, for instance timm:resnet50")
        self.config = config
        self.backbone = backbone

    def take_teacher(
        self, load: Callable[[], nn.Module], colours: Sequence[Sequence[float]]
    ) -> None:
        """Have the teacher that `load` gives, on whatever device this method is being built on; and the
        projection to its features.

        Neither is it trained nor saved: it is held as buffers that no checkpoint has.

        Args:
            load: a network on the CPU that maps `(B, 3, S, S)` to `(B, out_dim)`; called again by
                `reset_parameters`.
            colours: mean and deviation of the run's images, and those that the teacher is for.
        """
        self._load = load
        self._colours = colours
        device = torch.empty(0).device
        for name, values in zip(("scale", "shift"), self._to_its_colours(), strict=True):
            self.register_buffer(name, values.to(device), persistent=False)
        network = load()
        widths = [*self.config.head, int(network.out_dim)]  # type: ignore[arg-type]
        self.head = MLP(self.backbone.out_dim, widths, self.config.head_bn)  # type: ignore[arg-type]
        self.teacher = as_buffers(network.to(device)).eval()

    def _to_its_colours(self) -> tuple[Tensor, Tensor]:
        """By what images normalised as the run's become such as the teacher's."""
        mean, std, its_mean, its_std = (
            torch.tensor(values, device="cpu").view(3, 1, 1) for values in self._colours
        )
        return std / its_std, (mean - its_mean) / its_std

    def train(self, mode: bool = True) -> "Distill":
        super().train(mode)
        self.teacher.eval()
        return self

    def reset_parameters(self) -> None:
        self.backbone.reset_parameters()  # type: ignore[operator]
        self.head.reset_parameters()
        fresh = dict(as_buffers(self._load()).named_buffers())
        scale, shift = self._to_its_colours()
        with torch.no_grad():
            self.scale.copy_(scale)
            self.shift.copy_(shift)
            for name, buffer in self.teacher.named_buffers():
                buffer.copy_(fresh[name])

    def forward(self, views: Views, step: Step) -> Output:
        large = views.crops[0]
        with torch.no_grad():
            features = over_crops(self.teacher, large * self.scale + self.shift)
            targets = standardised(at_least_fp32(features))
        predictions = over_crops(self.head, forward_crops(self.backbone, views))
        small = len(predictions) - len(targets)
        every = torch.cat([targets, targets.mean(0, keepdim=True).expand(small, -1, -1)])
        loss = amiss(predictions, every)
        cosine = F.cosine_similarity(at_least_fp32(predictions.detach()), every, dim=-1).mean()
        return Output(loss, {"teacher_cosine": cosine}, predictions[0].detach())


@full_precision
def amiss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean square difference of `(V, B, D)`."""
    return (predictions - targets).square().mean()


@full_precision
def standardised(features: Tensor) -> Tensor:
    """`(V, B, D)` with mean 0 and deviation 1 in each dimension, over crops and all ranks' images; a
    dimension that is constant becomes 0.
    """
    mean = all_reduce_mean(features.mean((0, 1)))
    variance = all_reduce_mean((features - mean).square().mean((0, 1)))
    return (features - mean) / variance.sqrt().clamp(min=SMALLEST)


def as_buffers(network: nn.Module) -> nn.Module:
    """The network with its parameters as buffers, of which no checkpoint has any: no optimizer, DDP nor
    FSDP takes them for what is trained.
    """
    for module in network.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                del module._parameters[name]
                module.register_buffer(name, parameter.detach(), persistent=False)
        module._non_persistent_buffers_set.update(module._buffers)
    return network


def has_teacher(config: Any) -> bool:
    """Whether a method's options name one."""
    return bool(getattr(config, "teacher", ""))
