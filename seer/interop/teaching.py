"""The teacher of a method that learns from another network."""

from collections.abc import Sequence

import torch
from torch import nn

from seer.errors import InputError
from seer.interop.models import Model, load_model, sized
from seer.methods.base import Method
from seer.methods.distill import Distill


def teach(method: Method, mean: Sequence[float], std: Sequence[float]) -> None:
    """Give a method the teacher that its options name, if they do.

    Args:
        mean, std: of the run's images.

    Raises:
        InputError: there is no such model.
    """
    if not isinstance(method, Distill):
        return
    model = _loaded(method.config.teacher)
    networks = [model.backbone]

    def load() -> nn.Module:
        return networks.pop() if networks else _loaded(model_spec).backbone

    model_spec = method.config.teacher
    method.take_teacher(load, [mean, std, model.mean, model.std])


def check_teacher(spec: str, size: int) -> None:
    """Refuse a teacher that takes no images of this size, or whose features are not finite.

    Raises:
        InputError: which.
    """
    model = _loaded(spec)
    try:
        model = sized(model, size)
    except InputError as error:
        raise InputError(f"method.teacher: {error}; set views.large.size") from None
    with torch.inference_mode():
        features = model.backbone(torch.rand(2, 3, size, size))
    if not torch.isfinite(features).all():
        raise InputError(f"method.teacher={spec}: its features are NaN or infinite; give another")


def _loaded(spec: str) -> Model:
    try:
        with torch.device("cpu"):
            return load_model(spec)
    except InputError as error:
        raise InputError(f"method.teacher: {error}") from None
