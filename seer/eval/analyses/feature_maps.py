"""A network's last feature map, which still tells places apart."""

from collections.abc import Callable

import torch
from torch import Tensor

from seer.backbones.base import Backbone
from seer.errors import InputError
from seer.interop.last_map import name_of_last_map
from seer.interop.models import Model

FeatureMap = Callable[[Tensor], Tensor]  # normalised images `(B, 3, S, S)` → `(B, …)`


def last_map(model: Model, device: torch.device) -> tuple[str, FeatureMap]:
    """What it is called, and the function that computes it: C5 of a backbone of ours; of others the
    last output of any module that has a value for several places, as `(B, C, H, W)` or tokens `(B, N, C)`.

    Raises:
        InputError: no module has such an output.
    """
    network = model.backbone.to(device).eval()
    if isinstance(network, Backbone):
        own = network
        return "C5", lambda x: own.forward_features(x)[-1]
    name = name_of_last_map(network, torch.zeros(1, 3, model.size, model.size, device=device))
    if not name:
        raise InputError(
            f"{model.label}: has no feature map of several places that images of {model.size} px could be made from"
        )
    module = network.get_submodule(name)

    def compute(x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        handle = module.register_forward_hook(lambda _, inputs, output: kept.append(output))
        try:
            network(x)
        finally:
            handle.remove()
        return kept[-1]

    return name, compute
