"""Triton kernels of our own: whether they run on a device. Everywhere else PyTorch's operations do
their work.

A module of kernels has `attempt(device)`, which runs all of them on next to nothing. None is
imported before a tensor is on a device that has them, and so none in a loader's workers.
"""

import logging
from functools import cache
from importlib import import_module
from types import ModuleType

import torch

from seer.errors import first_line

log = logging.getLogger(__name__)

DEVICES = {"cuda"}  # the types that they are for


@cache
def kernels_for(device: torch.device, module: str, work: str) -> ModuleType | None:
    """The module of this name, once its kernels have run on this device; None if they cannot, which
    the log says once, of their `work`.
    """
    if device.type not in DEVICES:
        return None
    try:
        kernels = import_module(module)
        kernels.attempt(device)
    except Exception as error:  # no Triton, no compiler for its launcher, a card it does not know
        reason = f"{type(error).__name__}: {first_line(error)}"
        log.warning("%s on %s go the slow way, by PyTorch (%s)", work, device, reason)
        return None
    return kernels
