"""Files of backbones: safetensors that say in their metadata what they hold, and what it takes to
use it again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from seer.backbones import BackboneConfig, build, canonical
from seer.backbones.base import Backbone
from seer.errors import InputError
from seer.inputs import UnreadableError, parse_json
from seer.interop.layouts import layout
from seer.interop.spec import LARGEST_SIDE, NAMINGS
from seer.interop.weights import check_forms, load_strictly, open_safetensors
from seer.schema import Choice, Integer, ListOf, Number, Plain, Record, Text, kind_of

FORMAT = "seer-backbone/1"
LABEL = Text(5000, 0, r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*", "a text of one line")

# What a file's metadata, or a run's configuration, say of a backbone and its images.
BACKBONE = Record(
    {},
    {field.name: kind_of(field) or Plain() for field in fields(BackboneConfig)} | {"name": LABEL},
    None,
)
SIZE = Integer(1, LARGEST_SIDE)
MEAN = ListOf(Number(-1e6, 1e6), 3, 3)
STD = ListOf(Number(1e-6, 1e6), 3, 3)
ABOUT = Record(
    {"backbone": BACKBONE, "size": SIZE, "mean": MEAN, "std": STD},
    {
        "label": LABEL,
        "config_hash": LABEL,
        "library": Choice(*NAMINGS),
        "step": Integer(0),
        "method": Record({}),
    },
)
LONGEST_METADATA = 2**20  # characters
# SwAV's, which an imported file may hold beside the backbone; its metadata then have `method`.
HEADS = ("head.", "prototypes.")


def save_backbone(
    path: Path | str,
    state: Mapping[str, Tensor],
    config: BackboneConfig,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a backbone's state to a safetensors file, with the metadata of `backbone_metadata`."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    path = Path(path)
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, backbone_metadata(config, size, mean, std, extra))
    path.chmod(mode)  # safetensors puts a file in its place that only its owner may read


def backbone_metadata(
    config: BackboneConfig,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    extra: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The metadata of a backbone's file; JSON under the key `seer` holds what it takes to use it
    again.

    That is `format`, `backbone` (the config), `size` (pixels of the largest training crop), `mean`,
    `std` (of the input's channels), and `extra`.
    """
    about = {
        "format": FORMAT,
        "backbone": asdict(config),
        "size": size,
        "mean": list(mean),
        "std": list(std),
    }
    return {"format": "pt", "seer": json.dumps({**about, **(extra or {})})}


def read_backbone(path: Path) -> tuple[Backbone, dict[str, Any]]:
    """The backbone in a file of `save_backbone`, or of `export` to any library, and the file's
    metadata.

    Raises `InputError` when the file is damaged, someone else's, or does not hold what it says, all
    of it finite.
    """
    with open_safetensors(path) as file:
        about = _about(path, file.metadata)
        with torch.device("meta"):
            backbone = build(backbone_config(about["backbone"], str(path)))
        names = {name: name for name in file.forms if not _is_kept_head(name, about)}
        held = len(names)
        if library := about.get("library"):
            names = layout(library, backbone).to_ours(names, backbone.state_dict())
        if len(names) < held:
            raise InputError(
                f"{path}: holds tensors under seer's names and {library}'s; export the backbone anew"
            )
        check_forms(backbone, {name: file.forms[theirs] for name, theirs in names.items()}, path)
        tensors = {name: file.tensor(theirs) for name, theirs in names.items()}
        load_strictly(backbone, tensors, path, assign=True)
    return backbone, about


def read_heads(path: Path) -> dict[str, Tensor]:
    """SwAV's head and prototypes in such a file, by our names; none in most."""
    with open_safetensors(path) as file:
        about = _about(path, file.metadata)
        return {name: file.tensor(name) for name in file.forms if _is_kept_head(name, about)}


def _is_kept_head(name: str, about: Mapping[str, Any]) -> bool:
    return "method" in about and name.startswith(HEADS)


def read_about(path: Path) -> dict[str, Any]:
    """What the metadata of such a file say. Raises `InputError` when it is damaged or someone else's."""
    with open_safetensors(path) as file:
        return _about(path, file.metadata)


def is_native(path: Path) -> bool:
    """Whether a file says itself which backbone it holds, as those do that seer wrote."""
    if path.suffix.lower() != ".safetensors":
        return False
    with open_safetensors(path) as file:
        return "seer" in file.metadata


def backbone_config(values: Mapping[str, Any], where: str) -> BackboneConfig:
    """A backbone's options out of a file, where `BACKBONE` has checked their kinds. Raises
    `InputError`.
    """
    try:
        config = BackboneConfig(**values)
        canonical(config.name)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return config


def _about(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the metadata say, as `ABOUT` declares it."""
    if "seer" not in metadata:
        raise InputError(
            f"{path}: does not say which backbone it holds, so it is not seer's; name the architecture: "
            f"timm:NAME:{path} or torchvision:NAME:{path}"
        )
    try:
        if len(metadata["seer"]) > LONGEST_METADATA:
            raise UnreadableError(f"more than {LONGEST_METADATA:,} characters")
        written = parse_json(metadata["seer"], Record({"format": LABEL}), "seer")
        if written["format"] != FORMAT:
            raise InputError(
                f"{path}: its format is {written['format']} and this version of seer reads {FORMAT}"
            )
        return parse_json(metadata["seer"], ABOUT, "seer")
    except UnreadableError as error:
        raise InputError(
            f"{path}: its metadata are damaged or of another version of seer ({error})"
        ) from None
