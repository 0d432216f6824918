"""torchvision: its classifiers as backbones to evaluate, and the call that builds ours there."""

from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from torch import nn
from torchvision import models

from seer.backbones.base import Backbone
from seer.backbones.designs import RegNetSpec
from seer.backbones.libraries import behead, check_torchvision, torchvision_network
from seer.backbones.regnet import SE_RATIO, RegNet
from seer.backbones.resnet import ResNet
from seer.interop.foreign import (
    PATIENCE,
    Pooled,
    fetch,
    fine_stem,
    load_trunk,
    loading,
    silence_of,
)
from seer.interop.spec import weights_file


def load(name: str, weights: str) -> tuple[Pooled, dict[str, Any]]:
    """torchvision's model `name` without its last linear layer, and the `size`, `mean` and `std` of
    its images.

    `weights` is `pretrained`, `random`, a file, or the name of torchvision's own such as
    `IMAGENET1K_V2`.
    """
    check_torchvision(name)
    published = models.get_model_weights(name)
    chosen = published.__members__.get(weights, published.DEFAULT)
    if weights == "pretrained" or weights in published.__members__:
        network = fetch(f"torchvision:{name}", lambda: _published(name, chosen))
        _, width = behead(name, network)
    else:
        path = weights_file(f"torchvision:{name}", weights)
        network, width, classifier = torchvision_network(name)
        if path is not None:
            load_trunk(network, path, [classifier])
    crop = chosen.transforms()
    images = {"size": crop.crop_size[0], "mean": list(crop.mean), "std": list(crop.std)}
    return Pooled(network, width, f"torchvision:{name}"), images


def _published(name: str, weights: Any) -> nn.Module:
    """The model with published weights, which are downloaded unless they have been before."""
    address = urlparse(weights.url)
    file = Path(f"{torch.hub.get_dir()}/checkpoints/{Path(address.path).name}")
    # torch waits for a host as long as the system does.
    if not file.is_file() and (silence := silence_of(lambda: _ask(weights.url))):
        raise OSError(f"{address.scheme}://{address.netloc}: {silence}")
    return models.get_model(name, weights=weights)


def _ask(url: str) -> None:
    """Return as soon as the server says anything at all."""
    try:
        urlopen(Request(url, method="HEAD"), timeout=PATIENCE).close()
    except HTTPError:
        return


def how_to_load(backbone: Backbone) -> str:
    """Python that builds this backbone in torchvision as `model` from the exported file PATH."""
    network = f"{backbone.config.name}()"
    if isinstance(backbone, RegNet):
        network = _regnet(backbone.spec)
    elif backbone.config.name not in models.list_models(module=models):
        assert isinstance(backbone, ResNet)
        assert backbone.spec.bottleneck
        network = f"ResNet(torchvision.models.resnet.Bottleneck, {list(backbone.spec.depths)})"
    changes = ["model.fc = torch.nn.Identity()", *fine_stem(backbone, "model.stem[0]")]
    return loading("import torch, torchvision", f"torchvision.models.{network}", changes)


def how_to_finetune(backbone: Backbone) -> str:
    """Python that gives such a `model` a classifier of CLASSES."""
    return f"model.fc = torch.nn.Linear({backbone.out_dim}, CLASSES)"


def _regnet(spec: RegNetSpec) -> str:
    # By its widths, since torchvision's own names come with torchvision's rounding and end at 128
    # GF.
    arguments = {
        "depths": [stage.depth for stage in spec.stages],
        "widths": [stage.width for stage in spec.stages],
        "group_widths": [stage.group_width for stage in spec.stages],
        "bottleneck_multipliers": [1.0] * 4,
        "strides": [2] * 4,
        "se_ratio": SE_RATIO if spec.se else None,
    }
    listed = ", ".join(f"{key}={value}" for key, value in arguments.items())
    return f"RegNet(torchvision.models.regnet.BlockParams({listed}))"
