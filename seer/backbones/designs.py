"""The numbers that RegNets (Radosavovic et al. 2020, arXiv:2003.13678) and ResNets (He et al. 2016,
arXiv:1512.03385) are built from, by name.
"""

from dataclasses import dataclass, replace
from itertools import groupby
from math import floor, log

EXPANSION = 4  # of a ResNet's bottleneck's output over its middle


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


@dataclass(frozen=True)
class ResNetSpec:
    """Blocks per stage, whether they are bottlenecks or pairs of 3x3 convolutions, and the width
    multiplier.
    """

    depths: tuple[int, int, int, int]
    bottleneck: bool
    width: float = 1

    @property
    def depth(self) -> int:
        """Blocks in all."""
        return sum(self.depths)

    @property
    def inner_widths(self) -> tuple[int, ...]:
        """Widths of the 3x3 convolutions, stage by stage; the stem is as wide as the first."""
        return tuple(round(64 * self.width) * 2**i for i in range(4))

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the stages' outputs."""
        return tuple(width * (EXPANSION if self.bottleneck else 1) for width in self.inner_widths)


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

# For images of 24 to 32 px on CPUs, with a stem of stride 1: a block in each stage, since what is
# shallow learns within minutes, and groups of 64 channels, which CPUs multiply as quickly as dense ones.
_TINY = {"regnetx_tiny": RegNetSpec(4, 32, 50.0, 2.0, 64, se=False)}


def _readable(name: str) -> str:
    """`regnety_008` → `regnety_800mf`, `regnety_080_tv` → `regnety_8gf_tv`."""
    family, digits, *variant = name.split("_")
    megaflops = int(digits) * 100
    size = f"{megaflops}mf" if megaflops < 1000 else f"{megaflops / 1000:g}gf"
    return "_".join([family, size, *variant])


ALIASES = {_readable(name): name for name in REGNETS if name != "regnety_10b"}
REGNETS |= _TINY

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
# For images of 16 to 32 px on CPUs, where dense convolutions of 32 channels and more are quick.
RESNETS["resnet10_half"] = ResNetSpec((1, 1, 1, 1), False, 0.5)
