"""Self-supervised methods. Adding one is one file here and one line in `METHODS`."""

from seer.methods.base import Method
from seer.methods.byol import BYOL
from seer.methods.simclr import SimCLR
from seer.methods.swav import SwAV

METHODS: dict[str, type[Method]] = {
    "swav": SwAV,
    "simclr": SimCLR,
    "byol": BYOL,
}
