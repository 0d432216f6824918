"""Methods, views and method configurations small enough for every test."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from seer.data.views import Views
from seer.engine.learner import Output, Step
from seer.engine.step import train_step as engine_step
from seer.methods import METHODS, make
from seer.methods.base import Method
from tests.kit.networks import ConvNet

HEADS: dict[str, dict] = {
    "swav": {"prototypes": 12},
    "byol": {"predictor": [16, 6]},
    "moco": {"queue": 14, "momentum": 0.9},
    "mocov3": {"predictor": [16, 6]},
    "dino": {"prototypes": 12, "freeze": 0},
    "deepcluster": {"prototypes": [5, 3]},
    "distill": {"teacher": "ours", "head": [16]},
    "relicv2": {"predictor": [16, 6], "negatives": 3},
    "visreg": {"slices": 16, "shape": 0.1},  # few quantiles deviate by less than 1
}
SMALL = ("swav", "dino", "deepcluster", "visreg", "relicv2", "distill")  # they take small crops
SAMPLES = 20


def build(name: str, seed: int = 0, **options) -> Method:
    torch.manual_seed(seed)
    options = {"head": [16, 6], **HEADS.get(name, {}), **options}
    method = make(ConvNet(), METHODS[name].Config(**options), SAMPLES)
    return with_teacher(method) if name == "distill" else method


def with_teacher(method: Method) -> Method:
    """A wider network of weights by its own seed, for images that are normalised otherwise."""

    def load() -> nn.Module:
        with torch.random.fork_rng(), torch.device("cpu"):
            torch.manual_seed(99)
            return ConvNet(width=6)

    method.take_teacher(load, [[0.5] * 3, [0.25] * 3, [0.4, 0.5, 0.6], [0.2] * 3])
    return method


def make_views(
    batch: int = 4, small: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Views:
    draw = torch.Generator().manual_seed(seed)
    large = torch.randn(2, batch, 3, 8, 8, generator=draw, dtype=dtype)
    crops = (
        [large, torch.randn(small, batch, 3, 5, 5, generator=draw, dtype=dtype)]
        if small
        else [large]
    )
    return Views(tuple(crops), torch.arange(batch))


def views_for(name: str, **options) -> Views:
    return make_views(**{"small": 2 if name in SMALL else 0, **options})


def train_step(method: Method, views: Views, step: Step, lr: float = 0.1) -> Tensor:
    """One SGD step as the engine takes it, random numbers by the step; returns the loss."""
    torch.manual_seed(step.number)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr)
    return engine_step(method, method, optimizer, views, step).loss


def begin_epoch(method: Method, batches: list[Views], step: Step) -> None:
    """What the engine does before the first step of an epoch, with these batches as all images."""
    surveying = replace(step, surveying=True, measure=False)

    def survey() -> Iterator[tuple[Views, Output]]:
        for views in batches:
            with torch.no_grad():
                yield views, copy.deepcopy(method)(views, surveying)

    method.before_epoch(step, survey)
