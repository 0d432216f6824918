"""Self-supervised methods. Adding one is one file here and one line in `METHODS`."""

from typing import Any

from torch import nn

from seer.methods.base import Method
from seer.methods.byol import BYOL
from seer.methods.simclr import SimCLR
from seer.methods.swav import SwAV

METHODS: dict[str, type[Method]] = {
    "swav": SwAV,
    "simclr": SimCLR,
    "byol": BYOL,
}


def make(backbone: nn.Module, config: Any, samples: int) -> Method:
    """The method that a `Config` describes, with its banks for so many images."""
    method = METHODS[config.name](backbone, config)
    for name, bank in method.banks(config, samples).items():
        method.add_module(name, bank)
    return method
