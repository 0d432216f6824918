"""Weight files, ours (safetensors that say what they hold) and others'. No code in them runs; none is half-loaded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from seer.backbones import Backbone, BackboneConfig, build
from seer.errors import InputError, first_line
from seer.interop.layouts import layout

FORMAT = "seer-backbone/1"


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
    """The metadata of a backbone's file; JSON under the key `seer` holds what it takes to use it again.

    That is `format`, `backbone` (the config), `size` (pixels of the largest training crop), `mean`, `std` (of the
    input's channels), and `extra`.
    """
    about = {"format": FORMAT, "backbone": asdict(config), "size": size, "mean": list(mean), "std": list(std)}
    return {"format": "pt", "seer": json.dumps({**about, **(extra or {})})}


def read_backbone(path: Path) -> tuple[Backbone, dict[str, Any]]:
    """The backbone in a file of `save_backbone`, or of `export` to any library, and the file's metadata.

    Raises `InputError` when the file is damaged, someone else's, or does not hold what it says.
    """
    tensors, metadata = read_safetensors(path)
    if "seer" not in metadata:
        raise InputError(
            f"{path}: does not say which backbone it holds, so it is not seer's; name the architecture: "
            f"timm:NAME:{path} or torchvision:NAME:{path}"
        )
    try:
        about = json.loads(metadata["seer"])
        written, config = about["format"], BackboneConfig(**about["backbone"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: its metadata are damaged or of another version of seer ({error})") from error
    if written != FORMAT:
        raise InputError(f"{path}: its format is {written} and this version of seer reads {FORMAT}")
    with torch.device("meta"):
        backbone = build(config)
    if library := about.get("library"):
        tensors = layout(library, backbone).to_ours(tensors, backbone.state_dict())
    load_strictly(backbone, tensors, path, assign=True)
    return backbone, about


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not readable as safetensors, perhaps truncated ({first_line(error)})") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of anyone's `.safetensors`, or of a `.pth` that holds a state dict and nothing executable."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, OSError, EOFError) as error:
        reason = first_line(error)
        raise InputError(f"{path}: not readable as tensors only ({reason}); give a .safetensors file") from error
    for key in ("state_dict", "model"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"{path}: does not hold a state dict, a mapping from names to tensors")
    return {key.removeprefix("module."): tensor for key, tensor in state.items()}


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: object, assign: bool = False) -> None:
    """Load exactly the module's tensors; `InputError` says in one line what is missing, unexpected or misshapen."""
    expected = module.state_dict()
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected]
    shapes = [
        f"{key} is {tuple(tensors[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in tensors and tensors[key].shape != expected[key].shape
    ]
    problems = [
        f"{len(keys)} {what} ({keys[0]}{', ...' if len(keys) > 1 else ''})"
        for keys, what in ((missing, "tensors missing"), (unexpected, "unexpected"), (shapes, "of another shape"))
        if keys
    ]
    if problems:
        config = getattr(module, "config", None)
        name = config.name if isinstance(config, BackboneConfig) else type(module).__name__
        raise InputError(f"{source}: holds another architecture than {name}: {'; '.join(problems)}")
    module.load_state_dict(tensors, strict=True, assign=assign)
