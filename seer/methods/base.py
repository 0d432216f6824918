"""The contract between a method and the engine: views in, loss and metrics out."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from seer.data.views import Views


@dataclass(frozen=True)
class Step:
    """Where the run stands. `number` counts optimizer steps from 0; `epoch` is a float; `lr` is this step's rate.

    `measure` says whether anyone will look at the step's metrics: what is costly may be left out of the others.
    """

    number: int
    total: int
    epoch: float = 0.0
    lr: float = 0.0
    measure: bool = True


@dataclass
class Output:
    """What one forward pass gives: a scalar loss to minimise, detached scalars to log, `(B, D)` detached embeddings."""

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    embeddings: Tensor | None = None


class Method(nn.Module):
    """A self-supervised method. Knows neither the engine nor how its parameters are sharded.

    A concrete method has a dataclass `Config`, is built as `Method(backbone, config)`, and must be buildable on the
    `meta` device: `reset_parameters()` (re)initialises everything that is its own, backbone included.

    A step that is not finite is not applied. So `forward` changes no buffer but BatchNorm's running statistics, which
    the engine restores; queues, banks and teachers move in `after_update`.
    """

    Config: ClassVar[type]
    backbone: nn.Module

    @classmethod
    def warnings(cls, config: Any, batch_size: int, steps: int) -> list[str]:
        """What of `config`, a `Config`, has no effect or another one than meant in a run of `steps`; a line each."""
        return []

    def reset_parameters(self) -> None:
        for child in self.children():
            child.reset_parameters()  # type: ignore[operator]

    def forward(self, views: Views, step: Step) -> Output:
        raise NotImplementedError

    def after_load(self) -> None:
        """Called when the backbone's weights have come from elsewhere, before the first step (teachers copy them)."""

    def before_epoch(self, loader) -> None:
        """Called before the first step of each epoch (DeepCluster's k-means)."""

    def after_backward(self, step: Step) -> None:
        """Called when gradients are final, before clipping and the update (frozen prototypes)."""

    def after_update(self, step: Step) -> None:
        """Called after the optimizer's update (EMA teacher, renormalised prototypes, queues)."""


def forward_crops(network: nn.Module, views: Views, resolutions: slice = slice(None)) -> Tensor:
    """Run `network` once per resolution on all its crops. Returns `(V, B, D)`, the largest crops first."""
    outputs = []
    for crops in views.crops[resolutions]:
        v, b = crops.shape[:2]
        outputs.append(network(crops.flatten(0, 1)).unflatten(0, (v, b)))
    return torch.cat(outputs)


def over_crops(network: nn.Module, features: Tensor) -> Tensor:
    """Run `network` once on all crops together: `(V, B, D)` to `(V, B, D')`."""
    return network(features.flatten(0, 1)).unflatten(0, features.shape[:2])
