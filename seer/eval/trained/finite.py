"""Outputs that are no numbers are no answers: nothing is scored by them."""

from collections.abc import Iterable

import torch
from torch import Tensor

from seer.errors import InputError


def check_finite(outputs: Iterable[Tensor], what: str) -> None:
    """Refuse what a trained network makes of test images where that is NaN or infinite: the largest score
    would be any class's. Waits for the device.

    Raises:
        InputError: it is; `what` it is called.
    """
    if not all(bool(torch.isfinite(output).all()) for output in outputs):
        raise InputError(
            f"the trained network's {what} of a test image are NaN or infinite, and nothing can be scored; train with "
            "a lower schedule.peak, or with precision=fp32"
        )
