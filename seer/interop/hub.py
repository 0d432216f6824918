"""Folders as Hugging Face's transformers lays a model out: `config.json`, and its weights in one file
or in several with an index."""

import os
from pathlib import Path
from typing import Any

from seer import inputs
from seer.errors import InputError
from seer.interop.native import MEAN, SIZE, STD, is_native
from seer.interop.pickles import load_pickle
from seer.interop.published import Published, of_safetensors, of_tensors, state_of
from seer.interop.spec import HUB
from seer.interop.weights import Form
from seer.schema import FileName, Flag, MapOf, Record, Text

PREPROCESSOR = "preprocessor_config.json"
# In the order in which transformers prefers them.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")

NETWORK = Record(
    {"model_type": Text(100)},
    {
        "hidden_act": Text(100),
        "downsample_in_first_stage": Flag(),
        "downsample_in_bottleneck": Flag(),
    },
)
IMAGES = Record({}, {"image_mean": MEAN, "image_std": STD})
INDEX = Record({"weight_map": MapOf(FileName())})


def is_folder(path: Path) -> bool:
    return os.path.isfile(path / HUB)


def native_file(folder: Path) -> Path | None:
    """The file of weights in a folder that seer wrote itself, which says more than its config."""
    file = folder / WEIGHTS[0]
    return file if is_folder(folder) and file.is_file() and is_native(file) else None


def open_folder(folder: Path) -> Published:
    """Open a folder of transformers' RegNet or ResNet.

    Raises:
        InputError: it is of another kind, has no weights, or computes other functions than ours do.
    """
    _check_network(folder, inputs.read_json(folder / HUB, NETWORK))
    parts = [_open(file) for file in _files(folder)]
    forms: dict[str, Form] = {}
    owners: dict[str, Published] = {}
    for part in parts:
        forms.update(part.forms)
        owners.update(dict.fromkeys(part.forms, part))
    return Published(forms, lambda name: owners[name].read(name), _images(folder))


def _check_network(folder: Path, config: dict[str, Any]) -> None:
    kind = config["model_type"]
    if kind not in ("regnet", "resnet"):
        raise InputError(f"{folder}: is a {kind}; seer reads transformers' regnet and resnet")
    ours = {
        "hidden_act": "relu",
        "downsample_in_first_stage": kind == "regnet",
        "downsample_in_bottleneck": False,
    }
    for option, value in ours.items():
        if config.get(option, value) != value:
            raise InputError(
                f"{folder}/{HUB}: {option} is {config[option]}, and seer's {kind}s have {value}"
            )


def _files(folder: Path) -> list[Path]:
    """The files of weights, in one of the ways in which they are laid out."""
    for name in WEIGHTS:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            names = sorted(set(inputs.read_json(index, INDEX)["weight_map"].values()))
            missing = [part for part in names if not (folder / part).is_file()]
            if missing:
                raise InputError(
                    f"{folder}: {len(missing)} of {len(names)} files of weights are missing ({missing[0]})"
                )
            return [folder / part for part in names]
    raise InputError(f"{folder}: has no {' and no '.join(WEIGHTS)}")


def _open(file: Path) -> Published:
    if file.suffix.lower() == ".safetensors":
        return of_safetensors(file)
    return of_tensors(state_of(load_pickle(file), file), file)


def _images(folder: Path) -> dict[str, Any]:
    """`size`, `mean` and `std` of the images that a folder's preprocessor makes."""
    try:
        about = inputs.read_json(folder / PREPROCESSOR, IMAGES)
    except FileNotFoundError:
        return {}
    sides = [about.get("crop_size"), about.get("size")]
    sides = [
        side.get("shortest_edge", side.get("height")) if isinstance(side, dict) else side
        for side in sides
    ]
    fitting = [side for side in sides if isinstance(side, int) and SIZE.low <= side <= SIZE.high]
    images: dict[str, Any] = {"size": fitting[0] if fitting else None}
    images |= {"mean": about.get("image_mean"), "std": about.get("image_std")}
    return {key: value for key, value in images.items() if value is not None}
