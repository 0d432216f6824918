"""Self-supervised methods. Adding one is one file here and one line in `METHODS`."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from seer.methods.options import (
    BYOLConfig,
    DeepClusterConfig,
    DINOConfig,
    DistillConfig,
    MoCoConfig,
    MoCoV3Config,
    RELICv2Config,
    SimCLRConfig,
    SwAVConfig,
    VISRegConfig,
)
from seer.registry import Later, Registry

if TYPE_CHECKING:
    from torch import nn

    from seer.methods.base import Method

METHODS: "Registry[type[Method]]" = Registry(
    {
        "swav": Later("seer.methods.swav.SwAV"),
        "simclr": Later("seer.methods.simclr.SimCLR"),
        "byol": Later("seer.methods.byol.BYOL"),
        "moco": Later("seer.methods.moco.MoCo"),
        "mocov3": Later("seer.methods.mocov3.MoCoV3"),
        "dino": Later("seer.methods.dino.DINO"),
        "deepcluster": Later("seer.methods.deepcluster.DeepCluster"),
        "visreg": Later("seer.methods.visreg.VISReg"),
        "relicv2": Later("seer.methods.relicv2.RELICv2"),
        "distill": Later("seer.methods.distill.Distill"),
    }
)
# Of methods whose options stand apart: they are known without torch.
OPTIONS = {
    "swav": SwAVConfig,
    "simclr": SimCLRConfig,
    "byol": BYOLConfig,
    "moco": MoCoConfig,
    "mocov3": MoCoV3Config,
    "dino": DINOConfig,
    "deepcluster": DeepClusterConfig,
    "visreg": VISRegConfig,
    "relicv2": RELICv2Config,
    "distill": DistillConfig,
}


class MethodOptions(Mapping[str, type]):
    """The dataclass of each method's options, by the method's name."""

    def __getitem__(self, name: str) -> type:
        return OPTIONS.get(name) or METHODS[name].Config

    def __iter__(self) -> Iterator[str]:
        return iter(METHODS)

    def __len__(self) -> int:
        return len(METHODS)

    def __contains__(self, name: object) -> bool:
        return name in METHODS


METHOD_CONFIGS = MethodOptions()


def make(backbone: "nn.Module", config: Any, samples: int) -> "Method":
    """The method that a `Config` describes, with its banks for so many images."""
    method = METHODS[config.name](backbone, config)
    for name, bank in method.banks(config, samples).items():
        method.add_module(name, bank)
    return method
