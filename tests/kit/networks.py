"""The networks of the tests. Whoever imports this knows the backbone `regnety_tiny`."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from seer.backbones import BACKBONES
from seer.backbones.regnet import RegNet, RegNetSpec

# Stages of 1, 1, 2 and 1 blocks: everything that a RegNetY has, in a third of the time of the
# smallest published one, and in 80 kB.
TINY = partial(RegNet, RegNetSpec(5, 8, 12.0, 2.0, 8, se=True))
BACKBONES["regnety_tiny"] = TINY


class ConvNet(nn.Module):
    """Convolution, BatchNorm, ReLU, mean over space: `(B, 3, S, S)` to `(B, width)`.

    Attributes:
        seen: how many images went through.
    """

    def __init__(self, width: int = 8, stride: int = 1):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, width, 3, stride), nn.BatchNorm2d(width)
        self.out_dim, self.seen = width, 0

    def reset_parameters(self) -> None:
        self.conv.reset_parameters()
        self.bn.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return self.bn(self.conv(x)).relu().mean((2, 3))


class Block(nn.Module):
    """A residual block; the shortcut changes the width where it must."""

    def __init__(self, in_width: int, out_width: int):
        super().__init__()
        self.conv = nn.Conv2d(in_width, out_width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_width)
        self.shortcut = (
            nn.Identity() if in_width == out_width else nn.Conv2d(in_width, out_width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)) + self.shortcut(x), inplace=True)


class ResidualNet(nn.Module):
    """A stem and two stages of residual blocks, which parallelism wraps one by one: `(B, 3, S, S)`
    to `(B, 2 width)`.
    """

    def __init__(self, width: int = 4):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        one = nn.Sequential(Block(width, width), Block(width, width), Block(width, width))
        two = nn.Sequential(Block(width, 2 * width), Block(2 * width, 2 * width))
        self.stages = nn.ModuleList([one, two])
        self.out_dim = 2 * width

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x.mean((2, 3))
