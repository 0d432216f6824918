"""A network without training as a prior of images (Ulyanov et al. 2018, arXiv:1711.10925): an hourglass
with skip connections that makes an image out of fixed noise.

Widths, kernels and noise are those of its inversion of features (supplementary material): six
levels of 16, 32, 64, 128, 128 and 128 channels, kernels of 7, 7, 5, 5, 3 and 3, four channels that
skip each level, average pooling, nearest upsampling, a sigmoid at the end. Small images have fewer
levels, so that the smallest map has two pixels a side or more, for BatchNorm.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (16, 32, 64, 128, 128, 128)
KERNELS = (7, 7, 5, 5, 3, 3)
SKIPPED = 4  # channels
NOISE = 32  # channels of the input
LOUDNESS = 0.1  # the noise is uniform from 0 to this


class Prior(nn.Module):
    """Makes an image `(1, 3, S, S)` with values from 0 to 1. Weights and noise depend on the seed
    alone.
    """

    noise: Tensor

    def __init__(self, size: int, seed: int) -> None:
        super().__init__()
        self.size = size
        levels = max(1, min(len(WIDTHS), int(math.log2(max(2, size))) - 1))
        side = -(-size // 2**levels) * 2**levels  # what can be halved so often
        side = max(side, 2 ** (levels + 1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.register_buffer("noise", LOUDNESS * torch.rand(1, NOISE, side, side))
            self.trunk = Level(NOISE, 0, levels)
            self.last = nn.Conv2d(WIDTHS[0], 3, 1)

    def forward(self) -> Tensor:
        pixels = torch.sigmoid(self.last(self.trunk(self.noise)))
        return pixels[..., : self.size, : self.size]


class Level(nn.Module):
    """One level and all below it: `(B, in_width, H, W)` → `(B, WIDTHS[number], H, W)`, H and W even."""

    def __init__(self, in_width: int, number: int, levels: int) -> None:
        super().__init__()
        width = WIDTHS[number]
        kernel = KERNELS[number]
        is_last = number == levels - 1
        self.skip = layer(in_width, SKIPPED, 1)
        self.down = nn.Sequential(
            nn.Conv2d(in_width, width, kernel, padding=kernel // 2),
            nn.AvgPool2d(2),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            layer(width, width, kernel),
        )
        self.below = nn.Identity() if is_last else Level(width, number + 1, levels)
        deeper = width if is_last else WIDTHS[number + 1]
        self.mix = nn.BatchNorm2d(SKIPPED + deeper)
        self.up = nn.Sequential(layer(SKIPPED + deeper, width, kernel), layer(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        deeper = F.interpolate(self.below(self.down(x)), scale_factor=2.0, mode="nearest")
        return self.up(self.mix(torch.cat([self.skip(x), deeper], 1)))


def layer(in_width: int, width: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_width, width, kernel, padding=kernel // 2),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(0.2),
    )
