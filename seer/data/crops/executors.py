"""Which kernels cut and alter the crops of a batch; where there are none plain torch does."""

from types import ModuleType

import torch

from seer import kernels


def kernels_for(device: torch.device) -> ModuleType | None:
    """The module that has `cut` and `alter` for this device; None where the plain functions are to
    be used.
    """
    return kernels.kernels_for(device, "seer.data.crops.fused", "crops")
