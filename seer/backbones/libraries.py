"""Networks of timm and torchvision as backbones: to train what has no equal among ours."""

from collections import OrderedDict
from itertools import chain
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from seer.backbones.base import Backbone
from seer.backbones.options import BackboneConfig
from seer.errors import InputError, nearest


class Foreign(Backbone):
    """A network of another library without its classifier, initialised as it does. Maps `(B, 3, H, W)`
    to `(B, out_dim)`.

    To sharding and compilation it is one block; its stages are not known, so `forward_features` is
    not there.
    """

    def __init__(self, config: BackboneConfig) -> None:
        nn.Module.__init__(self)
        if config.stem_stride != 2 or config.zero_init_residual:
            raise InputError(
                f"backbone.name={config.name}: is as its library has it; leave backbone.stem_stride and "
                "backbone.zero_init_residual alone"
            )
        network, self.out_dim = bare(config.name)
        self.config = config
        self.stem = nn.Identity()
        self.stages = nn.ModuleList([nn.Sequential(OrderedDict(network=network))])
        self.channels = (self.out_dim,)

    @property
    def network(self) -> nn.Module:
        """It as its library has it, but for the classifier."""
        return self.stages[0].network  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        return self.stages[0](x).flatten(1)

    def forward_features(self, x: Tensor) -> list[Tensor]:
        raise InputError(f"{self.config.name}: its stages are not known; it gives features alone")

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As a network that is built anew."""
        with torch.device("cpu"):
            fresh, _ = bare(self.config.name)
        mine = chain(self.network.parameters(), self.network.buffers())
        theirs = chain(fresh.parameters(), fresh.buffers())
        for target, source in zip(mine, theirs, strict=True):
            target.copy_(source)


def bare(name: str) -> tuple[nn.Module, int]:
    """The untrained network that `timm:NAME` or `torchvision:NAME` names, without its classifier, and
    the width of its features.

    Raises:
        InputError: the library is not installed, or has no such network.
    """
    library, _, own = name.partition(":")
    if library == "timm":
        network = timm_network(own)
        return network, width_of(network)
    return torchvision_network(own)[:2]


def torchvision_network(name: str) -> tuple[nn.Module, int, str]:
    """torchvision's network without its last linear layer, and of that the input's width and the name."""
    check_torchvision(name)
    from torchvision import models

    network = models.get_model(name, weights=None)
    classifier, width = behead(name, network)
    return network, width, classifier


def check_torchvision(name: str) -> None:
    """Raise `InputError` unless torchvision has a classifier of that name."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise InputError(
            f"torchvision:{name}: torchvision has no such classifier{nearest(name, known)}"
        )


def behead(name: str, network: nn.Module) -> tuple[str, int]:
    """Take the last linear layer away. Returns its name and the width of what it saw."""
    linears = [
        (path, module) for path, module in network.named_modules() if isinstance(module, nn.Linear)
    ]
    if not linears:
        raise InputError(
            f"torchvision:{name}: has no linear classifier to take away; choose another model"
        )
    path, last = linears[-1]
    network.set_submodule(path, nn.Identity())
    return path, last.in_features


def timm_network(name: str) -> Any:
    """timm's network without its classifier."""
    check_timm(name)
    return timm_library().create_model(name, num_classes=0)


def check_timm(name: str) -> None:
    """Raise `InputError` unless timm has a network of that name."""
    timm = timm_library()
    if not timm.is_model(name.partition(".")[0]):
        raise InputError(f"timm:{name}: timm has no such model{nearest(name, timm.list_models())}")


def width_of(network: Any) -> int:
    """The width of the features of one of timm's networks."""
    return int(getattr(network, "head_hidden_size", None) or network.num_features)


def timm_library() -> ModuleType:
    """timm, which is an extra. Raises `InputError` where it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise InputError(
            "timm is not installed; run: pip install 'seer-pretrain[interop]'"
        ) from error
    return timm
