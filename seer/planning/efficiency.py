"""The share of its roofline that a training step reaches: as measured with this engine where a card
could be had, as published for all others.
"""

from dataclasses import dataclass

from seer.hardware import Hardware


@dataclass(frozen=True)
class Efficiency:
    """A share of the roofline, and where it was seen."""

    share: float
    source: str


# What SwAV's ResNet-50 with batch 256 reached. benchmarks/plan.py fits it anew, and shows what the
# efficiency of each published run says of the others.
PUBLISHED = Efficiency(0.178, "as published of SwAV's code on V100")

# In bf16, by the beginning of the backbone's name (docs/gpu.md).
ON_H200 = "as measured with this engine on an H200"
MEASURED = {"resnet": Efficiency(0.40, ON_H200), "regnet": Efficiency(0.28, ON_H200)}
LIKE_H200 = ("h100", "h200")

# 4,638 steps of swav_small in 34.8 minutes (benchmarks/cifar.py). A core's share of its socket's bandwidth,
# by which the roofline goes, is less than it gets beside idle ones: hence the high share.
ON_CPU = Efficiency(
    0.63,
    "as measured with this engine, of swav_small in two processes on two cores",
)


def efficiencies(network: str, hardware: Hardware) -> list[Efficiency]:
    """What is to be expected of a network on a card, the likeliest first."""
    family = next((name for name in MEASURED if network.startswith(name)), "")
    if hardware.name == "cpu":
        return [ON_CPU]
    if not family:
        return [PUBLISHED]
    if hardware.name in LIKE_H200:
        return [MEASURED[family], PUBLISHED]
    return [PUBLISHED, MEASURED[family]]
