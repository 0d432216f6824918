"""RegNet X and Y: widths and depths from five numbers (Radosavovic et al. 2020, arXiv:2003.13678)."""

from dataclasses import dataclass, replace
from itertools import groupby
from math import floor, log

from torch import nn

from seer.backbones.base import Backbone, BackboneConfig, Bottleneck, conv_norm

STEM_WIDTH = 32
SE_RATIO = 0.25  # of the block's *input* width


@dataclass(frozen=True)
class RegNetSpec:
    """The design parameters of one RegNet.

    Attributes:
        depth: number of blocks d.
        w_0, w_a, w_m: initial width, slope and multiplier of the quantised linear widths (section 3.3, eq. 2-4).
        group_width: channels per group of the 3x3 convolutions.
        se: with squeeze-and-excitation (RegNetY) or without (RegNetX).
        round_up: round widths to whole groups as torchvision does: halves up, and never down by more than a tenth.
            Otherwise as pycls, ClassyVision and SEER do: to the nearest, halves to even.
    """

    depth: int
    w_0: int
    w_a: float
    w_m: float
    group_width: int
    se: bool
    round_up: bool = False

    @property
    def stages(self) -> list["Stage"]:
        runs = [
            (width, len(list(run)))
            for width, run in groupby(map(self._block_width, range(self.depth)))
        ]
        return [self._whole_groups(width, depth) for width, depth in runs]

    def _block_width(self, i: int) -> int:
        """Width of block i: u_i = w_0 + w_a i, moved to the nearest w_0 w_m^k, then to a multiple
        of 8.
        """
        k = round(log((self.w_0 + self.w_a * i) / self.w_0) / log(self.w_m))
        return round(self.w_0 * self.w_m**k / 8) * 8

    def _whole_groups(self, width: int, depth: int) -> "Stage":
        group_width = min(self.group_width, width)
        groups = floor(width / group_width + 0.5) if self.round_up else round(width / group_width)
        if self.round_up and groups * group_width < 0.9 * width:
            groups += 1
        return Stage(groups * group_width, depth, group_width)


@dataclass(frozen=True)
class Stage:
    """Blocks of one width: `depth` of them, their 3x3 convolutions in groups of `group_width`
    channels.
    """

    width: int
    depth: int
    group_width: int


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


# Names are timm's: the digits are the published GFLOPs times ten, so 016 is 1.6 GF and 1280 is 128 GF.
# Sources: pycls' model zoo up to 32 GF; SEER (vissl) for 64 GF to 10B. ClassyVision registers as
# "regnet_y_256gf" another network than SEER's; 2560 is SEER's.
#        depth   w_0     w_a   w_m  group width
_X = {
    "002": (13, 24, 36.44, 2.49, 8),
    "004": (22, 24, 24.48, 2.54, 16),
    "006": (16, 48, 36.97, 2.24, 24),
    "008": (16, 56, 35.73, 2.28, 16),
    "016": (18, 80, 34.01, 2.25, 24),
    "032": (25, 88, 26.31, 2.25, 48),
    "040": (23, 96, 38.65, 2.43, 40),
    "064": (17, 184, 60.83, 2.07, 56),
    "080": (23, 80, 49.56, 2.88, 120),
    "120": (19, 168, 73.36, 2.37, 112),
    "160": (22, 216, 55.59, 2.10, 128),
    "320": (23, 320, 69.86, 2.00, 168),
}
_Y = {
    "002": (13, 24, 36.44, 2.49, 8),
    "004": (16, 48, 27.89, 2.09, 8),
    "006": (15, 48, 32.54, 2.32, 16),
    "008": (14, 56, 38.84, 2.40, 16),
    "016": (27, 48, 20.71, 2.65, 24),
    "032": (21, 80, 42.63, 2.66, 24),
    "040": (22, 96, 31.41, 2.24, 64),
    "064": (25, 112, 33.22, 2.27, 72),
    "080": (17, 192, 76.82, 2.19, 56),
    "120": (19, 168, 73.36, 2.37, 112),
    "160": (18, 200, 106.23, 2.48, 112),
    "320": (20, 232, 115.89, 2.53, 232),
    "640": (20, 352, 147.48, 2.40, 328),
    "1280": (27, 456, 160.83, 2.52, 264),
    "2560": (27, 640, 230.83, 2.53, 373),
    "10b": (27, 1744, 620.83, 2.52, 1010),
}
REGNETS = {f"regnetx_{size}": RegNetSpec(*row, se=False) for size, row in _X.items()}
REGNETS |= {f"regnety_{size}": RegNetSpec(*row, se=True) for size, row in _Y.items()}

# Three networks come out wider in torchvision: stage 1 of the 8 GF RegNetY has 224 channels there
# and 168 elsewhere.
for _name in ("regnetx_004", "regnety_008", "regnety_080"):
    REGNETS[f"{_name}_tv"] = replace(REGNETS[_name], round_up=True)


def _readable(name: str) -> str:
    """`regnety_008` → `regnety_800mf`, `regnety_080_tv` → `regnety_8gf_tv`."""
    family, digits, *variant = name.split("_")
    megaflops = int(digits) * 100
    size = f"{megaflops}mf" if megaflops < 1000 else f"{megaflops / 1000:g}gf"
    return "_".join([family, size, *variant])


ALIASES = {_readable(name): name for name in REGNETS if name != "regnety_10b"}
