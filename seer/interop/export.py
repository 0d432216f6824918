"""Writing a backbone for another library, and proving on what was written that it computes the same
there.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from seer import outputs
from seer.backbones.base import Backbone
from seer.backbones.resnet import ResNet
from seer.errors import InputError, quoted
from seer.interop import onnx, timm, torchvision, transformers
from seer.interop.layouts import layout
from seer.interop.models import load_model
from seer.interop.native import save_backbone
from seer.interop.spec import NAMINGS, TARGETS, check_export

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Writer:
    """How a backbone is written for a library.

    Attributes:
        how_to_load: Python that loads it as `model` from PATH.
        write: writes it to a path that is free, with `size`, `mean` and `std` of the images, and what else is to be
            noted.
        features: those that `model` computes of images.
        how_to_finetune: what gives `model` a classifier of CLASSES, or the verb that trains PATH; else "".
    """

    how_to_load: Callable[[Backbone], str]
    write: Callable[..., None]
    features: Callable[[Any, Tensor], Tensor]
    how_to_finetune: Callable[[Backbone], str] = lambda _: ""


def _write_safetensors(
    library: str,
    path: Path,
    backbone: Backbone,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    about: Mapping[str, Any],
) -> None:
    state = backbone.state_dict()
    if library:
        state = layout(library, backbone).to_theirs(state)
        about = {**about, "library": library}
    save_backbone(path, state, backbone.config, size, mean, std, about)


def _safetensors(
    library: str,
    how_to_load: Callable[[Backbone], str],
    how_to_finetune: Callable[[Backbone], str],
) -> Writer:
    write = partial(_write_safetensors, library)
    return Writer(how_to_load, write, _of_network, how_to_finetune)


def _of_network(model: nn.Module, images: Tensor) -> Tensor:
    return model(images)


OURS = "from seer.interop.models import load_model; model = load_model(PATH).backbone"
TRAINING = "seer eval finetune --model PATH --data LABELLED"
WRITERS = {
    "safetensors": _safetensors("", lambda _: OURS, lambda _: TRAINING),
    "torchvision": _safetensors(
        "torchvision", torchvision.how_to_load, torchvision.how_to_finetune
    ),
    "timm": _safetensors("timm", timm.how_to_load, timm.how_to_finetune),
    "transformers": Writer(transformers.how_to_load, transformers.write, transformers.features),
    "onnx": Writer(onnx.how_to_load, onnx.write, onnx.features),
}


def export(model_spec: str, to: str, out: Path | str) -> dict[str, Any]:
    """Write the backbone of `model_spec` to `out`, as `to` will have it: a file, for transformers a
    folder.

    It appears only after it has been loaded by that library and has given the same features as
    ours.

    Returns:
        `out`, `to`, `model`, `architecture`, `parameters`, `input` (what its images must be), `max_abs_diff` (of
        features of random images), `how_to_load` (Python; also in the file's metadata), and `how_to_finetune` (what
        follows it, with CLASSES for their number), where it is known.

    Raises:
        InputError: unknown model or library, a library that cannot express this backbone, an unwritable `out`.
        RuntimeError: the other library's features differ by more than 1e-4 of the largest.
    """
    out = Path(out)
    check_export(model_spec, to, out)
    outputs.check_writable(out if TARGETS[to] else out / "config.json", "--out")
    target = WRITERS[to]
    model = load_model(model_spec)
    backbone = model.backbone
    if not isinstance(backbone, Backbone):
        raise InputError(
            f"{model_spec}: its network is another library's ({backbone.name}); its newest checkpoint's "
            "backbone.safetensors is a MODEL of its own"
        )
    _check_expressible(backbone, to)
    recipe = target.how_to_load(backbone)
    about = {
        "config_hash": model.config_hash,
        "label": model.label,
        "how_to_load": _at(recipe, out),
    }
    beside = out.with_name(f".{out.name}.tmp")
    try:
        shutil.rmtree(beside, ignore_errors=True)  # of an export that was killed
        beside.mkdir(parents=True)
        written = beside / out.name
        target.write(written, backbone, model.size, model.mean, model.std, about)
        loaded = _run(_at(recipe, written))
        difference = _compare(backbone, lambda images: target.features(loaded, images), to)
        for part in beside.iterdir():
            part.replace(out.with_name(part.name))
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"--out {out}: cannot be written: {' '.join(str(error).split())}"
        ) from error
    finally:
        with suppress(OSError):
            shutil.rmtree(beside)
    summary = {
        "out": str(out),
        "to": to,
        "model": model.label,
        "architecture": backbone.config.name,
        "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
        "input": f"{model.size} px, RGB from 0 to 1, less {model.mean}, by {model.std}",
        "max_abs_diff": difference,
        "how_to_load": about["how_to_load"],
    }
    if finetuning := target.how_to_finetune(backbone):
        summary["how_to_finetune"] = finetuning.replace("PATH", quoted(out))
    return summary


def _check_expressible(backbone: Backbone, library: str) -> None:
    """A library may have no such family of networks; timm and torchvision fix the width of a ResNet's
    stem.
    """
    if library in NAMINGS:
        layout(library, backbone)
    fixed = library in ("timm", "torchvision")
    if fixed and isinstance(backbone, ResNet) and backbone.spec.width != 1:
        raise InputError(
            f"--to {library}: it has no {backbone.config.name}, with every layer {backbone.spec.width}x wide; "
            "export --to safetensors, which seer itself reads"
        )


def _at(recipe: str, path: Path) -> str:
    return recipe.replace("PATH", repr(str(path)))


def _run(recipe: str) -> Any:
    """Follow the instructions that the user will be given, to the letter: what we print is what we
    have checked.
    """
    scope: dict[str, Any] = {}
    exec(recipe, scope)
    model = scope["model"]
    return model.eval() if isinstance(model, nn.Module) else model


@torch.inference_mode()
def _compare(ours: nn.Module, theirs: Callable[[Tensor], Tensor], library: str) -> float:
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
