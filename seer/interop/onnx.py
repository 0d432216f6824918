"""ONNX: a backbone of ours as a graph that needs neither seer nor PyTorch."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seer.backbones.base import Backbone
from seer.errors import InputError
from seer.interop.native import backbone_metadata

NEEDED = ("onnx", "onnxscript", "onnxruntime")
LARGEST = 2**31 - 2**24  # bytes of one file; beyond them the weights go into NAME.onnx.data
SIDE = 96  # px of the images by which the graph is traced; it takes others


def how_to_load(backbone: Backbone) -> str:
    """Python that loads this backbone as `model` from the exported file PATH."""
    return "import onnxruntime; model = onnxruntime.InferenceSession(PATH)"


def features(model: Any, images: Tensor) -> Tensor:
    return torch.from_numpy(model.run(["features"], {"images": images.numpy()})[0])


def write(
    path: Path,
    backbone: Backbone,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    about: Mapping[str, Any],
) -> None:
    """Write a graph from `images`, `(batch, 3, height, width)`, to `features`, `(batch, D)`."""
    for name in NEEDED:
        _check_there(name)
    free = {
        axis: torch.export.Dim(name) for axis, name in ((0, "batch"), (2, "height"), (3, "width"))
    }
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(
            backbone.eval(),
            (torch.zeros(2, 3, SIDE, SIDE),),
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes=(free,),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    metadata = backbone_metadata(backbone.config, size, mean, std, about)
    program.model.metadata_props["seer"] = metadata["seer"]
    bytes_in_all = sum(tensor.nbytes for tensor in backbone.state_dict().values())
    program.save(path, external_data=bytes_in_all > LARGEST)


def _check_there(name: str) -> None:
    try:
        __import__(name)
    except ImportError as error:
        raise InputError(
            f"{name} is not installed; run: pip install 'seer-pretrain[onnx]'"
        ) from error
