"""The backbones. Adding one is one file and one line in `BACKBONES`."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from seer.backbones.designs import ALIASES, REGNETS, RESNETS
from seer.backbones.options import BackboneConfig
from seer.errors import InputError, nearest
from seer.registry import Later, Registry
from seer.schema import check_options, shown

if TYPE_CHECKING:
    from seer.backbones.base import Backbone

__all__ = [
    "ALIASES",
    "BACKBONES",
    "LIBRARIES",
    "BackboneConfig",
    "build",
    "canonical",
    "is_foreign",
]

BACKBONES: "Registry[Callable[[BackboneConfig], Backbone]]" = Registry(
    {
        **{name: Later("seer.backbones.regnet.RegNet", spec) for name, spec in REGNETS.items()},
        **{name: Later("seer.backbones.resnet.ResNet", spec) for name, spec in RESNETS.items()},
    }
)


LIBRARIES = ("torchvision", "timm")  # whose networks are backbones by `LIBRARY:NAME`
FOREIGN: "Registry[Callable[[BackboneConfig], Backbone]]" = Registry(
    dict.fromkeys(LIBRARIES, Later("seer.backbones.libraries.Foreign"))
)


def is_foreign(name: str) -> bool:
    """Whether a backbone's name is that of a network of another library."""
    library, _, own = name.partition(":")
    return library in LIBRARIES and bool(own)


def canonical(name: str) -> str:
    """The key of `BACKBONES` that a name or an alias means; of another library's network the name
    itself. Raises `InputError` naming the nearest.
    """
    if is_foreign(name):
        return name
    name = ALIASES.get(name, name)
    if name not in BACKBONES:
        raise InputError(f"unknown backbone {shown(name)}{nearest(name, [*BACKBONES, *ALIASES])}")
    return name


def build(name: str | BackboneConfig, **options: Any) -> "Backbone":
    """Build a backbone, initialised, from its config or from its name or alias and the config's
    other fields.

    It lands on torch's current default device, `meta` included. Raises `InputError` for an unknown
    name or a bad value.
    """
    config = name if isinstance(name, BackboneConfig) else BackboneConfig(name, **options)
    check_options(config, "backbone")
    config = replace(config, name=canonical(config.name))
    if is_foreign(config.name):
        return FOREIGN[config.name.partition(":")[0]](config)
    return BACKBONES[config.name](config)
