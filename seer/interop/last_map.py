"""Which module of a network gives its last map, which still tells places apart."""

import torch
from torch import Tensor, nn

from seer.backbones.base import Backbone

LAST_STAGE = "stages.3"  # of a backbone of ours


def name_of_last_map(network: nn.Module, images: Tensor) -> str:
    """The last module whose output for `(B, 3, S, S)` images has a value for each of several places, as
    `(B, C, H, W)` or tokens `(B, N, C)`; "" if none has.
    """
    if isinstance(network, Backbone):
        return LAST_STAGE
    names: list[str] = []
    handles = []
    for name, module in network.named_modules():
        if name:
            handles.append(
                module.register_forward_hook(
                    lambda _, inputs, output, name=name: (
                        names.append(name) if _is_map(output) else None
                    )
                )
            )
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return names[-1] if names else ""


def _is_map(output: object) -> bool:
    """Whether an output has a value for each of several places."""
    if not isinstance(output, Tensor) or output.dim() not in (3, 4):
        return False
    places = output.shape[2:] if output.dim() == 4 else output.shape[1:2]
    return places.numel() > 1
