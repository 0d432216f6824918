"""Mixed precision: what a forward pass computes in, and the arithmetic that it must leave alone."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

# What autocast computes in; None: no autocast. Parameters are fp32, or float64 for fp64.
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": None}


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The context of a forward pass."""
    dtype = PRECISIONS[precision]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def at_least_fp32(tensor: Tensor) -> Tensor:
    """Half precision to fp32; fp32 and float64 as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` outside autocast, its positional floating-point tensors in at least fp32."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        raised: Any = tuple(
            at_least_fp32(a) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args
        )
        device = next(a.device.type for a in args if isinstance(a, Tensor))
        # Autocast has no notion of the meta device, on which shapes and costs are worked out.
        with torch.autocast(device if device != "meta" else "cpu", enabled=False):
            return function(*raised, **kwargs)

    return wrapped
