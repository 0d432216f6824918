"""Options of each method for small images and batches, of `methods.py` and `speedrun.py`."""

import copy
from typing import Any

import yaml

from seer.config import find_recipe

RECIPE: dict[str, Any] = yaml.safe_load(find_recipe("simclr_small").read_text())
NETWORK, CROP = "regnetx_tiny", 24  # of `methods.py`
VIEWS = 2  # crops of an image in `methods.py`: all methods take them
PAIRS = ("moco", "mocov3")  # which take exactly two crops of an image
# By what a method's rate is less: at the others' BYOL's embeddings shrink to nine dimensions.
SLOWER = {"byol": 3}


def recipe_on(network: str = NETWORK, crop: int = CROP) -> dict[str, Any]:
    """`simclr_small`'s values with two crops of so many px and another network."""
    values = copy.deepcopy(RECIPE)
    values["views"]["large"] |= {"count": VIEWS, "size": crop}
    values["backbone"]["name"] = network
    return values


def rate_of(method: str, peak: float = RECIPE["schedule"]["peak"]) -> float:
    """The highest rate of a method, where that of most is `peak`."""
    return peak / SLOWER.get(method, 1)


def options_of(method: str, hidden: int = 512) -> dict[str, Any]:
    """What a method is given in place of its published options, which are for ImageNet and batches of
    thousands: narrow heads, and temperatures and momenta of small batches.
    """
    head = [hidden, 128]
    predicted = {"head": head, "predictor": head, "momentum": 0.99}
    return {
        "swav": {
            "head": head,
            "head_bn_out": True,
            "prototypes": 512,
            "epsilon": 0.02,
            "freeze": 0,
        },
        "simclr": {"head": head, "temperature": 0.2},
        "byol": predicted | {"momentum": 0.9},
        "moco": {"head": head, "head_bn": True, "queue": 4096, "momentum": 0.99, "splits": 4},
        "mocov3": predicted | {"temperature": 0.2},
        "relicv2": predicted,
        "dino": {"head": [hidden, *head], "prototypes": 1024, "momentum": 0.99},
        "deepcluster": {"head": head, "prototypes": [128, 128, 128], "empty": "refill"},
        "visreg": {"head": [hidden, *head], "regularisation": 0.6, "shape": 0.1, "slices": 512},
        "distill": {"head": [hidden]},
    }[method]
