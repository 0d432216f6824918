"""Training a part of the backbone."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from seer.engine.parallel import find_backbones
from seer.errors import InputError


def restrict(method: nn.Module, trains: str) -> None:
    """Have only a part of a method's backbone learn, before it is laid out over processes.

    Args:
        trains: as in `Pretrain`.

    Raises:
        InputError: its BatchNorms are to learn, and it has none.
    """
    if trains == "all":
        return
    backbone = method.backbone
    assert isinstance(backbone, nn.Module)
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        raise InputError(
            f"trains={trains}: the backbone has no BatchNorm; give trains=all, or a network that has some"
        )
    backbone.requires_grad_(False)
    if trains in ("bn", "bn_affine"):
        for norm in norms:
            norm.requires_grad_(True)
    if trains == "bn_affine":
        # A teacher's stay, too: it is to differ from its student by its weights alone.
        for network in find_backbones(method):
            for module in network.modules():
                if isinstance(module, _BatchNorm):
                    module.fixed = True  # type: ignore[assignment]
