"""Crops on a GPU in a handful of launches for each resolution, whatever their number: Triton
kernels.

The plain functions of `device` and `augment` say what is computed, and are the oracle: the kernels
agree with them to a level (cutting, where a half may round either way) and to 0.01 of a level
(altering, in float32 and never rounded). What each crop needs to know travels as a row of one
table, in one transfer from page-locked memory, so that no launch waits for the device.
"""

import numpy as np
import torch

from seer.data.crops.draws import Appearance, Boxes
from seer.data.crops.fused_alter import alter
from seer.data.crops.fused_cut import cut

__all__ = ["alter", "attempt", "cut"]


def attempt(device: torch.device) -> None:
    """Run every kernel once on next to nothing. Raises what a machine that cannot raises."""
    image = torch.zeros((3, 4, 4), dtype=torch.uint8, device=device)
    box = Boxes(np.array([[0, 0, 4, 4]]), np.zeros(1, bool))
    (crops,) = cut([image], (box,), [4])
    factors = np.array([[0.5, 0.5, 0.5, 0.1]], np.float32)
    off = np.zeros(1, bool)
    look = Appearance(factors, np.arange(4)[None], off, np.ones(1, np.float32), off)
    alter(crops, look, np.ones(1, np.int64), np.ones(3), np.zeros(3))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
