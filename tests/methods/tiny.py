"""Methods, views and method configurations small enough for every test."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from seer.data.views import Views
from seer.engine.learner import Output, Step
from seer.engine.step import train_step as engine_step
from seer.methods import METHODS, make
from seer.methods.base import Method
from seer.methods.distill import teachers_of
from seer.methods.lessons import TeacherSource
from tests.kit.networks import ConvNet, ResidualNet

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
    backbone = ResidualNet() if options.get("dense") else ConvNet()
    method = make(backbone, METHODS[name].Config(**options), SAMPLES)
    return with_teachers(method) if name == "distill" else method


def with_teachers(method: Method, samples: int = SAMPLES) -> Method:
    """Wider networks of weights by their own seeds, for images that are normalised otherwise."""

    def load(seed: int) -> nn.Module:
        with torch.random.fork_rng(), torch.device("cpu"):
            torch.manual_seed(seed)
            return ConvNet(width=6)

    colours = [[0.5] * 3, [0.25] * 3, [0.4, 0.5, 0.6], [0.2] * 3]
    last = ("bn", 6) if method.config.dense else ("", 0)
    count = len(teachers_of(method.config))
    sources = [TeacherSource(partial(load, 99 + n), colours, *last) for n in range(count)]
    method.take_teachers(sources, samples)
    if method.config.experts:
        experts = torch.arange(samples) % (len(method.config.experts) + 1) - 1  # -1: none
        method.take_lists(experts.to(torch.int16))
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
