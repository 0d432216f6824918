"""What processors can do at best."""

import re
from dataclasses import dataclass

import torch

from seer.errors import InputError, nearest

VENDOR = "https://www.nvidia.com/"
V100 = "https://images.nvidia.com/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf"
CENTRE = VENDOR + "en-us/data-center/"
INTEL = "https://www.intel.com/content/www/us/en/products/sku/231746/specifications.html"


@dataclass(frozen=True)
class Hardware:
    """One GPU, in nodes of eight as its vendor sells them; or one CPU core.

    Attributes:
        memory: GiB that a program can have.
        fp32, tf32, fp16, bf16: peak TFLOP/s, dense; 0 where the processor lacks the format.
        bandwidth: of its memory, GB/s.
        watts: thermal design power.
        link: GB/s that one GPU sends to its node's others, one direction.
        network: GB/s that a node sends to other nodes, one direction.
        source: the vendor's data sheet.
    """

    name: str
    memory: float
    fp32: float
    tf32: float
    fp16: float
    bf16: float
    bandwidth: float
    watts: float
    link: float
    network: float
    source: str

    @property
    def syncs_batchnorm(self) -> bool:
        """Whether it has kernels for synchronised BatchNorm."""
        return self.name != "cpu"

    def has(self, precision: str) -> bool:
        """Whether it computes in a precision."""
        return getattr(self, precision, self.fp32) > 0

    def peak(self, dtype: torch.dtype) -> float:
        """FLOP/s in a format. For fp32, and what it lacks, TF32's where it has that, as torch's
        convolutions.
        """
        rates = {torch.float16: self.fp16, torch.bfloat16: self.bf16, torch.float64: self.fp32 / 2}
        return 1e12 * (rates.get(dtype) or self.tf32 or self.fp32)


PER_NODE = 8

# Networks: DGX-1 4 × 100 Gb/s, DGX A100 8 × 200, DGX H100, H200, B200 8 × 400. L40S servers differ:
# 4 × 100 assumed. CPU: a core of an Intel Xeon Platinum 8480+ at its base clock of 2 GHz, 2 × 16
# fused multiply-adds a cycle; a 56th of the socket's bandwidth and power; 10 Gb/s Ethernet. Cores
# differ more than GPUs do: calibrate.
HARDWARE = {
    hardware.name: hardware
    for hardware in (  # memory, fp32, tf32, fp16, bf16, bandwidth, watts, link, network
        Hardware("v100-16g", 15.7, 15.7, 0, 125, 0, 900, 300, 150, 50, V100),
        Hardware("v100-32g", 31.7, 15.7, 0, 125, 0, 900, 300, 150, 50, V100),
        Hardware("a100-40g", 39.4, 19.5, 156, 312, 312, 1555, 400, 300, 200, CENTRE + "a100/"),
        Hardware("a100-80g", 79.2, 19.5, 156, 312, 312, 2039, 400, 300, 200, CENTRE + "a100/"),
        Hardware("h100", 79.1, 67, 494, 989, 989, 3350, 700, 450, 400, CENTRE + "h100/"),
        Hardware("h200", 139.8, 67, 494, 989, 989, 4800, 700, 450, 400, CENTRE + "h200/"),
        Hardware("b200", 178.0, 75, 1125, 2250, 2250, 8000, 1000, 900, 400, CENTRE + "hgx/"),
        Hardware("l40s", 44.5, 91.6, 183, 362, 362, 864, 350, 32, 50, CENTRE + "l40s/"),
        Hardware("cpu", 4.6, 0.128, 0, 0, 0.128, 5.5, 6.3, 1.25, 1.25, INTEL),
    )
}


def find(name: str, asked_by: str = "--gpu") -> Hardware:
    """A processor by name, however it is written: `V100-32GB` is `v100-32g`."""
    plain = re.sub("gb$", "g", name.lower().replace("_", "-"))
    if plain not in HARDWARE:
        raise InputError(
            f"{asked_by}: '{name}' is unknown{nearest(plain, HARDWARE)}; there are {', '.join(HARDWARE)}"
        )
    return HARDWARE[plain]


def recognise(device_name: str) -> str:
    """The name here of what a driver calls `Tesla V100-SXM2-32GB` or `NVIDIA A100 80GB PCIe`; empty
    if unknown.
    """
    parts = {name: name.removesuffix("g").split("-") for name in HARDWARE}
    return next(
        (
            name
            for name, all_of in parts.items()
            if all(part in device_name.lower() for part in all_of)
        ),
        "",
    )
