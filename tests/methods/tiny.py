"""A backbone, views and method configurations small enough for every test."""

import torch
from torch import Tensor, nn

from seer.data.views import Views
from seer.engine.learner import Step
from seer.engine.step import train_step as engine_step
from seer.methods import METHODS
from seer.methods.base import Method

HEADS: dict[str, dict] = {"swav": {"prototypes": 12}, "byol": {"predictor": [16, 6]}}


class TinyBackbone(nn.Module):
    """Convolution, BatchNorm, ReLU, mean over space: `(B, 3, S, S)` to `(B, 8)`."""

    out_dim = 8

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, self.out_dim, 3), nn.BatchNorm2d(self.out_dim)

    def reset_parameters(self) -> None:
        self.conv.reset_parameters()
        self.bn.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu().mean((2, 3))


def build(name: str, seed: int = 0, **options) -> Method:
    torch.manual_seed(seed)
    options = {"head": [16, 6], **HEADS.get(name, {}), **options}
    return METHODS[name](TinyBackbone(), METHODS[name].Config(**options))


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
    return make_views(**{"small": 2 if name == "swav" else 0, **options})


def train_step(method: Method, views: Views, step: Step, lr: float = 0.1) -> Tensor:
    """One SGD step as the engine takes it; returns the loss."""
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr)
    return engine_step(method, method, optimizer, views, step).loss
