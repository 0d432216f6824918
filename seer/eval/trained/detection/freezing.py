"""What of a detector's backbone stays as it came."""

from torch.nn.modules.batchnorm import _BatchNorm

from seer.interop.levels import Levels


def freeze(levels: Levels, up_to: int, norms: bool) -> None:
    """Leave the levels up to Cn as they are, and with `norms` all BatchNorms' factors."""
    frozen = {name for names in levels.parts[: max(0, up_to - 1)] for name in names}
    for name, parameter in levels.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    for norm in frozen_norms(levels, up_to, norms):
        for parameter in norm.parameters(recurse=False):
            parameter.requires_grad_(False)


def frozen_norms(levels: Levels, up_to: int, every: bool) -> list[_BatchNorm]:
    """The BatchNorms that stay as they are: all, or those of the frozen levels."""
    frozen = {name for names in levels.parts[: max(0, up_to - 1)] for name in names}
    return [
        module
        for name, module in levels.named_modules()
        if isinstance(module, _BatchNorm) and (every or f"{name}.weight" in frozen)
    ]
