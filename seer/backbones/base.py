"""What every backbone is: a stem, four stages of residual blocks, a global average pool; and how it
is initialised.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seer.backbones.options import BackboneConfig


class Backbone(nn.Module):
    """A convolutional trunk. Maps images `(B, 3, H, W)` to features `(B, out_dim)`.

    Attributes:
        config: what it was built from.
        stem: the layers before the first stage.
        stages: four `nn.Sequential` of blocks; sharding, checkpointing and FPNs cut the network here.
        channels: widths of C2, C3, C4, C5, the outputs of the stages.
        out_dim: D, the width of the last.
    """

    def __init__(
        self,
        config: BackboneConfig,
        stem: nn.Module,
        stages: Iterable[nn.Sequential],
        channels: Sequence[int],
    ) -> None:
        super().__init__()
        self.config = config
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.channels = tuple(channels)
        self.out_dim = self.channels[-1]
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        # Not by way of forward_features: a list of C2..C5 would keep the early ones alive for
        # nothing.
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x.mean((2, 3))

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """The stages' outputs [C2, C3, C4, C5], each `(B, channels[i], H / s, W / s)`.

        s is 4, 8, 16, 32; with `stem_stride=1` it is half of that for a RegNet and a quarter for a
        ResNet.
        """
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features

    def reset_parameters(self) -> None:
        """Initialise every parameter and buffer: convolutions normal with variance 2 / fan-out (He
        et al. 2015, arXiv:1502.01852), their biases 0, BatchNorm 1 and 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.reset_parameters()
        if self.config.zero_init_residual:
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    nn.init.zeros_(getattr(module, module.final_norm).weight)


class ResidualBlock(nn.Module):
    """`relu(branch(x) + shortcut(x))`; the shortcut is a 1x1 projection where the shape changes.

    ReLU works in place on tensors that nothing else saved for backward: BatchNorm's outputs and the
    sum.
    """

    final_norm: ClassVar[str]  # the name of the branch's last BatchNorm

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        same = in_width == out_width and stride == 1
        self.shortcut = nn.Identity() if same else conv_norm(in_width, out_width, 1, stride)

    def branch(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x), inplace=True)


class Bottleneck(ResidualBlock):
    """1x1, grouped 3x3 (which carries the stride), squeeze-and-excitation if `se_width`, 1x1."""

    final_norm = "bn3"

    def __init__(
        self,
        in_width: int,
        mid_width: int,
        out_width: int,
        stride: int = 1,
        groups: int = 1,
        se_width: int = 0,
    ) -> None:
        super().__init__(in_width, out_width, stride)
        self.conv1 = conv(in_width, mid_width, 1)
        self.bn1 = nn.BatchNorm2d(mid_width)
        self.conv2 = conv(mid_width, mid_width, 3, stride, groups)
        self.bn2 = nn.BatchNorm2d(mid_width)
        self.se = SqueezeExcitation(mid_width, se_width) if se_width else nn.Identity()
        self.conv3 = conv(mid_width, out_width, 1)
        self.bn3 = nn.BatchNorm2d(out_width)

    def branch(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return self.bn3(self.conv3(self.se(x)))


class SqueezeExcitation(nn.Module):
    """Channels weighted by a gate that sees their means (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, width: int, squeezed_width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, squeezed_width, 1)
        self.expand = nn.Conv2d(squeezed_width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = F.relu(self.reduce(x.mean((2, 3), keepdim=True)), inplace=True)
        return x * self.expand(squeezed).sigmoid()


def conv(in_width: int, out_width: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A padded convolution without bias (a BatchNorm follows)."""
    return nn.Conv2d(
        in_width, out_width, kernel, stride, padding=kernel // 2, groups=groups, bias=False
    )


def conv_norm(
    in_width: int, out_width: int, kernel: int, stride: int, *more: nn.Module
) -> nn.Sequential:
    """Convolution and BatchNorm, named `conv` and `bn`, then `more`."""
    layers: dict[str, nn.Module] = {
        "conv": conv(in_width, out_width, kernel, stride),
        "bn": nn.BatchNorm2d(out_width),
    }
    return nn.Sequential(
        OrderedDict(layers | {type(layer).__name__.lower(): layer for layer in more})
    )


@torch.no_grad()
def materialize(module: nn.Module, device: torch.device | str) -> nn.Module:
    """Give a module built on `meta` memory on `device` and initialise it by its `reset_parameters`.

    Everything is NaN first, so that whatever `reset_parameters` misses shows in the first loss.
    """
    module.to_empty(device=device)
    for tensor in chain(module.parameters(), module.buffers()):
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))
    module.reset_parameters()  # type: ignore[operator]
    return module
