"""RegNet X and Y: widths and depths from five numbers (Radosavovic et al. 2020, arXiv:2003.13678)."""

from torch import nn

from seer.backbones.base import Backbone, BackboneConfig, Bottleneck, conv_norm
from seer.backbones.designs import RegNetSpec, Stage

STEM_WIDTH = 32
SE_RATIO = 0.25  # of the block's *input* width


class RegNet(Backbone):
    """The trunk: a 3x3 stem of 32 channels, then four stages, each starting with stride 2."""

    def __init__(self, spec: RegNetSpec, config: BackboneConfig) -> None:
        self.spec = spec
        stages = spec.stages
        widths = [STEM_WIDTH, *(stage.width for stage in stages)]
        stem = conv_norm(3, STEM_WIDTH, 3, config.stem_stride, nn.ReLU(inplace=True))
        layers = [
            _stage(width, stage, spec.se) for width, stage in zip(widths, stages, strict=False)
        ]
        super().__init__(config, stem, layers, widths[1:])


def _stage(in_width: int, stage: Stage, se: bool) -> nn.Sequential:
    blocks = []
    for i in range(stage.depth):
        stride = 2 if i == 0 else 1
        se_width = round(SE_RATIO * in_width) if se else 0
        groups = stage.width // stage.group_width
        blocks.append(Bottleneck(in_width, stage.width, stage.width, stride, groups, se_width))
        in_width = stage.width
    return nn.Sequential(*blocks)
