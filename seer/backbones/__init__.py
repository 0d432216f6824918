"""The backbones. Adding one is one file and one line in `BACKBONES`."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from seer.backbones.base import Backbone, BackboneConfig, materialize
from seer.backbones.regnet import ALIASES, REGNETS, RegNet
from seer.backbones.resnet import RESNETS, ResNet
from seer.errors import InputError, nearest
from seer.schema import check_options, shown

__all__ = [
    "ALIASES",
    "BACKBONES",
    "Backbone",
    "BackboneConfig",
    "build",
    "canonical",
    "materialize",
]

BACKBONES: dict[str, Callable[[BackboneConfig], Backbone]] = {
    **{name: partial(RegNet, spec) for name, spec in REGNETS.items()},
    **{name: partial(ResNet, spec) for name, spec in RESNETS.items()},
}


def canonical(name: str) -> str:
    """The key of `BACKBONES` that a name or an alias means. Raises `InputError` naming the nearest."""
    name = ALIASES.get(name, name)
    if name not in BACKBONES:
        raise InputError(f"unknown backbone {shown(name)}{nearest(name, [*BACKBONES, *ALIASES])}")
    return name


def build(name: str | BackboneConfig, **options: Any) -> Backbone:
    """Build a backbone, initialised, from its config or from its name or alias and the config's
    other fields.

    It lands on torch's current default device, `meta` included. Raises `InputError` for an unknown
    name or a bad value.
    """
    config = name if isinstance(name, BackboneConfig) else BackboneConfig(name, **options)
    check_options(config, "backbone")
    config = replace(config, name=canonical(config.name))
    return BACKBONES[config.name](config)
