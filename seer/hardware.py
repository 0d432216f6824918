"""What processors can do at best."""

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seer.errors import InputError, nearest

if TYPE_CHECKING:
    import torch

VENDOR = "https://www.nvidia.com/"
V100 = "https://images.nvidia.com/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf"
CENTRE = VENDOR + "en-us/data-center/"
WHITE = "https://images.nvidia.com/aem-dam/"
AMPERE = (
    WHITE
    + "en-zz/Solutions/geforce/ampere/pdf/NVIDIA-ampere-GA102-GPU-Architecture-Whitepaper-V1.pdf"
)
ADA = WHITE + "Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
BLACKWELL = WHITE + "Solutions/geforce/blackwell/nvidia-rtx-blackwell-gpu-architecture.pdf"
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

    def peak(self, dtype: "torch.dtype") -> float:
        """FLOP/s in a format. For fp32, and what it lacks, TF32's where it has that, as torch's
        convolutions.
        """
        rates = {
            "torch.float16": self.fp16,
            "torch.bfloat16": self.bf16,
            "torch.float64": self.fp32 / 2,
        }
        return 1e12 * (rates.get(str(dtype)) or self.tf32 or self.fp32)


PER_NODE = 8

# Networks: DGX-1 4 × 100 Gb/s, DGX A100 8 × 200, DGX H100, H200, B200 8 × 400. L40S servers differ:
# 4 × 100 assumed; of T4, L4, A10 and A6000 100 Gb/s, of GeForce cards 10. All of these are linked by
# PCIe. Half precision sums in fp32, which GeForce cards do at half their speed. CPU: a core of an
# Intel Xeon Platinum 8480+ at its base clock of 2 GHz, 2 × 16 fused multiply-adds a cycle; a 56th of
# the socket's bandwidth and power; 10 Gb/s Ethernet. Cores differ more than GPUs do: calibrate.
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
        Hardware("t4", 14.5, 8.1, 0, 65, 0, 300, 70, 16, 12.5, CENTRE + "tesla-t4/"),
        Hardware("l4", 22.0, 30.3, 60, 121, 121, 300, 72, 32, 12.5, CENTRE + "l4/"),
        Hardware(
            "a10", 22.0, 31.2, 62.5, 125, 125, 600, 150, 32, 12.5, CENTRE + "products/a10-gpu/"
        ),
        Hardware("a6000", 47.4, 38.7, 77.4, 154.8, 154.8, 768, 300, 32, 12.5, AMPERE),
        Hardware("rtx-3090", 23.6, 35.6, 35.6, 71, 71, 936, 350, 32, 1.25, AMPERE),
        Hardware("rtx-4090", 23.5, 82.6, 82.6, 165.2, 165.2, 1008, 450, 32, 1.25, ADA),
        Hardware("rtx-5090", 31.3, 104.8, 104.8, 209.5, 209.5, 1792, 575, 64, 1.25, BLACKWELL),
        Hardware("cpu", 4.6, 0.128, 0, 0, 0.128, 5.5, 6.3, 1.25, 1.25, INTEL),
    )
}


def usable_cores() -> int:
    """Of this host, those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus_here() -> int:
    """How many NVIDIA GPUs this host, or container, has device files of; CUDA is not asked."""
    return sum(re.fullmatch(r"nvidia\d+", name) is not None for name in os.listdir("/dev"))


def find(name: str, asked_by: str = "--gpu") -> Hardware:
    """A processor by name, however it is written: `V100-32GB` is `v100-32g`."""
    plain = re.sub("gb$", "g", re.sub("[_ ]", "-", name.lower()))
    if plain not in HARDWARE:
        raise InputError(
            f"{asked_by}: '{name}' is unknown{nearest(plain, HARDWARE)}; there are {', '.join(HARDWARE)}"
        )
    return HARDWARE[plain]


# Words of a driver that make another card of one: an RTX 4090 Laptop GPU is none.
OTHER_CARDS = {"ti", "super", "d", "laptop", "mobile"}


def recognise(device_name: str) -> str:
    """The name here of what a driver calls `Tesla V100-SXM2-32GB` or `NVIDIA A100 80GB PCIe`; empty
    if unknown.
    """
    words = set(re.findall("[a-z0-9]+", device_name.lower()))
    if words & OTHER_CARDS:
        return ""
    for name in HARDWARE:
        parts = name.removesuffix("g").split("-")
        # As whole words: an A100 is no A10, and an L40S no L4.
        if all(part in words or f"{part}gb" in words for part in parts):
            return name
    return ""
