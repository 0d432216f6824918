"""The networks of other libraries that are the same as a backbone of ours, and what VISSL and
fairscale put around them.
"""

import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from seer.backbones import build
from seer.backbones.regnet import RegNet
from seer.backbones.resnet import ResNet


def classy_regnet(name: str) -> nn.Module:
    """ClassyVision's RegNet, which gives feature maps `(B, D, H, W)`."""
    from classy_vision.models.regnet import RegNet as Classy
    from classy_vision.models.regnet import RegNetParams

    spec = _regnet(name).spec
    return Classy(
        RegNetParams(
            depth=spec.depth,
            w_0=spec.w_0,
            w_a=spec.w_a,
            w_m=spec.w_m,
            group_width=spec.group_width,
            use_se=spec.se,
        )
    )


class Trunk(nn.Module):
    """The containers in which VISSL 0.1.6 has ClassyVision's modules (`trunks/regnet.py`); under
    FSDP also groups of blocks, which end where `parts` say (`trunks/regnet_fsdp.py`).
    """

    def __init__(self, network: nn.Module, parts: Mapping[str, list[int]] | None = None):
        super().__init__()
        blocks = OrderedDict(conv1=network.stem)
        for name, stage in network.trunk_output.named_children():
            ends = (parts or {}).get(name)
            blocks[f"res{len(blocks) + 1}"] = _grouped(name, stage, ends) if ends else stage
        self._feature_blocks = nn.ModuleDict(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self._feature_blocks.values():
            x = block(x)
        return x.mean((2, 3))


def _grouped(name: str, stage: nn.Module, ends: list[int]) -> nn.Module:
    groups = nn.Sequential()
    blocks = list(stage.named_children())
    start = 0
    for index, end in enumerate([*ends, len(blocks)]):
        groups.add_module(f"{name}-part{index}", nn.Sequential(OrderedDict(blocks[start:end])))
        start = end
    return groups


class SwAVHead(nn.Module):
    """VISSL's `swav_head`: hidden layers with ReLU, and BatchNorm if wanted, then prototypes."""

    def __init__(self, widths: list[int], batchnorm: bool, prototypes: int):
        super().__init__()
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following)]
            layers += [nn.BatchNorm1d(following)] if batchnorm else []
            layers += [nn.ReLU(inplace=True)]
        last = 2 if batchnorm else 1
        self.projection_head = nn.Sequential(*layers[:-last])
        self.prototypes0 = nn.Linear(widths[-1], prototypes, bias=False)


def vissl_checkpoint(trunk: Mapping[str, Any], heads: Any, **more: Any) -> dict[str, Any]:
    """What VISSL saves: the model deep inside, among what a run needs to go on."""
    base_model = {"model": {"trunk": trunk, "heads": heads}, "meta": {"trunk": {}}}
    classy = {"train": True, "base_model": base_model, "hooks": [], "meters": []}
    return {
        "phase_idx": 3,
        "iteration": 124_500,
        "classy_state_dict": classy,
        "type": "consolidated",
        **more,
    }


@contextmanager
def vissl_installed() -> Iterator[type]:
    """While entered, there is VISSL's `AttrDict`, which its checkpoints hold, to be pickled."""

    class AttrDict(dict):
        pass

    module = types.ModuleType("vissl.config.attr_dict")
    AttrDict.__module__ = module.__name__
    AttrDict.__qualname__ = "AttrDict"
    module.AttrDict = AttrDict
    names = ("vissl", "vissl.config", module.__name__)
    sys.modules.update(dict.fromkeys(names, module))
    try:
        yield AttrDict
    finally:
        for name in names:
            del sys.modules[name]


def transformers_model(name: str) -> nn.Module:
    """Hugging Face's RegNet or ResNet, without a classifier."""
    from transformers import RegNetConfig, RegNetModel, ResNetConfig, ResNetModel

    ours = build(name)
    depths = [len(stage) for stage in ours.stages]
    widths = list(ours.channels)
    if isinstance(ours, ResNet):
        kind = "bottleneck" if ours.spec.bottleneck else "basic"
        stem = ours.spec.inner_widths[0]
        config = ResNetConfig(
            embedding_size=stem, hidden_sizes=widths, depths=depths, layer_type=kind
        )
        return ResNetModel(config)
    spec = _regnet(name).spec
    config = RegNetConfig(
        embedding_size=32,
        hidden_sizes=widths,
        depths=depths,
        groups_width=spec.group_width,
        layer_type="y" if spec.se else "x",
    )
    return RegNetModel(config)


def _regnet(name: str) -> RegNet:
    with torch.device("meta"):
        backbone = build(name)
    assert isinstance(backbone, RegNet)
    return backbone


def fairscale_shards(
    groups: Mapping[str, Mapping[str, Tensor]], buffers: Mapping[str, Tensor], ranks: int
) -> list[tuple[dict[str, Tensor], dict[str, Any]]]:
    """The `local_state_dict` and `local_metadata_dict` that each rank of fairscale's FSDP would have.

    Args:
        groups: parameters by the path of the FSDP that owns them; those of a path that ends in `*` are flattened
            into one, as with `flatten_parameters`.
    """
    shards: list[tuple[dict[str, Tensor], dict[str, Any]]] = []
    for rank in range(ranks):
        weights: dict[str, Tensor] = dict(buffers)
        entries = []
        for path, parameters in groups.items():
            flat = path.endswith("*")
            owner = path.removesuffix("*").rstrip(".")
            if flat:
                pieces = {"flat_param_0": list(parameters.items())}
            else:
                pieces = {name: [(name, value)] for name, value in parameters.items()}
            about = {}
            for key, members in pieces.items():
                whole = torch.cat([value.reshape(-1) for _, value in members])
                size = -(-len(whole) // ranks)
                part = whole[rank * size : (rank + 1) * size]
                padding = size - len(part)
                part = torch.cat([part, torch.full((padding,), torch.nan)])
                weights[f"{owner}.{key}" if owner else key] = part.clone()
                about[key] = {
                    "names": [name for name, _ in members],
                    "shapes": [value.shape for _, value in members],
                    "numels": [value.numel() for _, value in members],
                    "padding": padding,
                }
            entries.append(
                {
                    "fsdp_path": owner,
                    "params": about,
                    "no_broadcast_optim_state": False,
                    "shared_param_info": [],
                }
            )
        shards.append((weights, {"param_metadata": entries, "buffer_names": list(buffers)}))
    return shards
