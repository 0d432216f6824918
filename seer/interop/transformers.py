"""Hugging Face's transformers: a backbone of ours as a folder that `from_pretrained` loads."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from seer.backbones.base import Backbone
from seer.backbones.regnet import STEM_WIDTH, RegNet
from seer.backbones.resnet import ResNet
from seer.errors import InputError
from seer.interop.foreign import fine_stem
from seer.interop.hub import PREPROCESSOR, WEIGHTS
from seer.interop.layouts import layout
from seer.interop.native import save_backbone

CROP = 224 / 256  # of the shorter side, as seer's evaluations crop
BICUBIC = 3  # Pillow's number


def how_to_load(backbone: Backbone) -> str:
    """Python that loads this backbone in transformers as `model` from the exported folder PATH."""
    if isinstance(backbone, ResNet) and backbone.config.stem_stride != 2:
        raise InputError(
            "--to transformers: its ResNets have no stem of stride 1; export --to safetensors, which seer itself reads"
        )
    load = "import transformers; model = transformers.AutoModel.from_pretrained(PATH)"
    return "; ".join([load, *fine_stem(backbone, "model.embedder.embedder.convolution")])


def features(model: Any, images: Tensor) -> Tensor:
    return model(images).pooler_output.flatten(1)


def write(
    folder: Path,
    backbone: Backbone,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    about: Mapping[str, Any],
) -> None:
    """Write configuration, weights and the images' preprocessing into a new folder."""
    folder.mkdir()
    config = _config(_transformers(), backbone)
    config.save_pretrained(folder)
    theirs = layout("transformers", backbone).to_theirs(backbone.state_dict())
    about = {**about, "library": "transformers"}
    save_backbone(folder / WEIGHTS[0], theirs, backbone.config, size, mean, std, about)
    images = {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": size},
        "crop_pct": CROP,
        "resample": BICUBIC,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    (folder / PREPROCESSOR).write_text(json.dumps(images, indent=2) + "\n")


def _config(transformers: ModuleType, backbone: Backbone) -> Any:
    depths = [len(list(stage.children())) for stage in backbone.stages]
    widths = list(backbone.channels)
    if isinstance(backbone, ResNet):
        return transformers.ResNetConfig(
            embedding_size=backbone.spec.inner_widths[0],
            hidden_sizes=widths,
            depths=depths,
            layer_type="bottleneck" if backbone.spec.bottleneck else "basic",
            architectures=["ResNetModel"],
        )
    assert isinstance(backbone, RegNet)
    return transformers.RegNetConfig(
        embedding_size=STEM_WIDTH,
        hidden_sizes=widths,
        depths=depths,
        groups_width=backbone.spec.group_width,
        layer_type="y" if backbone.spec.se else "x",
        architectures=["RegNetModel"],
    )


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "transformers is not installed; run: pip install 'seer-pretrain[interop]'"
        ) from error
    return transformers
