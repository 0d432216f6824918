"""Dense heads on C2 … C5: UPerNet (Xiao et al. 2018, arXiv:1807.10221), PSPNet (Zhao et al. 2017,
arXiv:1612.01105), and the small one whose loss helps them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

GRIDS = (1, 2, 3, 6)  # places across a pooled map


def conv_norm_relu(in_width: int, out_width: int, kernel: int) -> nn.Sequential:
    """A padded convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_width, out_width, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_width),
        nn.ReLU(inplace=True),
    )


def enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    """A map at another size, bilinear."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return interpolate(x, tuple(size), mode="bilinear", align_corners=False)


class PyramidPooling(nn.Module):
    """A map beside its means over coarse grids, in one map of `width` channels (PSPNet, section 3.2)."""

    def __init__(self, in_width: int, width: int):
        super().__init__()
        pooled = [
            nn.Sequential(nn.AdaptiveAvgPool2d(grid), *conv_norm_relu(in_width, width, 1))
            for grid in GRIDS
        ]
        self.pooled = nn.ModuleList(pooled)
        self.joined = conv_norm_relu(in_width + len(GRIDS) * width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        return self.joined(torch.cat([x, *(enlarged(pool(x), size) for pool in self.pooled)], 1))


class Head(nn.Module):
    """Maps C2 … C5 → `(B, channels, h, w)`.

    Attributes:
        width: of the map before the last layer.
    """

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.width = width
        self.last = nn.Conv2d(width, channels, 1)

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        raise NotImplementedError

    def forward(self, maps: Sequence[Tensor], kept: Tensor | None = None) -> Tensor:
        """The outputs. `kept` `(B, width)` are factors on the channels that the last layer sees (dropout)."""
        x = self.features(maps)
        if kept is not None:
            x = x * kept[:, :, None, None].to(x.dtype)
        return self.last(x)


class PSPNet(Head):
    """Pyramid pooling of C5."""

    def __init__(self, in_widths: Sequence[int], width: int, channels: int):
        super().__init__(width, channels)
        self.pooling = PyramidPooling(in_widths[-1], width)

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        return self.pooling(maps[-1])


class UPerNet(Head):
    """A pyramid of features whose top is pyramid pooling of C5, all its levels together at the size of C2."""

    def __init__(self, in_widths: Sequence[int], width: int, channels: int):
        super().__init__(width, channels)
        self.pooling = PyramidPooling(in_widths[-1], width)
        self.lateral = nn.ModuleList(conv_norm_relu(own, width, 1) for own in in_widths[:-1])
        self.smooth = nn.ModuleList(conv_norm_relu(width, width, 3) for _ in in_widths[:-1])
        self.fused = conv_norm_relu(len(in_widths) * width, width, 3)

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        levels = [self.pooling(maps[-1])]
        for lateral, own in zip(reversed(self.lateral), reversed(maps[:-1]), strict=True):
            levels.insert(0, lateral(own) + enlarged(levels[0], own.shape[2:]))
        smoothed = [smooth(own) for smooth, own in zip(self.smooth, levels, strict=False)]
        size = levels[0].shape[2:]
        return self.fused(torch.cat([enlarged(own, size) for own in (*smoothed, levels[-1])], 1))


class Auxiliary(Head):
    """One convolution on C4, for a loss beside the head's (PSPNet, section 3.3)."""

    def __init__(self, in_widths: Sequence[int], width: int, channels: int):
        super().__init__(width, channels)
        self.block = conv_norm_relu(in_widths[-2], width, 3)

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        return self.block(maps[-2])


HEADS: dict[str, Callable[[Sequence[int], int, int], Head]] = {"upernet": UPerNet, "pspnet": PSPNet}
