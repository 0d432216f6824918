"""What can be said of a backbone; apart from the networks, which need torch."""

from dataclasses import dataclass

from seer.schema import WORD, Choice, option


@dataclass
class BackboneConfig:
    """Which backbone, and its few options.

    Attributes:
        name: of the network: `resnet18` to `resnet200`, `regnetx_002` to `regnetx_320`, `regnety_002` to `regnety_10b`,
            `resnet10_half` and `regnetx_tiny` (for small images on CPUs), or an alias such as `regnety_8gf`; a name
            that does not exist is answered with the nearest; or another library's, `torchvision:NAME` or
            `timm:NAME`, as that has it.
        stem_stride: 2 as published; 1 for images of 32-64 px (a ResNet then has a 3x3 stem without max-pool).
        zero_init_residual: start every residual branch at zero (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
    """

    name: str = option("regnety_016", WORD)
    stem_stride: int = option(2, Choice(1, 2))
    zero_init_residual: bool = False
