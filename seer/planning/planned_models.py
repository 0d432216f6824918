"""The model of a training that is planned: its shapes, without the memory of its weights."""

from typing import Any

import torch
from torch import nn

from seer.backbones import BackboneConfig, build, canonical
from seer.backbones.base import Backbone
from seer.eval.trained.options import TrainedConfig
from seer.interop.levels import Levels, levels_of
from seer.interop.models import PUBLISHED_IMAGES, load_model
from seer.interop.spec import RANDOM, library_of, split


def backbone_in(model: str) -> tuple[nn.Module, int]:
    """A MODEL's network on `meta`, and the side of its images; of a library's the network without its
    weights. Raises `InputError`.
    """
    library = library_of(model)
    if library:
        name = model.removeprefix(f"{library}:").partition(":")[0]
        loaded = load_model(f"{library}:{name}:{RANDOM}")
    elif named := backbone_named(model):
        with torch.device("meta"):
            return build(BackboneConfig(named)), PUBLISHED_IMAGES["size"]
    else:
        loaded = load_model(model)
    return loaded.backbone.to("meta"), loaded.size


def levels_in(model: str) -> Levels:
    """The four maps of a MODEL's network, likewise."""
    return levels_of(backbone_in(model)[0], model)


def backbone_named(model: str) -> str:
    """The network's name where a MODEL is `NAME` or `NAME:random`; "" where it is a file or a run."""
    path, part = split(model)
    if path.exists() or part not in ("", RANDOM):
        return ""
    return canonical(str(path))


def network_of(config: TrainedConfig) -> str:
    """What the backbone of a training is called."""
    library = library_of(config.model)
    if library:
        return config.model.removeprefix(f"{library}:")
    named = backbone_named(config.model)
    if named:
        return named
    backbone = load_model(config.model).backbone
    return backbone.config.name if isinstance(backbone, Backbone) else config.model


def every_block(config: TrainedConfig) -> list[list[int]]:
    """`parallel.checkpointing` of every block by itself; none of networks whose blocks are not known."""
    stages: Any = getattr(backbone_in(config.model)[0], "stages", [])
    return [list(range(1, len(stage) + 1)) for stage in stages]
