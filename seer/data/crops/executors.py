"""Which kernels cut and alter the crops of a batch, by the type of the device; everywhere else plain
torch does.

Nothing is imported before a batch is on such a device, and so nothing of it in a loader's workers.
"""

import logging
from collections.abc import Callable
from functools import cache
from types import ModuleType

import torch

logger = logging.getLogger(__name__)


def triton_kernels() -> ModuleType:
    from seer.data.crops import fused

    return fused


KERNELS: dict[str, Callable[[], ModuleType]] = {"cuda": triton_kernels}


@cache
def kernels_for(device: torch.device) -> ModuleType | None:
    """The module that has `cut` and `alter` for this device, once they have run there; None where
    the plain functions are to be used.
    """
    if device.type not in KERNELS:
        return None
    try:
        kernels = KERNELS[device.type]()
        kernels.attempt(device)
    except Exception as error:  # no Triton, no compiler for its launcher, a card it does not know
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        logger.warning("crops on %s go the slow way, kernel by kernel (%s)", device, reason)
        return None
    return kernels
