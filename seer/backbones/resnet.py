"""ResNet (He et al. 2016, arXiv:1512.03385), the stride on the 3x3 convolution, with all widths
multiplied by 1, 2 or 4 as in SwAV's wide networks (Caron et al. 2020, arXiv:2006.09882)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from seer.backbones.base import Backbone, BackboneConfig, Bottleneck, ResidualBlock, conv, conv_norm

EXPANSION = 4  # of a bottleneck's output over its middle


@dataclass(frozen=True)
class ResNetSpec:
    """Blocks per stage, whether they are bottlenecks or pairs of 3x3 convolutions, and the width
    multiplier.
    """

    depths: tuple[int, int, int, int]
    bottleneck: bool
    width: int = 1

    @property
    def depth(self) -> int:
        """Blocks in all."""
        return sum(self.depths)

    @property
    def inner_widths(self) -> tuple[int, ...]:
        """Widths of the 3x3 convolutions, stage by stage; the stem is as wide as the first."""
        return tuple(64 * self.width * 2**i for i in range(4))

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the stages' outputs."""
        return tuple(width * (EXPANSION if self.bottleneck else 1) for width in self.inner_widths)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions."""

    final_norm = "bn2"

    def __init__(self, in_width: int, out_width: int, stride: int = 1) -> None:
        super().__init__(in_width, out_width, stride)
        self.conv1 = conv(in_width, out_width, 3, stride)
        self.bn1 = nn.BatchNorm2d(out_width)
        self.conv2 = conv(out_width, out_width, 3)
        self.bn2 = nn.BatchNorm2d(out_width)

    def branch(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.bn2(self.conv2(x))


class ResNet(Backbone):
    """The trunk: a 7x7 stem with max-pool (3x3 without for `stem_stride=1`), then four stages of
    strides 1, 2, 2, 2.
    """

    def __init__(self, spec: ResNetSpec, config: BackboneConfig) -> None:
        self.spec = spec
        stem_width = spec.inner_widths[0]
        relu = nn.ReLU(inplace=True)
        if config.stem_stride == 1:
            stem = conv_norm(3, stem_width, 3, 1, relu)
        else:
            stem = conv_norm(3, stem_width, 7, 2, relu, nn.MaxPool2d(3, stride=2, padding=1))
        super().__init__(config, stem, [_stage(spec, i) for i in range(4)], spec.widths)


def _stage(spec: ResNetSpec, i: int) -> nn.Sequential:
    in_width = spec.widths[i - 1] if i else spec.inner_widths[0]
    out_width = spec.widths[i]
    stride = 2 if i else 1
    block: Callable[..., nn.Module] = BasicBlock
    if spec.bottleneck:
        block = partial(Bottleneck, mid_width=spec.inner_widths[i])
    blocks = [block(in_width, out_width=out_width, stride=stride)]
    for _ in range(1, spec.depths[i]):
        blocks.append(block(out_width, out_width=out_width))
    return nn.Sequential(*blocks)


_DEPTHS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
RESNETS = {
    f"resnet{layers}" + (f"w{width}" if width > 1 else ""): ResNetSpec(depths, layers >= 50, width)
    for layers, depths in _DEPTHS.items()
    for width in (1, 2, 4)
}
