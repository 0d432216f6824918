"""What all self-supervised methods are: learners of the crops of images."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from seer.data.views import Views
from seer.engine.bank import Bank
from seer.engine.learner import Learner
from seer.errors import InputError


class Method(Learner[Views]):
    """A self-supervised method: has a dataclass `Config`, and is built as `Method(backbone,
    config)`.
    """

    Config: ClassVar[type]

    @classmethod
    def warnings(cls, config: Any, batch_size: int, steps: int) -> list[str]:
        """What of `config`, a `Config`, has no effect or another one than meant in a run of
        `steps`; a line each.
        """
        return []

    @classmethod
    def banks(cls, config: Any, samples: int) -> dict[str, Bank]:
        """The rows that such a method keeps of each of so many images, by the name of the attribute
        that they become.
        """
        return {}

    @classmethod
    def keeps_rows(cls, config: Any) -> bool:
        """Whether such a method keeps rows of each image."""
        return bool(cls.banks(config, 1))


def check_assign(assign: Sequence[int], views: Views) -> None:
    """Raise `InputError` for crops that are to assign and are none of the large ones."""
    large = len(views.crops[0])
    if max(assign) >= large:
        raise InputError(
            f"method.assign={list(assign)}: the views have {large} large crops, counted from 0"
        )


def forward_crops(network: nn.Module, views: Views, resolutions: slice = slice(None)) -> Tensor:
    """Run `network` once per resolution on all its crops. Returns `(V, B, D)`, the largest crops
    first.
    """
    outputs = []
    for crops in views.crops[resolutions]:
        v, b = crops.shape[:2]
        outputs.append(network(crops.flatten(0, 1)).unflatten(0, (v, b)))
    return torch.cat(outputs)


def over_crops(network: nn.Module, features: Tensor) -> Tensor:
    """Run `network` once on all crops together: `(V, B, D)` to `(V, B, D')`."""
    return network(features.flatten(0, 1)).unflatten(0, features.shape[:2])
