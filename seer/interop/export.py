"""Writing a backbone for another library, and proving on the written file that it computes the same
there.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from seer import outputs
from seer.backbones.base import Backbone
from seer.backbones.resnet import ResNet
from seer.errors import InputError
from seer.interop import timm, torchvision
from seer.interop.layouts import layout
from seer.interop.models import load_model
from seer.interop.native import save_backbone
from seer.interop.spec import check_export

HOW_TO_LOAD = {
    "safetensors": lambda backbone: (
        "from seer.interop.models import load_model; model = load_model(PATH).backbone"
    ),
    "torchvision": torchvision.how_to_load,
    "timm": timm.how_to_load,
}
TOLERANCE = 1e-4


def export(model_spec: str, to: str, out: Path | str) -> dict[str, Any]:
    """Write the backbone of `model_spec` to the safetensors file `out` in the names of the library
    `to`.

    The file appears only after it has been loaded by that library and has given the same features
    as ours.

    Returns:
        `out`, `to`, `model`, `architecture`, `parameters`, `max_abs_diff` (of features of random images), and
        `how_to_load` (Python; also in the file's metadata).

    Raises:
        InputError: unknown model or library, a library that cannot express this backbone, an unwritable `out`.
        RuntimeError: the other library's features differ by more than 1e-4 of the largest.
    """
    out = Path(out)
    check_export(model_spec, to, out)
    outputs.check_writable(out, "--out")
    model = load_model(model_spec)
    backbone = model.backbone
    assert isinstance(backbone, Backbone)
    state = backbone.state_dict()
    about = {"config_hash": model.config_hash, "label": model.label}
    if to != "safetensors":
        _check_expressible(backbone, to)
        state = layout(to, backbone).to_theirs(state)
        about["library"] = to
    recipe = HOW_TO_LOAD[to](backbone)
    about["how_to_load"] = _at(recipe, out)
    beside = out.with_name(f".{out.stem}.tmp.safetensors")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_backbone(beside, state, backbone.config, model.size, model.mean, model.std, about)
        difference = _compare(backbone, _run(_at(recipe, beside)), to)
        beside.replace(out)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"--out {out}: cannot be written: {' '.join(str(error).split())}"
        ) from error
    finally:
        with suppress(OSError):
            beside.unlink()
    return {
        "out": str(out),
        "to": to,
        "model": model.label,
        "architecture": backbone.config.name,
        "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
        "max_abs_diff": difference,
        "how_to_load": about["how_to_load"],
    }


def _check_expressible(backbone: Backbone, library: str) -> None:
    """timm and torchvision fix the width of a ResNet's stem."""
    if isinstance(backbone, ResNet) and backbone.spec.width != 1:
        raise InputError(
            f"--to {library}: it has no {backbone.config.name}, with every layer {backbone.spec.width}x wide; "
            "export --to safetensors, which seer itself reads"
        )


def _at(recipe: str, path: Path) -> str:
    return recipe.replace("PATH", repr(str(path)))


def _run(recipe: str) -> nn.Module:
    """Follow the instructions that the user will be given, to the letter: what we print is what we
    have checked.
    """
    scope: dict[str, Any] = {}
    exec(recipe, scope)
    return scope["model"].eval()


@torch.inference_mode()
def _compare(ours: nn.Module, theirs: nn.Module, library: str) -> float:
    """The largest absolute difference between two networks' features of random images."""
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    expected = ours.eval()(images)
    got = theirs(images)
    difference = (expected - got).abs().max().item()
    # Untrained networks have features of any size, so the tolerance is relative once they are
    # large.
    if not difference <= TOLERANCE * max(1.0, expected.abs().max().item()):
        raise RuntimeError(
            f"{library} computes other features from the exported file: they differ by {difference:.3g}"
        )
    return difference
